-- Begins an epoch of the cluster, if it is later than the present one, and holds deletions for a time.
-- Takes: $1 epoch (int8); $2 beat (int8, least number of batches of deletions so far);
--   $3 hold_ms (int8, how long no batch of deletions is counted).
-- Returns: nothing.
-- Locks: the cluster's row.
-- Index: cluster_pkey.
update cluster
set epoch = $1, beat = greatest(beat, $2),
    deletions_held_until = clock_timestamp() + $3::int8 * interval '1 ms'
where one and epoch < $1
