-- Deletes the leases of some partitions of a queue, for a seek. It has to be sent until it finds none: a
-- settlement that was under way may have moved renewed records to lease parts that this statement's snapshot
-- does not show.
-- Takes: $1 queue_id (int8);
--   one element each per partition: $2 partition_id (int8[]), $3 at (int8[], where the partition's cursor is
--     going to stand);
--   $4 tenant_id (text).
-- Returns: one row: how many lease parts it saw, how many records those held, and how many of these lie below
--   the new cursors.
-- Locks: the lease parts, by lease and part.
-- Index: queue_pkey, lease_pkey; the leases, which are few, are scanned.
with target as materialized (select * from unnest($2::int8[], $3::int8[]) as u(partition_id, at)),
seen as materialized (
    select l.lease_id from lease l
    where l.queue_id = $1 and l.partition_id = any ($2)
        and exists (select from queue q where q.queue_id = $1 and q.tenant_id || '' = $4)
),
locked as materialized (
    select l.lease_id, l.part from lease l
    where l.lease_id = any (array(select lease_id from seen)) and l.queue_id = $1
        and l.partition_id = any ($2)
    order by l.lease_id, l.part for update
),
gone as (
    delete from lease l
    where l.lease_id = any (array(select lease_id from locked)) and l.queue_id = $1
        and l.partition_id = any ($2)
    returning l.partition_id, l.pending
)
select (select count(*) from seen) as "seen!", coalesce(sum(upper(r) - lower(r)), 0)::int8 as "records!",
    coalesce(sum(greatest(least(upper(r), t.at) - lower(r), 0)), 0)::int8 as "below!"
from gone g cross join lateral unnest(g.pending) r join target t on t.partition_id = g.partition_id
