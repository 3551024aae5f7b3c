<<<<<<< HEAD
-- Ends a topic: its partitions take no commit and answer no find any more. Returns its id, or no row if there is no such topic.
-- Locks the topic, then its partitions by id, as a commit does. Index: topic_name, topic_partition_number, topic_partition_pkey.
with gone as (
    update topic set deleted_at = clock_timestamp() where tenant_id = $1 and name = $2 and deleted_at is null returning topic_id
),
locked as materialized (
    select p.partition_id from topic_partition p where p.topic_id in (select topic_id from gone) order by p.partition_id for no key update
),
closed as (update topic_partition p set deleted = true from locked l where p.partition_id = l.partition_id)
select topic_id from gone
=======
-- Ends a topic, whose partitions the next statement closes: only a statement that began after this one held the topic sees a partition
-- that was being added. Returns its id. Locks the topic. Index: topic_name.
update topic set deleted_at = clock_timestamp() where tenant_id = $1 and name = $2 and deleted_at is null returning topic_id
>>>>>>> conf
