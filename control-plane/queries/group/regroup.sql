-- Makes the next generation of a consumer group: removes members, adds one if one is named, and replaces the
-- whole assignment. A partition that stays with its member keeps the generation since which the member has
-- had it.
-- Takes: $1 group_id (int8);
--   $2 generation (int8, the generation that the change was decided on);
--   $3 topic_ids (int8[]), $4 partition_counts (int4[]): what the assignment was made from, one element each
--     per topic;
--   $5 removed (uuid[], members that leave);
--   $6 member_id (uuid), $7 client_id (text), $8 topics (text[]), $9 session_ms (int8), $10 latest (bool, it
--     starts reading at the end of the log where nothing is committed): the member that joins; $6 is null
--     when none does;
--   $11 partition_id (int8[]), $12 member_id (uuid[]): the assignment, one element each per partition;
--   $13 tenant_id (text).
-- Returns: the new generation, or no row when the group is no longer at the generation named, or is not the
--   tenant's. Whoever changes members or assignment changes the generation, so what was read at a generation
--   is still true when the change names it.
-- Locks: the group, then members, then its assignment.
-- Index: consumer_group_pkey, group_member_pkey, group_assignment_pkey.
with moved as (
    update consumer_group
    set generation = generation + 1, topic_ids = $3, partition_counts = $4, changed_at = clock_timestamp()
    where group_id = $1 and tenant_id || '' = $13 and generation = $2
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
