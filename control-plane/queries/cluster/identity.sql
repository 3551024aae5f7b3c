-- Reads what identifies the cluster.
-- Takes: nothing.
-- Returns: one row: cluster (id), nonce (that of the bucket's marker, null: there is none yet), epoch, beat
--   (batches of deletions so far).
-- Locks: nothing.
-- Index: cluster_pkey.
select cluster, nonce, epoch, beat from cluster where one
