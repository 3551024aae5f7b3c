-- Adds partitions to a topic until it has as many as asked for; those that exist stay.
-- Takes: $1 topic_id (int8);
--   $2 partitions (int4, how many the topic is to have);
--   $3 tenant_id (text, the topic's).
-- Returns: nothing.
-- Locks: nothing but the new rows; the caller has locked the topic.
-- Index: topic_partition_number.
insert into topic_partition (topic_id, number, tenant_id)
select $1, n, $3::text from generate_series(0, $2::int4 - 1) n
on conflict do nothing
