-- Deletes the partitions of deleted topics of which retention has unlinked every batch, with the offsets that
-- consumer groups committed in them, and deleted topics without partitions.
-- Takes: $1 limit (int8, partitions and offsets that are deleted at most, but one partition in any case).
-- Returns: how many partitions and offsets were deleted.
-- Locks: what it deletes.
-- Index: topic_deleted, topic_partition_number, batch_pkey, group_offset_partition, topic_partition_pkey,
--   topic_pkey.
with ended as materialized (
    select topic_id from topic where deleted_at is not null order by deleted_at limit 100
),
bare as materialized (
    select p.partition_id, p.topic_id,
        sum(1 + o.n) over (order by p.partition_id) as upto,
        row_number() over (order by p.partition_id) as nth
    from (
        select x.partition_id, x.topic_id
        from ended e
        cross join lateral (
            select y.partition_id, y.topic_id from topic_partition y
            where y.topic_id = e.topic_id and y.deleted
                and not exists (select from batch b where b.partition_id = y.partition_id)
            limit $1
        ) x
        limit $1
    ) p
    cross join lateral (
        select count(*) as n from group_offset o where o.partition_id = p.partition_id
    ) o
),
chosen as materialized (select partition_id from bare where upto <= $1 or nth = 1),
o as (
    delete from group_offset where partition_id = any (array(select partition_id from chosen)) returning 1
),
q as (
    delete from topic_partition where partition_id = any (array(select partition_id from chosen)) returning 1
),
t as (
    delete from topic
    where topic_id = any (array(
        select e.topic_id from ended e
        where not exists (
            select from topic_partition p
            where p.topic_id = e.topic_id and p.partition_id not in (select partition_id from chosen)
        )
    ))
)
select (select count(*) from o) + (select count(*) from q) as "rows!"
