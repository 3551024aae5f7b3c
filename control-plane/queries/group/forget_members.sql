-- Deletes members of consumer groups whose session ended long ago, which makes a new generation of their
-- groups.
-- Takes: $1 limit (int8, members that are deleted at most);
--   $2 member_after_ms (int8, how long a member's session must be over).
-- Returns: how many were deleted.
-- Locks: the groups of these members, passing over those that others hold, then members and assignment.
-- Index: consumer_group_pkey, group_member_pkey, group_assignment_member; the members are scanned.
with at as materialized (select clock_timestamp() as now),
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
)
select count(*) as "rows!" from removed
