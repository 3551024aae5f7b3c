-- Counts the records of a queue: ready, delayed, waiting for a retry, in flight, dead; and reads its rates
-- and the commit time of its oldest record that was never given out.
-- Takes: $1 queue_id (int8);
--   $2 tenant_id (text).
-- Returns: one row, or none when the tenant has no such queue.
-- Locks: nothing.
-- Index: queue_pkey, queue_cursor_pkey, topic_partition_pkey, batch_pkey, queue_agent_pkey, waiting_due,
--   admitted_pkey.
with at as materialized (select clock_timestamp() as now),
own as materialized (
    select queue_id, keyed from queue where queue_id = $1 and tenant_id || '' = $2 and deleted_at is null
),
place as materialized (
    select c.partition_id, c.next_offset, c.start_offset, p.high_watermark
    from own
    join queue_cursor c on c.queue_id = own.queue_id
    join topic_partition p on p.partition_id = c.partition_id
),
-- Settled and waiting records, and the rates, which fade with a time constant of a minute since they were
-- stored.
done as materialized (
    select coalesce(sum(a.acked + a.expired + a.purged + a.dead + a.waiting), 0)::int8 as total,
        coalesce(sum(a.dead), 0)::int8 as dead,
        coalesce(
            sum(
                a.lease_rate
                    * exp(-least(greatest(extract(epoch from at.now - a.rated_at)::float8, 0), 6000) / 60)
            ),
            0
        ) as lease_rate,
        coalesce(
            sum(
                a.settle_rate
                    * exp(-least(greatest(extract(epoch from at.now - a.rated_at)::float8, 0), 6000) / 60)
            ),
            0
        ) as settle_rate
    from at, queue_agent a where a.queue_id = $1
),
runs as materialized (
    select w.partition_id, min(w.lo) filter (where w.attempt = 0 and w.due_at <= at.now) as oldest,
        sum(w.hi - w.lo) as records, coalesce(sum(w.hi - w.lo) filter (where w.due_at <= at.now), 0) as due,
        coalesce(sum(w.hi - w.lo) filter (where w.due_at > at.now and w.attempt = 0), 0) as delayed,
        coalesce(sum(w.hi - w.lo) filter (where w.due_at > at.now and w.attempt > 0), 0) as retrying
    from at, waiting w where w.queue_id = $1 group by w.partition_id
),
-- Keyed queues: leased records, and those that wait for a retry, are admitted too, and count as due here; the
-- last step takes them off.
listed as materialized (
    select count(*) filter (where coalesce(a.due_at, '-infinity') <= at.now) as due,
        count(*) filter (where a.due_at > at.now and a.attempt = 0) as delayed,
        count(*) filter (where a.due_at > at.now and a.attempt > 0) as retrying
    from own, at, admitted a where own.keyed and a.queue_id = $1
),
out as materialized (
    select l.partition_id, o as record_offset
    from own
    join lease l on l.queue_id = own.queue_id
    cross join lateral unnest(l.pending) r
    cross join lateral generate_series(lower(r), upper(r) - 1) o
    where own.keyed
    union all
    select w.partition_id, o
    from own
    join waiting w on w.queue_id = own.queue_id
    cross join lateral generate_series(w.lo, w.hi - 1) o
    where own.keyed
),
first_listed as materialized (
    select a.partition_id, min(a.record_offset) as oldest
    from own, at, admitted a
    where own.keyed and a.queue_id = $1 and a.attempt = 0 and coalesce(a.due_at, '-infinity') <= at.now
        and not exists (
            select from out o where o.partition_id = a.partition_id and o.record_offset = a.record_offset
        )
    group by a.partition_id
),
total as materialized (
    select (select coalesce(sum(high_watermark - next_offset), 0)::int8 from place) as fresh,
        (select coalesce(sum(next_offset - start_offset), 0)::int8 from place) as passed,
        coalesce(sum(records), 0)::int8 as waiting, coalesce(sum(due), 0)::int8 as due,
        coalesce(sum(delayed), 0)::int8 as delayed,
        coalesce(sum(retrying), 0)::int8 as retrying
    from runs
),
oldest as materialized (
    select min(b.committed_at) as at
    from (
        select partition_id, next_offset as from_offset from place
        union all select partition_id, oldest from runs where oldest is not null
        union all select partition_id, oldest from first_listed
    ) x
    cross join lateral (
        select y.committed_at from batch y
        where y.partition_id = x.partition_id and y.base_offset + y.records > x.from_offset
            and y.base_offset >= coalesce((
                select z.base_offset from batch z
                where z.partition_id = x.partition_id and z.base_offset <= x.from_offset
                order by z.base_offset desc limit 1
            ), 0)
        order by y.base_offset limit 1
    ) b
)
select t.fresh + t.due
        + case when own.keyed then l.due - (t.passed - d.total) - t.waiting else 0 end as "ready!",
    t.delayed + l.delayed as "delayed!", t.retrying + l.retrying as "retrying!",
    t.passed - d.total as "in_flight!", d.dead as "dead!",
    (extract(epoch from o.at) * 1000)::int8 as "oldest_ms?", d.lease_rate as "lease_rate!",
    d.settle_rate as "settle_rate!"
from own, total t, done d, listed l, oldest o
