-- Finds objects that are to be deleted from the store: those of segments that were unlinked long enough ago,
-- and those of segments that were registered but not committed in time, which it marks as abandoned.
-- Takes: $1 pending_max_ms (int8, how long after its registration a segment may be committed);
--   $2 limit (int8, segments of each of the two kinds, at most).
-- Returns: a row per segment whose object is to be deleted now.
-- Locks: the segments that it abandons, passing over those that a commit holds. Commit and sweep both lock
--   the pending row; whoever comes second finds it no longer pending and leaves it.
-- Index: segment_pending, segment_doomed.
with late as materialized (
    -- States: 'p' pending, 'u' unlinked or abandoned, 'd' deleted once and to be deleted again.
    select segment_id from segment
    where state = 'p' and registered_at <= (select clock_timestamp()) - $1::int8 * interval '1 ms'
    order by registered_at limit $2 for update skip locked
),
abandoned as (
    update segment s set state = 'u', delete_at = clock_timestamp()
    from late l
    where s.segment_id = l.segment_id
    returning s.segment_id
)
select segment_id as "segment_id!" from abandoned
union all
(
    select segment_id from segment
    where state in ('u', 'd') and delete_at <= (select clock_timestamp())
    order by delete_at limit $2
)
