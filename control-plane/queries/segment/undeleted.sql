-- Notes that objects could not be deleted: they become due again later, after 1, 2, 4 ... minutes, at most 8
-- hours, so that the others are not held up.
-- Takes: $1 segment_id (uuid[]).
-- Returns: nothing.
-- Locks: these segments.
-- Index: segment_pkey.
update segment
set failures = failures + 1, delete_at = clock_timestamp() + least(2 ^ failures, 480) * interval '1 minute'
where segment_id = any ($1::uuid[]) and state in ('u', 'd')
