-- A step of a seek: deletes what waits or is admitted in some partitions of a queue, and dead records from
-- the targets on. The leases were ended before, by clear_leases.sql. Nobody else touches these rows while the
-- flow has this turn.
-- Takes: $1 queue_id (int8); $2 turn (int8, of the queue's flow); $3 limit (int8, rows of a kind in each
--   partition); one element each per partition: $4 partition_id (int8[]), $5 target (int8[], where its cursor
--   goes), and from where on to look for $6 waiting runs (int8[]), $7 admitted records (int8[]), $8 dead
--   records (int8[]) and $9 keys (int8[]).
-- Returns: a row per partition: the new turn, from where on to look next, and whether there may be more. No
--   row, and nothing is done, when the flow has another turn or is locked.
-- Locks: the queue's flow, unless others hold it; the rows; the counts that belong to no agent.
-- Index: queue_flow_pkey, queue_pkey, waiting_pkey, admitted_pkey, dead_pkey, queue_key_pkey,
--   queue_agent_pkey.
with held as materialized (
    select f.queue_id, f.turn from queue_flow f
    where f.queue_id = $1 and f.turn = $2 and f.clearing for no key update skip locked
),
target as materialized (
    select u.* from held
    cross join unnest($4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[])
        as u(partition_id, at, waiting_from, admitted_from, dead_from, key_from)
),
runs as materialized (
    select t.partition_id, x.id, x.lo, x.hi - x.lo as records, greatest(least(x.hi, t.at) - x.lo, 0) as below
    from target t
    cross join lateral (
        select w.ctid as id, w.lo, w.hi from waiting w
        where w.partition_id = t.partition_id and w.lo >= t.waiting_from and w.queue_id = $1
        order by w.lo limit $3
    ) x
),
listed as materialized (
    select t.partition_id, x.id, x.record_offset, (x.record_offset < t.at)::int4 as below
    from target t
    cross join lateral (
        select a.ctid as id, a.record_offset from admitted a
        where a.queue_id = $1 and a.partition_id = t.partition_id and a.record_offset >= t.admitted_from
        order by a.record_offset limit $3
    ) x
),
buried as materialized (
    select t.partition_id, x.id, x.record_offset
    from target t
    cross join lateral (
        select d.ctid as id, d.record_offset from dead d
        where d.queue_id = $1 and d.partition_id = t.partition_id
            and d.record_offset >= greatest(t.dead_from, t.at)
        order by d.record_offset limit $3
    ) x
),
keys as materialized (
    select t.partition_id, x.id, x.key_hash
    from target t
    cross join lateral (
        select k.ctid as id, k.key_hash from queue_key k
        where k.queue_id = $1 and k.partition_id = t.partition_id and k.key_hash >= t.key_from
        order by k.key_hash limit $3
    ) x
),
runs_gone as (delete from waiting where ctid = any (array(select id from runs))),
listed_gone as (delete from admitted where ctid = any (array(select id from listed))),
buried_gone as (delete from dead where ctid = any (array(select id from buried))),
keys_gone as (delete from queue_key where ctid = any (array(select id from keys))),
run_sums as materialized (
    select partition_id, count(*) as n, max(lo) as last, sum(records)::int8 as records,
        sum(below)::int8 as below
    from runs group by partition_id
),
listed_sums as materialized (
    select partition_id, count(*) as n, max(record_offset) as last, sum(below)::int8 as below
    from listed group by partition_id
),
buried_sums as materialized (
    select partition_id, count(*) as n, max(record_offset) as last from buried group by partition_id
),
key_sums as materialized (
    select partition_id, count(*) as n, max(key_hash) as last from keys group by partition_id
),
-- In keyed queues, records that wait for a retry are admitted as well, and are counted as such.
total as materialized (
    select case when q.keyed then l.records else r.records end as waiting,
        case when q.keyed then l.below else r.below end as below, d.records as dead
    from queue q,
        (select coalesce(sum(records), 0)::int8 as records, coalesce(sum(below), 0)::int8 as below
            from run_sums) r,
        (select coalesce(sum(n), 0)::int8 as records, coalesce(sum(below), 0)::int8 as below
            from listed_sums) l,
        (select coalesce(sum(n), 0)::int8 as records from buried_sums) d
    where q.queue_id = $1
),
-- The nil id stands for no agent in particular.
noted as (
    insert into queue_agent as a (queue_id, agent_id, dead, waiting, purged, rated_at)
    select $1, '00000000-0000-0000-0000-000000000000', -t.dead, -t.waiting, t.waiting + t.dead,
        clock_timestamp()
    from total t where t.waiting + t.dead > 0
    on conflict (queue_id, agent_id) do update set dead = a.dead + excluded.dead,
        waiting = a.waiting + excluded.waiting, purged = a.purged + excluded.purged
),
turned as (
    update queue_flow f set turn = f.turn + 1, skipped = f.skipped + t.below
    from held h, total t where f.queue_id = h.queue_id
)
select h.turn + 1 as "turn!", t.partition_id as "partition_id!",
    coalesce(r.last, t.waiting_from) as "waiting_from!",
    coalesce(l.last, t.admitted_from) as "admitted_from!",
    coalesce(d.last, t.dead_from) as "dead_from!", coalesce(k.last, t.key_from) as "key_from!",
    coalesce(greatest(r.n, l.n, d.n, k.n), 0) >= $3 as "more!"
from held h
cross join target t
left join run_sums r on r.partition_id = t.partition_id
left join listed_sums l on l.partition_id = t.partition_id
left join buried_sums d on d.partition_id = t.partition_id
left join key_sums k on k.partition_id = t.partition_id
