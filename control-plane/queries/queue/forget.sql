-- Deletes the rows of deleted queues: leases, waiting runs, dead and admitted records, keys; then the queue
-- with its cursors, counts and flow.
-- Takes: $1 limit (int8, rows of each kind that are deleted at most).
-- Returns: how many rows that were, but for cursors, counts and flow.
-- Locks: what it deletes, passing over leases that others hold.
-- Index: queue_deleted, waiting_due, dead_pkey, admitted_pkey, queue_key_pkey, queue_cursor_pkey,
--   queue_agent_pkey, queue_flow_pkey, queue_pkey; if any queue is deleted, the leases are scanned.
with ended as materialized (
    select queue_id from queue where deleted_at is not null order by deleted_at limit 100
),
l as (
    delete from lease where ctid = any (array(
        select x.ctid from lease x
        where (select count(*) from ended) > 0 and x.queue_id = any (array(select queue_id from ended))
        limit $1 for update skip locked
    )) returning 1
),
w as (
    delete from waiting where ctid = any (array(
        select x.ctid
        from ended e
        cross join lateral (select y.ctid from waiting y where y.queue_id = e.queue_id limit $1) x limit $1
    )) returning 1
),
d as (
    delete from dead where ctid = any (array(
        select x.ctid
        from ended e
        cross join lateral (select y.ctid from dead y where y.queue_id = e.queue_id limit $1) x limit $1
    )) returning 1
),
a as (
    delete from admitted where ctid = any (array(
        select x.ctid
        from ended e
        cross join lateral (select y.ctid from admitted y where y.queue_id = e.queue_id limit $1) x limit $1
    )) returning 1
),
k as (
    delete from queue_key where ctid = any (array(
        select x.ctid
        from ended e
        cross join lateral (select y.ctid from queue_key y where y.queue_id = e.queue_id limit $1) x limit $1
    )) returning 1
),
-- Deleted queues of which all other rows are gone.
bare as materialized (
    select e.queue_id from ended e
    where not exists (select from lease x where x.queue_id = e.queue_id)
        and not exists (select from waiting x where x.queue_id = e.queue_id)
        and not exists (select from dead x where x.queue_id = e.queue_id)
        and not exists (select from admitted x where x.queue_id = e.queue_id)
        and not exists (select from queue_key x where x.queue_id = e.queue_id)
),
c as (delete from queue_cursor where queue_id = any (array(select queue_id from bare)) returning 1),
g as (delete from queue_agent where queue_id = any (array(select queue_id from bare)) returning 1),
f as (delete from queue_flow where queue_id = any (array(select queue_id from bare)) returning 1),
q as (delete from queue where queue_id = any (array(select queue_id from bare)) returning 1)
select (select count(*) from l) + (select count(*) from w) + (select count(*) from d)
    + (select count(*) from a) + (select count(*) from k) + (select count(*) from q) as "rows!"
