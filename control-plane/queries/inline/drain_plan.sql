-- Reads the oldest inline payloads that are to be moved into segments, with the batches that lie in them: as
-- many as fit a number of bytes, but at least one.
-- Takes: $1 drain_after_ms (int8, age from which a payload is to be moved);
--   $2 max_bytes (int8, size of all payloads together, at most).
-- Returns: a row per batch, by partition and offset, with its bytes and the names of its topic; a payload
--   that holds no batch any more gives one row without a batch.
-- Locks: nothing: segment/swap.sql checks again that each batch is as it was read.
-- Index: inline_payload_live, batch_inline.
with due as materialized (
    select d.payload_id, d.payload
    from (
        select p.payload_id, p.payload, p.bytes, p.committed_at,
            sum(p.bytes) over (order by p.committed_at, p.payload_id) as upto
        from inline_payload p
        where p.drained_at is null
            and p.committed_at <= (select clock_timestamp()) - $1::int8 * interval '1 ms'
        order by p.committed_at, p.payload_id
        limit 20000
    ) d
    where d.upto <= $2::int8 or d.upto = d.bytes
)
select d.payload_id as "payload_id!", b.partition_id as "partition_id?", b.base_offset as "base_offset?",
    b.records as "records?", b.byte_offset as "byte_offset?", b.byte_length as "byte_length?",
    b.raw_bytes as "raw_bytes?", b.crc as "crc?", b.flags as "flags?", b.max_timestamp as "max_timestamp?",
    (extract(epoch from b.committed_at) * 1000)::int8 as "committed_at_ms?",
    (extract(epoch from b.expires_at) * 1000)::int8 as "expires_at_ms?",
    array(select lower(r) from unnest(b.skip) r) as "skip_from!: Vec<i32>",
    array(select upper(r) from unnest(b.skip) r) as "skip_to!: Vec<i32>",
    substring(d.payload from b.byte_offset + 1 for b.byte_length) as "bytes?", t.tenant_id as "tenant_id?",
    t.name as "name?", t.topic_id as "topic_id?", p.number as "number?"
from due d
left join batch b on b.part_id = d.payload_id and b.inline
left join topic_partition p on p.partition_id = b.partition_id
left join topic t on t.topic_id = p.topic_id
order by b.partition_id, b.base_offset
