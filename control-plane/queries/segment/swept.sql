-- Stores that objects were deleted. After the first deletion the segment becomes due once more, since an
-- upload that was stalled may still arrive; after the second its row is deleted.
-- Takes: $1 segment_id (uuid[]);
--   $2 forget_after_ms (int8, time between the two deletions).
-- Returns: one row, which nobody needs.
-- Locks: these segments.
-- Index: segment_pkey.
with again as (
    -- States: 'u' unlinked or abandoned, 'd' deleted once and to be deleted again.
    update segment
    set state = 'd', failures = 0, delete_at = clock_timestamp() + $2::int8 * interval '1 ms'
    where segment_id = any ($1::uuid[]) and state = 'u'
),
forgotten as (
    delete from segment where segment_id = any ($1::uuid[]) and state = 'd' and delete_at <= clock_timestamp()
)
select 1 as "one!"
