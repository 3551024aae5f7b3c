-- Adds partitions up to a count; those that exist stay.
insert into topic_partition (topic_id, number) select $1, n from generate_series(0, $2::int4 - 1) n on conflict do nothing
