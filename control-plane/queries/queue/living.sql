-- Whether there is such a queue. Returns one row. Locks nothing. Index: queue_pkey.
select exists (select from queue where queue_id = $1 and deleted_at is null) as "living!"
