-- Notes that objects were deleted: the first time they are due again after a while, for a stalled PUT may still land; then the row goes.
-- Returns nothing of use. Locks those segments. Index: segment_pkey.
with again as (
    update segment set state = 'd', delete_at = clock_timestamp() + $2::int8 * interval '1 ms'
    where segment_id = any ($1::uuid[]) and state = 'u'
),
forgotten as (
    delete from segment where segment_id = any ($1::uuid[]) and state = 'd' and delete_at <= clock_timestamp()
)
select 1 as "one!"
