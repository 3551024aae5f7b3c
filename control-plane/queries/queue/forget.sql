-- Deletes stored settlements that have expired, and the rows of deleted queues. The counts of agents that
-- have been silent for a day are added to the counts that belong to no agent.
-- Takes: $1 limit (int8, rows of each kind that are deleted at most).
-- Returns: how many rows that were, but for cursors, counts and flow, which go with their queue.
-- Locks: what it deletes, passing over operations, leases and counts that others hold.
-- Index: queue_operation_expires, queue_deleted, waiting_due, dead_pkey, admitted_pkey, queue_key_pkey,
--   queue_cursor_pkey, queue_agent_pkey, queue_flow_pkey, queue_pkey; the leases are scanned.
with o as (
    delete from queue_operation where ctid = any (array(
        select ctid from queue_operation
        where expires_at <= (select clock_timestamp())
        order by expires_at limit $1 for update skip locked
    )) returning 1
),
ended as materialized (select queue_id from queue where deleted_at is not null order by deleted_at limit 100),
l as (
    delete from lease where ctid = any (array(
        select x.ctid from lease x
        where x.queue_id in (select queue_id from ended) limit $1 for update skip locked
    )) returning 1
),
w as (
    delete from waiting where ctid = any (array(
        select x.ctid
        from ended e
        cross join lateral (select y.ctid from waiting y where y.queue_id = e.queue_id limit $1) x limit $1
    )) returning 1
),
d as (
    delete from dead where ctid = any (array(
        select x.ctid
        from ended e
        cross join lateral (select y.ctid from dead y where y.queue_id = e.queue_id limit $1) x limit $1
    )) returning 1
),
a as (
    delete from admitted where ctid = any (array(
        select x.ctid
        from ended e
        cross join lateral (select y.ctid from admitted y where y.queue_id = e.queue_id limit $1) x limit $1
    )) returning 1
),
k as (
    delete from queue_key where ctid = any (array(
        select x.ctid
        from ended e
        cross join lateral (select y.ctid from queue_key y where y.queue_id = e.queue_id limit $1) x limit $1
    )) returning 1
),
-- Deleted queues of which all other rows are gone.
bare as materialized (
    select e.queue_id from ended e
    where not exists (select from lease x where x.queue_id = e.queue_id)
        and not exists (select from waiting x where x.queue_id = e.queue_id)
        and not exists (select from dead x where x.queue_id = e.queue_id)
        and not exists (select from admitted x where x.queue_id = e.queue_id)
        and not exists (select from queue_key x where x.queue_id = e.queue_id)
),
c as (delete from queue_cursor where queue_id = any (array(select queue_id from bare)) returning 1),
g as (delete from queue_agent where queue_id = any (array(select queue_id from bare)) returning 1),
f as (delete from queue_flow where queue_id = any (array(select queue_id from bare)) returning 1),
q as (delete from queue where queue_id = any (array(select queue_id from bare)) returning 1),
-- Agents that are gone, by their counts. The nil id stands for no agent: the counts that gone agents leave
-- are kept there.
silent as materialized (
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
select (select count(*) from o) + (select count(*) from l) + (select count(*) from w)
    + (select count(*) from d) + (select count(*) from a) + (select count(*) from k)
    + (select count(*) from q) + (select count(*) from folded) as "rows!"
