-- Deletes members of consumer groups whose session ended long ago, which makes a new generation of their
-- groups, and deletes groups that have long been without members and without committed offsets in partitions
-- that still exist.
-- Takes: $1 limit (int8, members, and groups, that are deleted at most);
--   $2 member_after_ms (int8, how long a member's session must be over);
--   $3 group_after_ms (int8, how long a group must not have changed).
-- Returns: how many members and groups were deleted.
-- Locks: the groups of these members, passing over those that others hold, then members and assignment; the
--   groups that are deleted, passing over likewise.
-- Index: group_member_group, group_assignment_member, group_offset_pkey, topic_partition_pkey,
--   consumer_group_pkey; the members, which are few, are scanned.
with at as materialized (select clock_timestamp() as now),
-- Members whose session ended long ago.
due as materialized (
    select m.member_id, m.group_id from group_member m, at
    where m.seen_at + m.session_ms * interval '1 ms' <= at.now - $2::int8 * interval '1 ms' limit $1
),
locked as materialized (
    select g.group_id from consumer_group g
    where g.group_id in (select group_id from due)
    order by g.group_id for no key update skip locked
),
removed as (
    delete from group_member m using due, locked
    where m.member_id = due.member_id and due.group_id = locked.group_id
    returning m.group_id, m.member_id
),
freed as (delete from group_assignment a using removed where a.member_id = removed.member_id),
changed as (
    update consumer_group g set generation = g.generation + 1, changed_at = at.now from at
    where g.group_id in (select group_id from removed)
),
-- Groups with nothing in them.
over as materialized (
    select g.group_id from consumer_group g, at
    where g.changed_at <= at.now - $3::int8 * interval '1 ms'
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
select (select count(*) from removed) + (select count(*) from gone) as "rows!"
