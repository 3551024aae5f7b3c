-- Enforces retention: unlinks the oldest batches of partitions whose topic limits the age or the size of what
-- it keeps, and all batches of deleted topics. A partition loses batches only from its beginning, so no holes
-- arise. By size, the oldest batches of a topic go first, whatever their partition, as long as what stays is
-- not less than the limit. Records that a queue of the topic still has to process or holds as dead, and all
-- above them, are kept longer: by age for the hold time beyond the retention time, by size until they are as
-- old as the hold time. When more partitions want it than one call takes, chance decides, so that none has to
-- wait for ever.
-- Takes: $1 limit (int8, partitions, and batches, that one call takes at most);
--   $2 plan_ttl_ms (int8, how long an object stays after its last batch was unlinked, for reads planned
--     before that).
-- Returns: how many batches were unlinked.
-- Locks: partitions by id, then batches, then segments by id.
-- Index: topic_pkey, topic_partition_number, batch_pkey, segment_pkey, queue_topic, queue_cursor_pkey,
--   waiting_pkey, admitted_pkey, dead_pkey; the leases are scanned.
with at as materialized (select clock_timestamp() as now),
-- Every partition, with its topic's limits; `RETENTION_MAX_MS` bounds them, since instants cannot lie before
-- the calendar.
held as materialized (
    select p.partition_id, p.topic_id, p.log_start_offset, p.deleted,
        least(t.retention_ms, 3200000000000) as retention_ms,
        least(t.retention_hold_ms, 3200000000000) as hold_ms,
        coalesce(sum(p.bytes) over (partition by p.topic_id) - t.retention_bytes, 0)::int8 as over_bytes
    from topic_partition p join topic t on t.topic_id = p.topic_id
),
-- The oldest batch of each partition, and the size of the topic's oldest, which goes first by size.
oldest as materialized (
    select h.*, b.committed_at,
        first_value(b.byte_length) over (
            partition by h.topic_id order by b.committed_at, h.partition_id
        ) as topic_bytes
    from held h
    cross join lateral (
        select x.committed_at, x.byte_length from batch x
        where x.partition_id = h.partition_id
        order by x.base_offset limit 1
    ) b
),
-- Partitions that have a batch to lose.
wanting as materialized (
    select o.partition_id, o.topic_id, o.log_start_offset, o.deleted, o.retention_ms, o.hold_ms, o.over_bytes
    from oldest o, at
    where o.deleted or o.topic_bytes <= o.over_bytes
        or o.committed_at < at.now - o.retention_ms * interval '1 ms'
    order by random() limit $1
),
locked as materialized (
    select w.*
    from wanting w
    join topic_partition p on p.partition_id = w.partition_id
    order by p.partition_id for no key update of p
),
leased as materialized (
    select l.queue_id, l.partition_id, min(lower(l.pending)) as lowest
    from lease l
    group by l.queue_id, l.partition_id
),
-- The first offset of each partition that some queue still needs.
wanted as materialized (
    select l.partition_id, min(least(
        c.next_offset,
        (select x.lowest from leased x where x.queue_id = q.queue_id and x.partition_id = l.partition_id),
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
    from locked l
    join queue q on q.topic_id = l.topic_id and q.deleted_at is null
    join queue_cursor c on c.queue_id = q.queue_id and c.partition_id = l.partition_id
    where not l.deleted
    group by l.partition_id
),
-- The oldest batches of these partitions; those that a queue needs are kept longer.
candidate as materialized (
    select l.*, b.base_offset, b.committed_at, b.byte_length,
        case when b.base_offset + b.records > w.from_offset then l.hold_ms else 0 end as longer_ms
    from locked l left join wanted w on w.partition_id = l.partition_id
    cross join lateral (
        select * from batch z where z.partition_id = l.partition_id order by z.base_offset limit 1000
    ) b
),
aged as materialized (
    select c.*,
        coalesce(c.committed_at < at.now - (c.retention_ms + c.longer_ms) * interval '1 ms', false) as aged,
        c.longer_ms = 0 or c.committed_at < at.now - c.longer_ms * interval '1 ms' as by_size,
        sum(c.byte_length) over (
            partition by c.topic_id order by c.committed_at, c.partition_id, c.base_offset
        ) as upto_bytes
    from candidate c, at
),
-- Batches that go, each only if all before it in its partition go.
chosen as materialized (
    select x.partition_id, x.base_offset
    from (
        select a.partition_id, a.base_offset,
            bool_and(
                a.deleted or a.aged or (a.by_size and a.upto_bytes <= a.over_bytes)
            ) over (partition by a.partition_id order by a.base_offset) as goes
        from aged a
    ) x
    where x.goes
    order by x.partition_id, x.base_offset limit $1
),
gone as (
    delete from batch b using chosen c where b.partition_id = c.partition_id and b.base_offset = c.base_offset
    returning b.partition_id, b.base_offset + b.records as ends, b.byte_length, b.part_id, b.inline
),
moved as (
    update topic_partition p
    set log_start_offset = greatest(p.log_start_offset, g.ends), bytes = p.bytes - g.bytes
    from (
        select partition_id, max(ends) as ends, sum(byte_length)::int8 as bytes
        from gone
        group by partition_id
    ) g
    where p.partition_id = g.partition_id
),
-- Segments that lose batches; one that holds none any more is unlinked ('u').
locked_segment as materialized (
    select s.segment_id, s.live
    from (select distinct part_id from gone where not inline order by 1) g
    join segment s on s.segment_id = g.part_id
    order by s.segment_id for update of s
),
unlinked as (
    update segment s
    set live = l.live - g.n, state = case when l.live - g.n > 0 then s.state else 'u' end,
        delete_at = case when l.live - g.n > 0 then null else at.now + $2::int8 * interval '1 ms' end
    from locked_segment l
    join (select part_id, count(*)::int4 as n from gone group by part_id) g on g.part_id = l.segment_id
    cross join at
    where s.segment_id = l.segment_id
)
select count(*) as "batches!" from gone
