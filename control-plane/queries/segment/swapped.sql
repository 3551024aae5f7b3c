-- Tells whether an earlier sending of a swap was applied.
-- Takes: $1 segment_id (uuid, the new segment);
--   one element each per batch that replaces others: $2 partition_id (int8[]), $3 base_offset (int8[]),
--     $4 records (int4[]).
-- Returns: whether each of these batches is in the segment.
-- Locks: nothing.
-- Index: batch_pkey.
select coalesce(bool_and(b.yes is not null), false) as "swapped!"
from unnest($2::int8[], $3::int8[], $4::int4[]) as u(partition_id, base_offset, records)
left join lateral (
    select true as yes from batch x
    where x.partition_id = u.partition_id and x.base_offset = u.base_offset and x.records = u.records
        and x.part_id = $1
    limit 1
) b on true
