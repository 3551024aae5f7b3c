-- Adds the counts of agents that have been silent for a day to the counts that belong to no agent.
-- Takes: $1 limit (int8, rows of agents that are folded at most).
-- Returns: how many rows that were.
-- Locks: these rows, passing over what others hold, then the counts that belong to no agent, by queue.
-- Index: queue_pkey, queue_agent_pkey; the counts are scanned.
-- The nil id stands for no agent: the counts that gone agents leave are kept there.
with silent as materialized (
    select x.ctid as id from queue_agent x join queue y on y.queue_id = x.queue_id and y.deleted_at is null
    where x.agent_id <> '00000000-0000-0000-0000-000000000000'
        and x.rated_at < (select clock_timestamp()) - interval '1 day'
    order by x.queue_id, x.agent_id limit $1 for update of x skip locked
),
folded as (
    delete from queue_agent
    where ctid = any (array(select id from silent))
    returning queue_id, acked, expired, purged, dead, waiting
),
added as (
    insert into queue_agent as x (queue_id, agent_id, acked, expired, purged, dead, waiting, rated_at)
    select z.queue_id, '00000000-0000-0000-0000-000000000000', sum(z.acked)::int8, sum(z.expired)::int8,
        sum(z.purged)::int8, sum(z.dead)::int8, sum(z.waiting)::int8, clock_timestamp()
    from folded z group by z.queue_id order by z.queue_id
    on conflict (queue_id, agent_id) do update set acked = x.acked + excluded.acked,
        expired = x.expired + excluded.expired, purged = x.purged + excluded.purged,
        dead = x.dead + excluded.dead, waiting = x.waiting + excluded.waiting
)
select count(*) as "rows!" from folded
