-- Makes the next generation of a group: members removed, one added, a whole assignment. A partition that stays with its member keeps since when.
-- Returns the new generation, or no row when the group has another generation than the one named: whoever changes members or their
--   assignment changes it, so what was read at that generation is what is changed here.
-- Locks the group, then members, then its assignment. Index: consumer_group_pkey, group_member_pkey, group_assignment_pkey.
with moved as (
    update consumer_group
    set generation = generation + 1, topic_ids = $3, partition_counts = $4, changed_at = clock_timestamp()
    where group_id = $1 and generation = $2
    returning group_id, generation
),
removed as (
    delete from group_member m using moved
    where m.group_id = moved.group_id and m.member_id = any ($5::uuid[])
),
added as (
    insert into group_member (member_id, group_id, client_id, topics, session_ms, latest, seen_at)
    select $6::uuid, moved.group_id, $7::text, $8::text[], $9::int8, $10::bool,
        date_trunc('milliseconds', clock_timestamp())
    from moved where $6::uuid is not null
),
freed as (
    delete from group_assignment a using moved
    where a.group_id = moved.group_id and not (a.partition_id = any ($11::int8[]))
),
assigned as (
    insert into group_assignment as a (group_id, partition_id, member_id, since)
    select moved.group_id, u.partition_id, u.member_id, moved.generation
    from moved, unnest($11::int8[], $12::uuid[]) as u(partition_id, member_id)
    order by u.partition_id
    on conflict (group_id, partition_id) do update set member_id = excluded.member_id, since = excluded.since
        where a.member_id <> excluded.member_id
)
select generation from moved
