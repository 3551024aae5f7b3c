-- Finds the batches to read: for each request those of a partition that hold or follow an offset, up to an
-- end and until their uncompressed size reaches a budget, but at least one.
-- Takes: one element each per request: $1 partition_id (int8[]), $2 from_offset (int8[], the first offset
--   wanted), $3 max_bytes (int8[], budget in uncompressed bytes), $5 end_offset (int8[], batches that begin
--   here or later are not wanted), $6 tenant_id (text[], on whose behalf);
--   $4 max_batches (int8, batches per request, at most).
-- Returns: a row per batch, by request (counted from 1) and offset; one row without a batch when there is
--   none, or when the offset lies before the start of the log; no row for a partition that was deleted or
--   is another tenant's.
--   `now_ms`: the time of the statement.
--   `skip_from`, `skip_to`: ranges of positions in the encoded batch that have no offset.
-- Locks: nothing.
-- Index: topic_partition_pkey, batch_pkey.
select u.request as "request!", p.log_start_offset as "log_start_offset!",
    p.high_watermark as "high_watermark!",
    (extract(epoch from statement_timestamp()) * 1000)::int8 as "now_ms!",
    b.base_offset as "base_offset?", b.records as "records?",
    b.part_id as "part_id?", b.inline as "inline?", b.byte_offset as "byte_offset?",
    b.byte_length as "byte_length?", b.raw_bytes as "raw_bytes?", b.crc as "crc?", b.flags as "flags?",
    b.max_timestamp as "max_timestamp?",
    (extract(epoch from b.committed_at) * 1000)::int8 as "committed_at_ms?",
    array(select lower(r) from unnest(b.skip) r) as "skip_from!: Vec<i32>",
    array(select upper(r) from unnest(b.skip) r) as "skip_to!: Vec<i32>"
from unnest($1::int8[], $2::int8[], $3::int8[], $5::int8[], $6::text[])
    with ordinality as u(partition_id, from_offset, max_bytes, end_offset, tenant_id, request)
join topic_partition p on p.partition_id = u.partition_id and p.tenant_id = u.tenant_id and not p.deleted
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
