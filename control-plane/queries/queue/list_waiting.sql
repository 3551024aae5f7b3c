-- Lists a page of a queue's waiting records: those in runs, and in a keyed queue those that are admitted, not
-- leased and in no run.
-- Takes: $1 queue_id (int8);
--   $2 partition_id (int8), $3 record_offset (int8): the last record of the page before;
--   $4 limit (int8, records of a page);
--   $5 tenant_id (text).
-- Returns: a row per record, by partition and offset; `at_ms`: when it is due, null: as soon as its key is
--   free; `gone`: retention has unlinked the record; no row when the queue is not the tenant's.
-- Locks: nothing.
-- Index: queue_pkey, queue_cursor_pkey, waiting_pkey, admitted_pkey, topic_partition_pkey; the leases are
--   scanned.
with own as materialized (
    select q.queue_id from queue q where q.queue_id = $1 and q.tenant_id || '' = $5 and q.keyed
),
leased as materialized (
    select l.partition_id, o as record_offset from own join lease l on l.queue_id = own.queue_id
    cross join lateral unnest(l.pending) r cross join lateral generate_series(lower(r), upper(r) - 1) o
),
place as materialized (
    select c.partition_id, case when c.partition_id = $2::int8 then $3::int8 + 1 else 0 end as first,
        p.log_start_offset
    from queue_cursor c
    join topic_partition p on p.partition_id = c.partition_id
    where c.queue_id = $1 and c.partition_id >= $2
        and exists (select from queue q where q.queue_id = $1 and q.tenant_id || '' = $5)
),
run as materialized (
    select c.partition_id, c.first, c.log_start_offset, w.lo, w.hi, w.due_at, w.attempt, w.failures, w.reason
    from place c
    cross join lateral (
        (
            select x.* from waiting x
            where x.partition_id = c.partition_id and x.lo < c.first and x.queue_id + 0 = $1
            order by x.lo desc limit 1
        )
        union all
        (
            select x.* from waiting x
            where x.partition_id = c.partition_id and x.lo >= c.first and x.queue_id + 0 = $1
            order by x.lo limit $4
        )
    ) w
    where w.hi > c.first
)
select x.partition_id as "partition_id!", x.record_offset as "record_offset!", x.attempt as "attempt!",
    x.failures as "failures!", (extract(epoch from x.due_at) * 1000)::int8 as "at_ms?", x.reason as "reason?",
    x.record_offset < x.log_start_offset as "gone!"
from (
    select r.partition_id, o as record_offset, r.attempt, r.failures, r.due_at, r.reason, r.log_start_offset
    from run r
    cross join lateral generate_series(
        greatest(r.lo, r.first), least(r.hi, greatest(r.lo, r.first) + $4) - 1
    ) o
    union all
    select c.partition_id, a.record_offset, a.attempt, 0, a.due_at, null, c.log_start_offset
    from own cross join place c
    cross join lateral (
        select y.record_offset, y.attempt, y.due_at from admitted y
        where y.queue_id = $1 and y.partition_id = c.partition_id and y.record_offset >= c.first
            and not exists (
                select from leased l
                where l.partition_id = y.partition_id and l.record_offset = y.record_offset
            )
            and not exists (
                select from run r
                where r.partition_id = y.partition_id and y.record_offset >= r.lo and y.record_offset < r.hi
            )
        order by y.record_offset limit $4
    ) a
) x
order by x.partition_id, x.record_offset limit $4
