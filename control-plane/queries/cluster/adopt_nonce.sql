-- Stores the nonce of the bucket's marker, if the cluster has none yet.
-- Takes: $1 nonce (uuid).
-- Returns: nothing.
-- Locks: the cluster's row.
-- Index: cluster_pkey.
update cluster set nonce = $1 where one and nonce is null
