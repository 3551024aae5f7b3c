-- Deletes stored settlements that have expired, the oldest first.
-- Takes: $1 limit (int8, rows that are deleted at most).
-- Returns: how many were deleted.
-- Locks: what it deletes, passing over what others hold.
-- Index: queue_operation_expires.
with gone as (
    delete from queue_operation
    where ctid = any (array(
        select ctid from queue_operation
        where expires_at <= (select clock_timestamp())
        order by expires_at limit $1 for update skip locked
    ))
    returning 1
)
select count(*) as "rows!" from gone
