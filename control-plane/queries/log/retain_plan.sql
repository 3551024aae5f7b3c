-- Finds what retention may unlink of the topics that are due: of each partition the oldest batches that are
-- past the age or size limit of their topic, and all batches of deleted topics. A partition loses batches
-- only from its beginning, so no holes arise. By size, the oldest batches of a topic go first, whatever their
-- partition, as long as what stays is not less than the limit. Records that a queue of the topic still has to
-- process or holds as dead, and all above them, are kept longer: by age for the hold time beyond the
-- retention time, by size until they are as old as the hold time.
-- Of each topic the time is noted at which it may have more to unlink: when its oldest batch comes of age,
-- and at once where something goes now, or size or a queue decides. To be called until `more` is false.
-- Takes: $1 begun_us (int8, `begun_us` of the first of several calls that belong together, in microseconds
--     since 1970, null in that first one: of topics that were visited since then, only those of which more
--     may go are visited again).
-- Returns: a row per partition that loses batches, by id: it loses those that end at or below `until`; one
--   row without a partition if there is none. `more`: some topic was due, so that others may be.
-- Locks: the topics that were due.
-- Index: topic_retain_at, topic_partition_number, batch_pkey, queue_topic, queue_cursor_pkey, waiting_pkey,
--   admitted_pkey, dead_pkey; of topics with a queue and with something to unlink, the leases are scanned.
with clock as materialized (select clock_timestamp() as now),
at as materialized (
    select now, coalesce('epoch'::timestamptz + $1::int8 * interval '1 microsecond', now) as begun from clock
),
-- Topics that are due, the oldest first, 10,000 partitions of them or one topic. `RETENTION_MAX_MS` bounds
-- the limits, since instants cannot lie before the calendar.
due as materialized (
    select x.* from (
        select d.*, sum(d.partitions) over (order by d.retain_at, d.topic_id) as upto
        from (
            select t.topic_id, t.retain_at, t.deleted_at is not null as ended, t.retention_bytes,
                least(t.retention_ms, 3200000000000) as retention_ms,
                least(t.retention_hold_ms, 3200000000000) as hold_ms, t.retention_hold_ms, t.deleted_at,
                coalesce((
                    select p.number + 1 from topic_partition p
                    where p.topic_id = t.topic_id
                    order by p.number desc limit 1
                ), 0) as partitions
            from topic t
            where t.retain_at < (select begun from at)
            order by t.retain_at, t.topic_id limit 256
        ) d
    ) x
    where x.upto <= 10000 or x.upto = x.partitions
),
part as materialized (
    select p.partition_id, p.bytes, p.deleted, d.topic_id, d.ended, d.retention_ms, d.retention_bytes,
        d.hold_ms
    from due d
    cross join lateral (
        select x.partition_id, x.bytes, x.deleted from topic_partition x
        where x.topic_id = d.topic_id
        offset 0
    ) p
),
-- The oldest batch of each partition.
head as materialized (
    select p.*, b.committed_at,
        row_number() over (partition by p.topic_id order by b.committed_at, p.partition_id) as nth
    from part p
    cross join lateral (
        select x.committed_at from batch x
        where x.partition_id = p.partition_id
        order by x.base_offset limit 1
    ) b
),
heavy as materialized (
    select topic_id, sum(bytes)::int8 - retention_bytes as over_bytes from part
    where retention_bytes is not null
    group by topic_id, retention_bytes having sum(bytes) > retention_bytes
),
-- Partitions that may lose something. By size, of very many partitions the 1,024 with the oldest batches are
-- looked at, up to where the others begin.
candidate as materialized (
    select h.*, v.over_bytes, v.topic_id is not null and h.nth <= 1024 as by_size,
        (
            select o.committed_at from head o
            where v.topic_id is not null and o.topic_id = h.topic_id and o.nth = 1025
        ) as rest_from
    from head h
    left join heavy v on v.topic_id = h.topic_id, at
    where h.deleted or h.committed_at < at.now - h.retention_ms * interval '1 ms'
        or (v.topic_id is not null and h.nth <= 1024)
),
queued as materialized (
    select q.queue_id, q.topic_id from queue q
    where q.topic_id = any (array(select topic_id from candidate where not deleted)) and q.deleted_at is null
),
leased as materialized (
    select l.queue_id, l.partition_id, min(lower(l.pending)) as lowest from lease l
    where (select count(*) from queued) > 0 and l.queue_id = any (array(select queue_id from queued))
    group by l.queue_id, l.partition_id
),
-- The first offset of each partition that some queue still needs.
wanted as materialized (
    select l.partition_id, min(least(
        c.next_offset,
        e.lowest,
        (
            select x.lo from waiting x
            where x.partition_id = l.partition_id and x.queue_id + 0 = q.queue_id
            order by x.lo limit 1
        ),
        (
            select x.record_offset from admitted x
            where x.queue_id = q.queue_id and x.partition_id = l.partition_id
            order by x.record_offset limit 1
        ),
        (
            select x.record_offset from dead x
            where x.queue_id = q.queue_id and x.partition_id = l.partition_id
            order by x.record_offset limit 1
        )
    )) as from_offset
    from queued q
    join candidate l on l.topic_id = q.topic_id and not l.deleted
    cross join lateral (
        select x.next_offset from queue_cursor x
        where x.queue_id = q.queue_id and x.partition_id = l.partition_id limit 1
    ) c
    left join leased e on e.queue_id = q.queue_id and e.partition_id = l.partition_id
    group by l.partition_id
),
-- The oldest batches of these partitions, 8,192 together; those that a queue needs are kept longer.
batches as materialized (
    select c.partition_id, c.topic_id, c.deleted, c.retention_ms, c.over_bytes, c.by_size, c.rest_from,
        b.base_offset, b.base_offset + b.records as ends, b.committed_at, b.byte_length,
        case when b.base_offset + b.records > w.from_offset then c.hold_ms else 0 end as longer_ms
    from candidate c
    left join wanted w on w.partition_id = c.partition_id
    cross join lateral (
        select x.base_offset, x.records, x.committed_at, x.byte_length from batch x
        where x.partition_id = c.partition_id
        order by x.base_offset limit (select greatest(8192 / greatest(count(*), 1), 1) from candidate)
    ) b
),
-- Up to where the batches of a topic are known: what lies behind is newer.
known as materialized (
    select topic_id, min(last_at) as upto from (
        select topic_id, max(committed_at) as last_at from batches
        where by_size
        group by topic_id, partition_id
        having count(*) >= (select greatest(8192 / greatest(count(*), 1), 1) from candidate)
    ) x
    group by topic_id
),
judged as materialized (
    select x.*,
        x.deleted or x.aged or (x.fits and x.near and x.free) as goes,
        x.fits and not x.near as cut
    from (
        select b.partition_id, b.topic_id, b.base_offset, b.ends, b.deleted,
            coalesce(
                b.committed_at < at.now - (b.retention_ms + b.longer_ms) * interval '1 ms', false
            ) as aged,
            b.by_size and sum(b.byte_length) over (
                partition by b.topic_id order by b.committed_at, b.partition_id, b.base_offset
            ) <= b.over_bytes as fits,
            b.committed_at <= coalesce(b.rest_from, 'infinity')
                and b.committed_at <= coalesce(k.upto, 'infinity') as near,
            b.longer_ms = 0 or b.committed_at < at.now - b.longer_ms * interval '1 ms' as free
        from batches b
        left join known k on k.topic_id = b.topic_id
        cross join at
    ) x
),
-- Each batch goes only if all before it in its partition go.
goal as materialized (
    select j.partition_id, j.topic_id, max(j.ends) as until, count(*) as batches
    from (
        select x.partition_id, x.topic_id, x.ends,
            bool_and(x.goes) over (partition by x.partition_id order by x.base_offset) as goes
        from judged x
    ) j
    where j.goes
    group by j.partition_id, j.topic_id
),
-- Topics of which more may go than was looked at: they stay due for the next call.
partial as materialized (
    select topic_id from goal
    where batches >= (select greatest(8192 / greatest(count(*), 1), 1) from candidate)
    union
    select topic_id from judged where cut and topic_id in (select topic_id from goal)
),
-- The settings are compared, since who changes them makes the topic due again.
noted as (
    update topic t set retain_at = x.next_at
    from (
        select d.topic_id, d.retention_ms, d.retention_bytes, d.retention_hold_ms, d.deleted_at,
            case
                when d.topic_id in (select topic_id from partial) then at.begun - interval '1 microsecond'
                when d.topic_id in (select topic_id from goal) then at.now
                when d.ended and coalesce(p.open, 0) = 0 and h.oldest is null then 'infinity'
                when d.ended or d.retention_bytes is not null then at.now
                else greatest(at.now, least(
                    at.now + interval '1 day',
                    coalesce(h.oldest, at.now) + d.retention_ms * interval '1 ms'
                ))
            end as next_at
        from due d cross join at
        left join (select topic_id, min(committed_at) as oldest from head group by topic_id) h
            on h.topic_id = d.topic_id
        left join (select topic_id, count(*) filter (where not deleted) as open from part group by topic_id) p
            on p.topic_id = d.topic_id
    ) x
    where t.topic_id = x.topic_id and least(t.retention_ms, 3200000000000) is not distinct from x.retention_ms
        and t.retention_bytes is not distinct from x.retention_bytes
        and t.retention_hold_ms = x.retention_hold_ms and t.deleted_at is not distinct from x.deleted_at
)
select g.partition_id as "partition_id?", g.until as "until?",
    (extract(epoch from at.begun) * 1000000)::int8 as "begun_us!", exists (select from due) as "more!"
from at left join goal g on true
order by g.partition_id
