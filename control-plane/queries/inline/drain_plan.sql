-- Reads the oldest inline payloads that are to be moved into segments, with the batches that lie in them: as
-- many as fit a number of bytes, but at least one. Payloads that were set aside are left out.
-- Takes: $1 drain_after_ms (int8, age from which a payload is to be moved);
--   $2 max_bytes (int8, size of all payloads together, at most);
--   $3 slice (int8, only payloads of this slice, null: all): a slice is one of $6 that take turns in spans of
--     $5 span_ms (int8, since 1970), so that several agents drain at once and neighbouring payloads stay
--     together. Of a slice only spans are read that are over since the time that $1 sets;
--   $4 max_batches (int8, batches at most: what is cut off is read when the rest has been moved).
-- Returns: a row per batch, by partition and offset, with its bytes and the names of its topic; a payload
--   that holds no batch any more gives one row without a batch.
-- Locks: nothing: segment/swap.sql checks again that each batch is as it was read.
-- Index: inline_payload_live, batch_inline, topic_partition_pkey, topic_pkey.
with due as materialized (
    select d.payload_id, d.payload
    from (
        select p.payload_id, p.payload, p.bytes, p.committed_at,
            sum(p.bytes) over (order by p.committed_at, p.payload_id) as upto
        from inline_payload p
        where p.drained_at is null and p.aside_at is null
            and p.committed_at <= (select clock_timestamp()) - $1::int8 * interval '1 ms'
            and (
                $3::int8 is null
                or (
                    floor(extract(epoch from p.committed_at) * 1000 / $5::int8)::int8 % $6::int8 = $3
                    and floor(extract(epoch from p.committed_at) * 1000 / $5::int8)
                        < floor((select extract(epoch from clock_timestamp()) * 1000 - $1::int8) / $5::int8)
                )
            )
        order by p.committed_at, p.payload_id
        limit 8192
    ) d
    where d.upto <= $2::int8 or d.upto = d.bytes
),
batches as materialized (
    select d.payload_id, b.*,
        substring(d.payload from b.byte_offset + 1 for b.byte_length) as body
    from due d
    left join lateral (
        select x.* from batch x where x.part_id = d.payload_id and x.inline offset 0
    ) b on true
    order by b.partition_id, b.base_offset limit $4
)
select b.payload_id as "payload_id!", b.partition_id as "partition_id?", b.base_offset as "base_offset?",
    b.records as "records?", b.byte_offset as "byte_offset?", b.byte_length as "byte_length?",
    b.raw_bytes as "raw_bytes?", b.crc as "crc?", b.flags as "flags?", b.max_timestamp as "max_timestamp?",
    (extract(epoch from b.committed_at) * 1000)::int8 as "committed_at_ms?",
    (extract(epoch from b.expires_at) * 1000)::int8 as "expires_at_ms?",
    array(select lower(r) from unnest(b.skip) r) as "skip_from!: Vec<i32>",
    array(select upper(r) from unnest(b.skip) r) as "skip_to!: Vec<i32>",
    b.body as "bytes?", t.tenant_id as "tenant_id?",
    t.name as "name?", t.topic_id as "topic_id?", t.number as "number?"
from batches b
left join lateral (
    select x.tenant_id, x.name, x.topic_id, p.number
    from topic_partition p
    join topic x on x.topic_id = p.topic_id
    where p.partition_id = b.partition_id limit 1
) t on true
order by b.partition_id, b.base_offset
