-- Unlinks the oldest batches of some partitions, as retain_plan.sql planned, and moves their log starts. What
-- was unlinked or replaced by a larger batch since then is passed over.
-- Takes: one element each per partition: $1 partition_id (int8[]), $2 until (int8[], offset at or below which
--     a batch has to end);
--   $3 limit (int8, batches that are unlinked at most);
--   $4 plan_ttl_ms (int8, how long an object stays after its last batch was unlinked, for reads planned
--     before that).
-- Returns: how many batches were unlinked.
-- Locks: partitions by id, then batches, then segments by id.
-- Index: topic_partition_pkey, batch_pkey, segment_pkey.
with locked as materialized (
    select p.partition_id, u.until
    from unnest($1::int8[], $2::int8[]) as u(partition_id, until)
    join topic_partition p on p.partition_id = u.partition_id
    order by p.partition_id for no key update of p
),
chosen as materialized (
    select b.id
    from locked l
    cross join lateral (
        select x.ctid as id from batch x
        where x.partition_id = l.partition_id and x.base_offset < l.until
            and x.base_offset + x.records <= l.until
        order by x.base_offset limit $3
    ) b
    limit $3
),
gone as (
    delete from batch where ctid = any (array(select id from chosen))
    returning partition_id, base_offset + records as ends, byte_length, part_id, inline
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
        delete_at = case when l.live - g.n > 0 then null
            else clock_timestamp() + $4::int8 * interval '1 ms' end
    from locked_segment l
    join (select part_id, count(*)::int4 as n from gone group by part_id) g on g.part_id = l.segment_id
    where s.segment_id = l.segment_id
)
select count(*) as "batches!" from gone
