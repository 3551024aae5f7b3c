-- The living topic of a name, held against its end and against more partitions until the transaction ends.
-- Returns its id or no row. Locks the topic in share mode. Index: topic_name.
select topic_id from topic where tenant_id = $1 and name = $2 and deleted_at is null for share
