-- Counts a batch of deletions before it is carried out, unless the epoch has changed, another batch was
-- counted, or deletions are held.
-- Takes: $1 epoch (int8, in which the objects were found); $2 beat (int8, number of this batch).
-- Returns: one row: whether it is counted, by this sending or one before; whether deletions are held.
-- Locks: the cluster's row.
-- Index: cluster_pkey.
with counted as (
    update cluster set beat = $2
    where one and epoch = $1 and beat in ($2::int8 - 1, $2)
        and (deletions_held_until is null or deletions_held_until <= clock_timestamp())
    returning 1
)
select exists (select from counted) as "counted!",
    coalesce(deletions_held_until > clock_timestamp(), false) as "held!"
from cluster
where one
