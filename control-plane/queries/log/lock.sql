-- Holds partitions for a commit until the transaction ends.
-- Returns nothing of use. Locks them by id. Index: topic_partition_pkey.
select p.partition_id from topic_partition p
where p.partition_id = any ($1::int8[])
order by p.partition_id for no key update
