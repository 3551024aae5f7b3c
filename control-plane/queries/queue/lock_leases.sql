-- Holds leases of a tenant's living queues until the transaction ends.
-- Returns a row per part: its lease and queue. Locks the parts by id. Index: lease_pkey, queue_pkey.
select l.lease_id, l.queue_id
from lease l
join queue q on q.queue_id = l.queue_id and q.tenant_id = $1 and q.deleted_at is null
where l.lease_id = any ($2::uuid[]) order by l.lease_id, l.part for update of l
