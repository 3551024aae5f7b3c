-- Adds partitions up to a count; those that exist stay. Returns nothing.
-- Locks nothing but the new rows; the topic is held by the caller. Index: topic_partition_number.
insert into topic_partition (topic_id, number)
select $1, n from generate_series(0, $2::int4 - 1) n
on conflict do nothing
