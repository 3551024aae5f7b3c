-- Deletes rows that have expired: idempotency keys, answers of requests, dedup ids, drained inline payloads,
-- agents without a heartbeat for a day, and deleted topics that have no batch left, with their partitions and
-- the offsets that consumer groups committed in them.
-- Takes: $1 limit (int8, rows of each kind that are deleted at most);
--   $2 plan_ttl_ms (int8, how long a payload is kept after it was drained, for reads planned before that).
-- Returns: how many rows were deleted, of all kinds together.
-- Locks: what it deletes, passing over keys, answers, dedup ids and payloads that others hold.
-- Index: request_key_expires, answer_expires, dedup_expires, inline_payload_drained, topic_deleted,
--   group_offset_partition.
with k as (
    delete from request_key
    where key_hash = any (array(
        select key_hash from request_key
        where expires_at <= (select clock_timestamp())
        order by expires_at limit $1 for update skip locked
    ))
    returning 1
),
a as (
    delete from answer
    where request_id = any (array(
        select request_id from answer
        where expires_at <= (select clock_timestamp())
        order by expires_at limit $1 for update skip locked
    ))
    returning 1
),
d as (
    delete from dedup x
    using (
        select topic_id, id_hash from dedup
        where expires_at <= (select clock_timestamp())
        order by expires_at limit $1 for update skip locked
    ) y
    where x.topic_id = y.topic_id and x.id_hash = y.id_hash
    returning 1
),
p as (
    delete from inline_payload
    where payload_id = any (array(
        select payload_id from inline_payload
        where drained_at is not null and drained_at <= (select clock_timestamp()) - $2::int8 * interval '1 ms'
        order by drained_at limit $1 for update skip locked
    ))
    returning 1
),
g as (delete from agent where seen_at < (select clock_timestamp()) - interval '1 day' returning 1),
-- Deleted topics of which retention has unlinked every batch.
empty as materialized (
    select t.topic_id from topic t
    where t.deleted_at is not null
        and not exists (
            select from topic_partition q
            join batch b on b.partition_id = q.partition_id
            where q.topic_id = t.topic_id
        )
    limit $1
),
o as (
    delete from group_offset
    where partition_id = any (array(
        select partition_id from topic_partition where topic_id = any (array(select topic_id from empty))
    ))
),
q as (delete from topic_partition where topic_id = any (array(select topic_id from empty)) returning 1),
t as (delete from topic where topic_id = any (array(select topic_id from empty)) returning 1)
select (select count(*) from k) + (select count(*) from a) + (select count(*) from d)
    + (select count(*) from p) + (select count(*) from g)
    + (select count(*) from q) + (select count(*) from t) as "rows!"
