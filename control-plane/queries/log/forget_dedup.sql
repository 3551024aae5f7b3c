-- Deletes dedup ids that have expired, the oldest first.
-- Takes: $1 limit (int8, rows that are deleted at most).
-- Returns: how many were deleted.
-- Locks: what it deletes, passing over what others hold.
-- Index: dedup_expires.
with gone as (
    delete from dedup
    where ctid = any (array(
        select ctid from dedup
        where expires_at <= (select clock_timestamp())
        order by expires_at limit $1 for update skip locked
    ))
    returning 1
)
select count(*) as "rows!" from gone
