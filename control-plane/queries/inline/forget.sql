-- Deletes inline payloads that were drained long enough ago.
-- Takes: $1 limit (int8, rows that are deleted at most);
--   $2 plan_ttl_ms (int8, how long a payload is kept after it was drained, for reads planned before that).
-- Returns: how many were deleted.
-- Locks: what it deletes, passing over what others hold.
-- Index: inline_payload_drained.
with gone as (
    delete from inline_payload
    where ctid = any (array(
        select ctid from inline_payload
        where drained_at is not null and drained_at <= (select clock_timestamp()) - $2::int8 * interval '1 ms'
        order by drained_at limit $1 for update skip locked
    ))
    returning 1
)
select count(*) as "rows!" from gone
