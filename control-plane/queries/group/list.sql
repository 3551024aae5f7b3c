-- Lists a page of a tenant's consumer groups. A group beyond the limit of partitions, assigned or with a
-- committed offset, ends the page, unless it is the first.
-- Takes: $1 tenant_id (text); $2 name (text) after which the page begins, '' for the first;
--   $3 groups_max (int8); $4 partitions_max (int8).
-- Returns: a row per group, by name: what a read of one returns, and whether there is another group after it.
-- Locks: nothing.
-- Index: consumer_group_name, consumer_group_pkey, group_assignment_pkey, group_offset_pkey.
with recursive page as materialized (
    select c.group_id, c.name, row_number() over (order by c.name collate "C") as nth from consumer_group c
    where c.tenant_id = $1 and c.name collate "C" > $2
    order by c.name collate "C" limit $3::int8 + 1
),
-- Group by group, so that no more is counted than fits into the page.
walk as (
    select 0::int8 as nth, 0::int8 as upto
    union all
    select w.nth + 1, w.upto + n.partitions
    from walk w
    join page g on g.nth = w.nth + 1
    cross join lateral (
        select greatest(
            (select count(*) from (
                select from group_assignment a where a.group_id = g.group_id limit $4
            ) a),
            (select count(*) from (select from group_offset o where o.group_id = g.group_id limit $4) o)
        ) as partitions
    ) n
    where w.nth < $3::int8 and (w.nth = 0 or w.upto + n.partitions <= $4)
)
select c.group_id, c.name, c.generation, c.topic_ids, c.partition_counts,
    exists (select from page later where later.nth = w.nth + 1) as "more!"
from walk w
join page g on g.nth = w.nth
join consumer_group c on c.group_id = g.group_id
order by w.nth
