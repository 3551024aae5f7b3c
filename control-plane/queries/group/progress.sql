-- Reads how far consumer groups have come in each partition that is assigned to a member or has a committed
-- offset. Partitions of deleted topics are left out.
-- Takes: $1 group_ids (int8[]);
--   $2 tenant_id (text).
-- Returns: a row per group and partition, by topic name and partition number: its member, the committed
--   offset, where its log begins and ends; no row of a group that is not the tenant's.
-- Locks: nothing.
-- Index: consumer_group_pkey, group_assignment_pkey, group_offset_pkey, topic_partition_pkey, topic_pkey.
select u.group_id as "group_id!", t.name as "name!", p.number as "number!", p.partition_id as "partition_id!",
    a.member_id as "member_id?", o.committed as "committed?", p.log_start_offset as "log_start_offset!",
    p.high_watermark as "high_watermark!"
from (
    select group_id, partition_id from group_assignment where group_id = any ($1::int8[])
    union
    select group_id, partition_id from group_offset where group_id = any ($1::int8[])
) u
join topic_partition p on p.partition_id = u.partition_id and p.tenant_id = $2 and not p.deleted
join topic t on t.topic_id = p.topic_id
left join group_assignment a on a.group_id = u.group_id and a.partition_id = u.partition_id
left join group_offset o on o.group_id = u.group_id and o.partition_id = u.partition_id
where exists (select from consumer_group g where g.group_id = u.group_id and g.tenant_id || '' = $2)
order by t.name collate "C", p.number
