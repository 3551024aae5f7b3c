-- Deletes a consumer group, with its members, assignment and committed offsets, if none of its members is
-- alive. A member is alive until its session is over.
-- Takes: $1 tenant_id (text), $2 name (text): the group.
-- Returns: one row, or none when there is no such group. `current` is false when the group changed while the
--   statement waited for its lock: nothing was done, and it has to be sent again. `alive` is true when a
--   member is alive: nothing was done.
-- Locks: the group, then its members, assignment and offsets.
-- Index: consumer_group_name, group_member_group, group_assignment_pkey, group_offset_pkey.
with at as materialized (select clock_timestamp() as now),
locked as materialized (
    select g.group_id, g.generation
    from at
    cross join consumer_group g
    where g.tenant_id = $1 and g.name = $2 and at.now is not null for update of g
),
seen as materialized (
    select l.group_id, coalesce(g.generation = l.generation, false) as current,
        exists (
            select from group_member m, at
            where m.group_id = l.group_id and m.seen_at + m.session_ms * interval '1 ms' > at.now
        ) as alive
    from locked l left join consumer_group g on g.group_id = l.group_id
),
agreed as materialized (select group_id from seen where current and not alive),
m as (delete from group_member x using agreed where x.group_id = agreed.group_id),
a as (delete from group_assignment x using agreed where x.group_id = agreed.group_id),
o as (delete from group_offset x using agreed where x.group_id = agreed.group_id),
g as (delete from consumer_group x using agreed where x.group_id = agreed.group_id)
select current as "current!", alive as "alive!" from seen
