-- Plans reads: for each partition the batches from an offset on and before another, until their uncompressed bytes reach a budget.
-- Returns a row per batch; a partition that is alive and has none answers one row without a batch.
-- Locks nothing. Index: topic_partition_pkey, batch_pkey.
select u.request as "request!", p.log_start_offset as "log_start_offset!",
    p.high_watermark as "high_watermark!", b.base_offset as "base_offset?", b.records as "records?",
    b.part_id as "part_id?", b.inline as "inline?", b.byte_offset as "byte_offset?",
    b.byte_length as "byte_length?", b.raw_bytes as "raw_bytes?", b.crc as "crc?", b.flags as "flags?",
    b.max_timestamp as "max_timestamp?",
    (extract(epoch from b.committed_at) * 1000)::int8 as "committed_at_ms?",
    array(select lower(r) from unnest(b.skip) r) as "skip_from!: Vec<i32>",
    array(select upper(r) from unnest(b.skip) r) as "skip_to!: Vec<i32>"
from unnest($1::int8[], $2::int8[], $3::int8[], $5::int8[])
    with ordinality as u(partition_id, from_offset, max_bytes, end_offset, request)
join topic_partition p on p.partition_id = u.partition_id and not p.deleted
left join lateral (
    select * from (
        select x.*, sum(x.raw_bytes) over (order by x.base_offset) - x.raw_bytes as before
        from (
            select * from batch y
            where y.partition_id = u.partition_id and u.from_offset >= p.log_start_offset
                and y.base_offset >= coalesce((
                    select z.base_offset from batch z
                    where z.partition_id = u.partition_id and z.base_offset <= u.from_offset
                    order by z.base_offset desc limit 1
                ), 0)
                and y.base_offset + y.records > u.from_offset and y.base_offset < u.end_offset
            order by y.base_offset
            limit $4
        ) x
    ) w
    where w.before < greatest(u.max_bytes, 1)
) b on true
order by u.request, b.base_offset
