-- Forgets members whose session has been over for long, which makes a new generation, and groups of which nothing is left.
-- Returns how many rows. Locks their groups, passing over those that others hold, then members and assignment.
-- Index: group_member_group, group_assignment_member, group_offset_pkey, topic_partition_pkey,
--   consumer_group_pkey; the members are looked through, which are few.
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
),
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
