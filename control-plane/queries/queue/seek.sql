-- Sets the cursors of some partitions of a queue. What waits or is admitted in these partitions is dropped,
-- and so are dead records from the new cursor on. The leases were ended before, by end_leases.sql.
-- Takes: $1 queue_id (int8);
--   one element each per partition: $2 partition_id (int8[]), $3 at (int8[], where its cursor goes);
--   $4 leased (int8, records that were leased in these partitions);
--   $5 leased_below (int8, how many of these lie below the new cursors);
--   $6 tenant_id (text).
-- Returns: one row: how many records that were not settled the cursors now pass over, without those that were
--   leased; no row when the queue is not the tenant's.
-- Locks: cursors, waiting runs, admitted records, keys, dead records, the counts that belong to no agent; the
--   caller holds the queue's flow.
-- Index: queue_pkey, queue_cursor_pkey, waiting_pkey, admitted_pkey, queue_key_pkey, dead_pkey,
--   queue_agent_pkey.
with own as materialized (
    select q.queue_id, q.keyed from queue q where q.queue_id = $1 and q.tenant_id || '' = $6
),
target as materialized (select * from unnest($2::int8[], $3::int8[]) as u(partition_id, at)),
at as materialized (
    select c.partition_id, c.next_offset from queue_cursor c
    where c.queue_id = (select queue_id from own) and c.partition_id = any ($2)
    order by c.partition_id for update
),
moved as (
    update queue_cursor c set next_offset = t.at from target t join at a on a.partition_id = t.partition_id
    where c.queue_id = $1 and c.partition_id = t.partition_id
    returning t.at - a.next_offset as records
),
runs as (
    delete from waiting w
    where w.partition_id = any ($2) and w.queue_id + 0 = (select queue_id from own)
    returning w.partition_id, w.lo, w.hi
),
unlisted as (
    delete from admitted a
    where a.queue_id = (select queue_id from own) and a.partition_id = any ($2)
    returning a.partition_id, a.record_offset
),
keys as (
    delete from queue_key k where k.queue_id = (select queue_id from own) and k.partition_id = any ($2)
),
buried as (
    delete from dead d using target t
    where d.queue_id = (select queue_id from own) and d.partition_id = t.partition_id
        and d.record_offset >= t.at
    returning 1
),
-- What was dropped, and how much of it lay below the new cursors.
total as materialized (
    select own.keyed,
        (select coalesce(sum(records), 0)::int8 from moved) as moved,
        (select coalesce(sum(records), 0)::int8 from moved where records > 0) as over,
        (select coalesce(sum(hi - lo), 0)::int8 from runs) as runs,
        (
            select coalesce(sum(greatest(least(r.hi, t.at) - r.lo, 0)), 0)::int8
            from runs r
            join target t on t.partition_id = r.partition_id
        ) as runs_below,
        (select count(*) from unlisted) as admitted,
        (
            select count(*)
            from unlisted u
            join target t on t.partition_id = u.partition_id
            where u.record_offset < t.at
        ) as admitted_below,
        (select count(*) from buried) as dead
    from own
),
-- The nil id stands for no agent in particular.
noted as (
    insert into queue_agent as a (queue_id, agent_id, dead, waiting, purged, rated_at)
    select $1, '00000000-0000-0000-0000-000000000000', -t.dead,
        -case when t.keyed then t.admitted - $4::int8 else t.runs end,
        t.moved + t.dead + case when t.keyed then t.admitted else t.runs + $4 end, clock_timestamp()
    from total t
    on conflict (queue_id, agent_id) do update set dead = a.dead + excluded.dead,
        waiting = a.waiting + excluded.waiting, purged = a.purged + excluded.purged
)
select t.over + case when t.keyed then t.admitted_below - $5::int8 else t.runs_below end as "passed!"
from total t
