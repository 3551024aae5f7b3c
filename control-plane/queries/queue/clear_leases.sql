-- A step of a seek: ends leases of some partitions of a queue. It has to be sent until it sees none: a
-- settlement that was under way may have moved renewed records to lease parts that this statement's snapshot
-- does not show. New leases are not made meanwhile.
-- Takes: $1 queue_id (int8); $2 turn (int8, of the queue's flow);
--   one element each per partition: $3 partition_id (int8[]), $4 target (int8[], where its cursor goes);
--   $5 limit (int8, lease parts).
-- Returns: one row: the new turn, and how many lease parts it saw. No row, and nothing is done, when the flow
--   has another turn or is locked.
-- Locks: the queue's flow, unless others hold it; the lease parts, by lease and part; in keyed queues their
--   admitted records; the counts that belong to no agent.
-- Index: queue_flow_pkey, queue_pkey, lease_pkey, admitted_pkey, queue_agent_pkey; the leases, which are few,
--   are scanned.
with held as materialized (
    select f.queue_id, f.turn from queue_flow f
    where f.queue_id = $1 and f.turn = $2 and f.clearing for no key update skip locked
),
target as materialized (select * from unnest($3::int8[], $4::int8[]) as u(partition_id, at)),
seen as materialized (
    select l.lease_id, l.part from held h cross join lease l
    where l.queue_id = $1 and l.partition_id = any ($3)
    limit $5
),
locked as materialized (
    select l.lease_id, l.part from seen s
    join lease l on l.lease_id = s.lease_id and l.part = s.part
    where l.queue_id = $1
    order by l.lease_id, l.part for update of l
),
gone as (
    delete from lease l using locked k
    where l.lease_id = any (array(select lease_id from locked)) and l.lease_id = k.lease_id
        and l.part = k.part
    returning l.partition_id, l.pending
),
-- Keyed queues: what is leased is admitted as well, and is counted as leased.
unlisted as (
    delete from admitted a using (
        select g.partition_id, o as record_offset
        from gone g
        cross join lateral unnest(g.pending) r
        cross join lateral generate_series(lower(r), upper(r) - 1) o
        where (select q.keyed from queue q where q.queue_id = $1)
    ) x
    where a.queue_id = $1 and a.partition_id = x.partition_id and a.record_offset = x.record_offset
),
total as materialized (
    select coalesce(sum(upper(r) - lower(r)), 0)::int8 as records,
        coalesce(sum(greatest(least(upper(r), t.at) - lower(r), 0)), 0)::int8 as below
    from gone g cross join lateral unnest(g.pending) r join target t on t.partition_id = g.partition_id
),
-- The nil id stands for no agent in particular.
noted as (
    insert into queue_agent as a (queue_id, agent_id, purged, rated_at)
    select $1, '00000000-0000-0000-0000-000000000000', t.records, clock_timestamp()
    from total t where t.records > 0
    on conflict (queue_id, agent_id) do update set purged = a.purged + excluded.purged
),
turned as (
    update queue_flow f set turn = f.turn + 1, skipped = f.skipped + t.below
    from held h, total t where f.queue_id = h.queue_id
)
select h.turn + 1 as "turn!", (select count(*) from seen) as "seen!" from held h
