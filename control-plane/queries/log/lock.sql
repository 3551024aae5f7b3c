-- Locks partitions against commits until the transaction ends.
-- Takes: $1 partition_id (int8[]);
--   $2 tenant_id (text, partitions of others are passed over).
-- Returns: the ids, which nobody needs.
-- Locks: the partitions, in the order of ids.
-- Index: topic_partition_pkey.
select p.partition_id from topic_partition p
where p.partition_id = any ($1::int8[]) and p.tenant_id = $2
order by p.partition_id for no key update
