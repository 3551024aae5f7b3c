-- Abandons parts that stayed pending too long, and returns segments whose object is to be deleted now.
-- Locks the parts that are late, passing over those that a commit holds. Whoever locks a pending row first, this or the commit, wins; the
-- other matches no row.
-- Index: segment_pending, segment_doomed.
with late as materialized (
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
