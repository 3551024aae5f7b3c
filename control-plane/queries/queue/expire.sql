-- Ends leases whose deadline has passed. Their records have failed once more: they wait for a retry by the
-- queue's policy, or are dead when they have failed too often. Since one of them may have crashed its worker,
-- a run of n records comes back as runs of half its length, or of one record each when the next failure is
-- the last, and each of these is given out apart from others. Leases of deleted queues just end.
-- Takes: $1 limit (int8, lease parts that are ended at most, oldest deadline first);
--   $2 random (float8, 0 to 1, drawn by the caller, for the jitter of the retry delay).
-- Returns: how many lease parts were ended.
-- Locks: lease parts, passing over those that others hold; then keys by queue, partition and key; then the
--   counts that belong to no agent, by queue.
-- Index: lease_deadline, lease_pkey, queue_pkey, waiting_pkey, dead_pkey, admitted_pkey, queue_key_pkey,
--   queue_key_hash, queue_agent_pkey.
with at as materialized (select date_trunc('milliseconds', clock_timestamp()) as now),
-- Lease parts whose deadline has passed.
late as materialized (
    select l.lease_id, l.part from lease l
    where l.deadline at time zone 'UTC' <= (select now at time zone 'UTC' from at)
    order by l.deadline at time zone 'UTC', l.lease_id, l.part limit $1::int8 for update skip locked
),
gone as (
    delete from lease l using late x
    where l.lease_id = any (array(select lease_id from late)) and x.lease_id = l.lease_id and x.part = l.part
    returning l.queue_id, l.partition_id, l.attempt, l.failures + 1 as failures, l.pending
),
-- Their records by runs, and into how long pieces a run is cut when it comes back.
run as materialized (
    select g.queue_id, g.partition_id, g.attempt, g.failures, lower(x) as lo, upper(x) as hi, q.keyed,
        q.ladder, q.jitter, g.failures >= q.max_failures as dies,
        case when g.failures + 1 >= q.max_failures then 1
            else ceil((upper(x) - lower(x)) / 2.0)::int8 end as step
    from gone g
    join queue q on q.queue_id = g.queue_id and q.deleted_at is null
    cross join lateral unnest(g.pending) x
),
-- Back to the queue. The delay after so many failures is in `ladder`; jitter spreads it (see
-- core/src/retry.rs).
returned as (
    insert into waiting (queue_id, partition_id, lo, hi, due_at, attempt, failures, alone, reason)
    select r.queue_id, r.partition_id, o, least(o + r.step, r.hi),
        at.now + interval '1 ms' * floor(r.ladder[least(r.failures, cardinality(r.ladder))]::float8
            * (1.0::float8 - r.jitter + 2.0::float8 * r.jitter * (u.place - floor(u.place)))),
        r.attempt, r.failures, true, 'lease expired'
    from at cross join run r cross join lateral generate_series(r.lo, r.hi - 1, r.step) o
    cross join lateral (select $2::float8 + (o % 1000000)::float8 * 0.6180339887498949::float8 as place) u
    where not r.dies
),
-- Records that are dead.
over as materialized (
    select r.queue_id, r.partition_id, o as record_offset, r.attempt, r.failures, a.key_hash, a.id
    from run r cross join lateral generate_series(r.lo, r.hi - 1) o
    left join lateral (
        select x.key_hash, x.ctid as id from admitted x
        where r.keyed and x.queue_id = r.queue_id and x.partition_id = r.partition_id and x.record_offset = o
        limit 1
    ) a on true
    where r.dies
),
unlisted as (delete from admitted where ctid = any (array(select id from over where id is not null))),
died as (
    insert into dead (queue_id, partition_id, record_offset, died_at, attempt, failures, key_hash, reason)
    select o.queue_id, o.partition_id, o.record_offset, at.now, o.attempt, o.failures, o.key_hash,
        'lease expired'
    from over o, at
),
-- Their keys, which are free again, or deleted with their last record.
freed as materialized (
    select k.queue_id, k.partition_id, k.key_hash, k.records
    from (
        select distinct queue_id, partition_id, key_hash from over
        where key_hash is not null
        order by queue_id, partition_id, key_hash
    ) l
    cross join lateral (
        select x.queue_id, x.partition_id, x.key_hash, x.records from queue_key x
        where x.queue_id = l.queue_id and x.partition_id = l.partition_id and x.key_hash = l.key_hash limit 1
        for update
    ) k
),
key_ended as (
    delete from queue_key k using freed f
    where k.key_hash + 0 = any (array(select key_hash from freed where records <= 1))
        and f.queue_id = k.queue_id + 0 and f.partition_id = k.partition_id + 0
        and f.key_hash = k.key_hash + 0 and f.records <= 1
),
key_freed as (
    update queue_key k set records = k.records - 1, taken = false, turn = k.turn + 1 from freed f
    where k.key_hash + 0 = any (array(select key_hash from freed where records > 1))
        and f.queue_id = k.queue_id + 0 and f.partition_id = k.partition_id + 0
        and f.key_hash = k.key_hash + 0 and f.records > 1
),
-- Postgres runs steps that change rows and that no other step reads in reverse order. This one reads `freed`,
-- so that its rows are locked last. The nil id stands for no agent in particular.
noted as (
    insert into queue_agent as a (queue_id, agent_id, dead, waiting, rated_at)
    select r.queue_id, '00000000-0000-0000-0000-000000000000',
        coalesce(sum(r.hi - r.lo) filter (where r.dies), 0),
        coalesce(sum(r.hi - r.lo) filter (where not r.dies), 0), at.now
    from run r, at where (select count(*) from freed) >= 0 group by r.queue_id, at.now order by r.queue_id
    on conflict (queue_id, agent_id) do update set dead = a.dead + excluded.dead,
        waiting = a.waiting + excluded.waiting
)
select count(*) as "ended!" from gone
