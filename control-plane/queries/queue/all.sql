-- Lists a page of a tenant's queues, with the partitions of their topics. A queue beyond the limit of
-- partitions ends the page, unless it is the first.
-- Takes: $1 tenant_id (text); $2 name (text) after which the page begins, '' for the first;
--   $3 queues_max (int8); $4 partitions_max (int8).
-- Returns: a row per queue that is not deleted, by name; partition ids by partition number; whether there is
--   another queue after it.
-- Locks: nothing.
-- Index: queue_name, queue_pkey, topic_pkey, queue_flow_pkey, topic_partition_number.
with page as materialized (
    select q.queue_id, q.topic_id, q.name from queue q
    where q.tenant_id = $1 and q.deleted_at is null and q.name collate "C" > $2
    order by q.name collate "C" limit $3::int8 + 1
),
-- Partitions are numbered from 0 without gaps.
sized as materialized (
    select g.queue_id, row_number() over by_name as nth, sum(n.partitions) over by_name as upto,
        lead(g.name) over by_name is not null as more
    from page g
    cross join lateral (
        select coalesce((
            select p.number + 1 from topic_partition p where p.topic_id = g.topic_id
            order by p.number desc limit 1
        ), 0) as partitions
    ) n
    window by_name as (order by g.name collate "C")
)
select q.queue_id, q.name, t.name as topic, q.topic_id, q.keyed, q.latest, q.lease_ms, q.base_ms, q.factor,
    q.cap_ms, q.jitter, q.max_failures, q.rate_limit, q.rate_per_ms, q.max_in_flight, q.secret, f.paused,
    array(
        select p.partition_id from topic_partition p
        where p.topic_id = q.topic_id and not p.deleted
        order by p.number
    ) as "partitions!: Vec<i64>",
    s.more as "more!"
from sized s
join queue q on q.queue_id = s.queue_id
join topic t on t.topic_id = q.topic_id
join queue_flow f on f.queue_id = q.queue_id
where s.nth <= $3::int8 and (s.nth = 1 or s.upto <= $4)
order by s.nth
