-- Counts the records of queues: ready, delayed, waiting for a retry, in flight, dead; and reads their rates
-- and the commit time of the oldest record that can be leased. All but the split of those that wait comes
-- from counters; the split is exact where all rows that are due, or all that are not, could be read, else
-- estimated from how densely they lie in time. Some 10 ms with a million rows.
-- Takes: $1 queue_ids (int8[]);
--   $2 tenant_id (text);
--   $3 rows_max (int8): as long as no more records wait, all their rows are read; else so many in all.
-- Returns: a row per queue that is the tenant's.
-- Locks: nothing.
-- Index: queue_pkey, queue_cursor_pkey, topic_partition_pkey, batch_pkey, queue_agent_pkey, waiting_due,
--   admitted_due, admitted_pkey, queue_key_pkey.
with at as materialized (select clock_timestamp() as now),
own as materialized (
    select q.queue_id, q.keyed, case
        when (select sum(a.waiting) from queue_agent a where a.queue_id = q.queue_id) > $3::int8 then $3 / 4
        else $3 + 1
    end as room
    from unnest($1::int8[]) u (queue_id)
    join queue q on q.queue_id = u.queue_id
    where q.tenant_id || '' = $2 and q.deleted_at is null
),
place as materialized (
    select c.queue_id, c.partition_id, c.next_offset, c.start_offset, p.high_watermark, own.keyed
    from own
    join queue_cursor c on c.queue_id = own.queue_id
    join topic_partition p on p.partition_id = c.partition_id
),
-- Rates fade with a time constant of a minute since they were stored.
done as materialized (
    select a.queue_id, sum(a.acked + a.expired + a.purged + a.dead + a.waiting)::int8 as total,
        sum(a.dead)::int8 as dead, sum(a.waiting)::int8 as waiting,
        sum(
            a.lease_rate
                * exp(-least(greatest(extract(epoch from at.now - a.rated_at)::float8, 0), 6000) / 60)
        ) as lease_rate,
        sum(
            a.settle_rate
                * exp(-least(greatest(extract(epoch from at.now - a.rated_at)::float8, 0), 6000) / 60)
        ) as settle_rate
    from at, own join queue_agent a on a.queue_id = own.queue_id
    group by a.queue_id
),
-- Rows that are not due yet, from now on. Kind 0 and 1: runs; 2: admitted records of keyed queues, whose
-- other rows there are the leased ones and those that a run names too.
later as materialized (
    select x.queue_id, x.kind, count(*) < x.room as whole,
        sum(x.records) filter (where x.attempt = 0) as delayed,
        sum(x.records) filter (where x.attempt > 0) as retrying, max(x.due_at) as upto
    from (
        select own.queue_id, own.room, 0 as kind, w.* from own cross join at
        cross join lateral (
            select w.due_at, w.hi - w.lo as records, w.attempt from waiting w
            where w.queue_id = own.queue_id and not w.alone and w.due_at > at.now
            order by w.due_at limit own.room
        ) w
        union all
        select own.queue_id, own.room, 1, w.* from own cross join at
        cross join lateral (
            select w.due_at, w.hi - w.lo as records, w.attempt from waiting w
            where w.queue_id = own.queue_id and w.alone and w.due_at > at.now
            order by w.due_at limit own.room
        ) w
        union all
        select own.queue_id, own.room, 2, a.* from own cross join at
        cross join lateral (
            select a.due_at, 1::int8 as records, a.attempt from admitted a
            where a.queue_id = own.queue_id and a.due_at > at.now
            order by a.due_at limit own.room
        ) a
        where own.keyed
    ) x
    group by x.queue_id, x.kind, x.room
),
later_size as materialized (
    select l.queue_id, bool_and(l.whole) as whole, sum(coalesce(l.delayed, 0) * f.factor) as delayed,
        sum(coalesce(l.retrying, 0) * f.factor) as retrying
    from at, later l
    cross join lateral (
        select case when l.whole then 1 else greatest(least(
            extract(epoch from greatest(
                case when l.kind = 2 then (
                    select a.due_at from admitted a where a.queue_id = l.queue_id and a.due_at is not null
                    order by a.due_at desc limit 1
                ) else (
                    select w.due_at from waiting w where w.queue_id = l.queue_id and w.alone = (l.kind = 1)
                    order by w.due_at desc limit 1
                ) end, l.upto) - at.now)::float8
                / greatest(extract(epoch from l.upto - at.now)::float8, 0.000001),
            1e6), 1) end as factor
    ) f
    group by l.queue_id
),
due as materialized (
    select x.queue_id, x.room, x.alone, x.partition_id, count(*) as n, sum(x.records) as records,
        min(x.lo) as oldest, min(x.due_at) as since, max(x.due_at) as upto
    from (
        select own.queue_id, own.room, false as alone, w.* from own cross join at
        cross join lateral (
            select w.partition_id, w.lo, w.due_at, w.hi - w.lo as records from waiting w
            where w.queue_id = own.queue_id and not w.alone and w.due_at <= at.now
            order by w.due_at limit own.room
        ) w
        union all
        select own.queue_id, own.room, true, w.* from own cross join at
        cross join lateral (
            select w.partition_id, w.lo, w.due_at, w.hi - w.lo as records from waiting w
            where w.queue_id = own.queue_id and w.alone and w.due_at <= at.now
            order by w.due_at limit own.room
        ) w
    ) x
    group by x.queue_id, x.room, x.alone, x.partition_id
),
due_size as materialized (
    select d.queue_id, bool_and(d.whole) as whole, sum(d.records) as read,
        sum(d.records * case when d.whole then 1 else greatest(least(
            extract(epoch from at.now - d.since)::float8
                / greatest(extract(epoch from d.upto - d.since)::float8, 0.000001),
            1e6), 1) end) as records
    from at, (
        select queue_id, sum(n) < room as whole, sum(records) as records, min(since) as since,
            max(upto) as upto
        from due group by queue_id, alone, room
    ) d
    group by d.queue_id
),
-- Keyed queues: of each partition the first admitted record that is due and whose key is free, among so many.
head as materialized (
    select p.queue_id, p.partition_id, min(a.record_offset) filter (where a.free) as oldest,
        count(*) = room.n and not bool_or(a.free) as more
    from (select greatest($3 / greatest(count(*), 1), 10) as n from place) room
    cross join place p
    cross join at
    cross join lateral (
        select a.record_offset, coalesce(a.due_at <= at.now, true) and not exists (
            select from queue_key k
            where k.queue_id = a.queue_id and k.partition_id = a.partition_id and k.key_hash = a.key_hash
                and k.taken
        ) as free
        from admitted a
        where a.queue_id = p.queue_id and a.partition_id = p.partition_id
        order by a.record_offset limit room.n
    ) a
    where p.keyed
    group by p.queue_id, p.partition_id, room.n
),
oldest as materialized (
    select x.queue_id, min(b.committed_at) as at
    from (
        select queue_id, partition_id, next_offset as from_offset from place
        where next_offset < high_watermark
        union all select queue_id, partition_id, min(oldest) from due group by queue_id, partition_id
        union all select queue_id, partition_id, oldest from head where oldest is not null
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
    group by x.queue_id
),
-- `wait`: all that wait; `much` of these are not due, `share` of which were never given out.
sums as materialized (
    select own.queue_id, own.keyed, coalesce(p.fresh, 0) as fresh, coalesce(p.passed, 0) as passed,
        coalesce(d.total, 0) as total, coalesce(d.dead, 0) as dead, coalesce(d.waiting, 0) as wait,
        coalesce(d.lease_rate, 0) as lease_rate, coalesce(d.settle_rate, 0) as settle_rate,
        coalesce(l.whole, true) as later_whole, not own.keyed and coalesce(u.whole, true) as due_whole,
        coalesce(u.whole, true) as runs_whole, coalesce(u.read, 0) as due_read,
        coalesce(l.delayed, 0)::float8 as delayed, coalesce(l.delayed + l.retrying, 0)::float8 as later,
        coalesce(u.records, 0)::float8 as due
    from own
    left join (
        select queue_id, sum(high_watermark - next_offset)::int8 as fresh,
            sum(next_offset - start_offset)::int8 as passed
        from place group by queue_id
    ) p on p.queue_id = own.queue_id
    left join done d on d.queue_id = own.queue_id
    left join later_size l on l.queue_id = own.queue_id
    left join due_size u on u.queue_id = own.queue_id
),
split as materialized (
    select s.*, case
        when s.later_whole then s.later::int8
        when s.due_whole then greatest(s.wait - s.due_read, 0)::int8
        when s.keyed then least(s.wait, s.later)::int8
        else (s.wait * s.later / (s.later + s.due))::int8
    end as much
    from sums s
)
select s.queue_id as "queue_id!", s.fresh + s.wait - s.much as "ready!", f.delayed as "delayed!",
    s.much - f.delayed as "retrying!", s.passed - s.total as "in_flight!", s.dead as "dead!",
    (extract(epoch from o.at) * 1000)::int8 as "oldest_ms?", s.lease_rate as "lease_rate!",
    s.settle_rate as "settle_rate!", s.later_whole as "later_whole!", s.due_whole as "due_whole!",
    s.runs_whole and not exists (select from head h where h.queue_id = s.queue_id and h.more)
        as "oldest_sure!"
from split s
cross join lateral (
    select case when s.later > 0 then (s.much * s.delayed / s.later)::int8 else 0 end as delayed
) f
left join oldest o on o.queue_id = s.queue_id
