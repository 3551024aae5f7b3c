-- Looks whether a grant would find anything in some queues: fresh records, runs or keys that are due, records
-- to be admitted, a lease that is alive and that a call names, or a seek that nobody finished. It costs no
-- transaction id.
-- Takes: one element each per queue: $1 queue_id (int8[]), $2 tenant_id (text[], on whose behalf);
--   $3 lease_id (uuid[], the leases that calls on any of these queues name).
-- Returns: a row per queue that exists and is the tenant's. `version` is another one after each change of the
--   queue's row. `ready` can be true although a grant would give nothing, where a key became free and its
--   next record is delayed; it is never false although a grant would.
-- Locks: nothing.
-- Index: queue_pkey, queue_flow_pkey, queue_cursor_pkey, topic_partition_pkey, waiting_due, queue_key_due,
--   admitted_due, lease_pkey.
with at as materialized (select date_trunc('milliseconds', clock_timestamp()) as now),
alive as materialized (select distinct l.queue_id from lease l where l.lease_id = any ($3::uuid[]))
select q.queue_id, q.xmin::text::int8 as "version!", f.paused,
    (extract(epoch from at.now) * 1000)::int8 as "at_ms!",
    (
        f.clearing or not f.paused and (
            exists (
                select from queue_cursor c
                cross join lateral (
                    select x.high_watermark from topic_partition x
                    where x.partition_id = c.partition_id and not x.deleted limit 1
                ) p
                where c.queue_id = q.queue_id and p.high_watermark > c.next_offset
            )
            or exists (
                select from waiting w where w.queue_id = q.queue_id and not w.alone and w.due_at <= at.now
            )
            or exists (
                select from waiting w where w.queue_id = q.queue_id and w.alone and w.due_at <= at.now
            )
            or q.keyed and exists (
                select from queue_key k
                where k.queue_id = q.queue_id and not k.taken and k.due_at <= at.now
            )
        )
        or q.queue_id in (select queue_id from alive)
    ) as "ready!",
    (
        extract(epoch from least(
            (
                select w.due_at from waiting w
                where w.queue_id = q.queue_id and not w.alone and w.due_at > at.now order by w.due_at limit 1
            ),
            (
                select w.due_at from waiting w
                where w.queue_id = q.queue_id and w.alone and w.due_at > at.now order by w.due_at limit 1
            ),
            (
                select a.due_at from admitted a
                where q.keyed and a.queue_id = q.queue_id and a.due_at > at.now order by a.due_at limit 1
            )
        )) * 1000
    )::int8 as "next_due_ms?"
from unnest($1::int8[], $2::text[]) as u(queue_id, tenant_id)
join queue q on q.queue_id = u.queue_id and q.tenant_id || '' = u.tenant_id and q.deleted_at is null
join queue_flow f on f.queue_id = q.queue_id
cross join at
