-- Looks up the batches that an earlier sending of the same commit made, by part and place in it.
-- Takes: one element each per run: $1 run (int4[], number by which the caller knows the run),
--   $2 partition_id (int8[]), $3 part_id (uuid[]), $4 byte_offset (int4[], within the part),
--   $5 tenant_id (text[], on whose behalf).
-- Returns: a row per run whose batch is still there, among the newest 10,000 of its partition; no row when
--   the partition is another tenant's.
-- Locks: nothing.
-- Index: topic_partition_pkey; batch_pkey, read backwards.
select u.run as "run!", b.base_offset as "base_offset!", b.records as "records!",
    array(select lower(r) from unnest(b.skip) r) as "skip_from!: Vec<i32>",
    array(select upper(r) from unnest(b.skip) r) as "skip_to!: Vec<i32>"
from unnest($1::int4[], $2::int8[], $3::uuid[], $4::int4[], $5::text[])
    as u(run, partition_id, part_id, byte_offset, tenant_id)
join topic_partition p on p.partition_id = u.partition_id and p.tenant_id = u.tenant_id
cross join lateral (
    select n.*
    from (
        select * from batch x where x.partition_id = u.partition_id order by x.base_offset desc limit 10000
    ) n
    where n.part_id = u.part_id and n.byte_offset = u.byte_offset
) b
