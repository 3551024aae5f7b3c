-- Deletes groups that have long been without members and without committed offsets in partitions that still
-- exist.
-- Takes: $1 limit (int8, groups that are deleted at most);
--   $2 group_after_ms (int8, how long a group must not have changed).
-- Returns: how many were deleted.
-- Locks: the groups that are deleted, passing over those that others hold.
-- Index: consumer_group_pkey, group_member_group, group_offset_pkey, topic_partition_pkey; the groups are
--   scanned.
with over as materialized (
    select g.group_id from consumer_group g
    where g.changed_at <= (select clock_timestamp()) - $2::int8 * interval '1 ms'
        and not exists (select from group_member m where m.group_id = g.group_id)
        and not exists (
            select from group_offset o
            join topic_partition p on p.partition_id = o.partition_id and not p.deleted
            where o.group_id = g.group_id
        )
    limit $1 for update of g skip locked
),
orphans as (delete from group_offset o using over where o.group_id = over.group_id),
gone as (delete from consumer_group g using over where g.group_id = over.group_id returning 1)
select count(*) as "rows!" from gone
