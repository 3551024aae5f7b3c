-- Ends a queue; its rows go later. Returns its id. Locks the queue. Index: queue_name.
update queue set deleted_at = clock_timestamp()
where tenant_id = $1 and name = $2 and deleted_at is null
returning queue_id
