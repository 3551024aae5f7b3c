-- Keeps a consumer group from getting a new generation until the transaction ends.
-- Takes: $1 tenant_id (text), $2 name (text): the group.
-- Returns: the group's id, which nobody needs, or no row.
-- Locks: the group in share mode.
-- Index: consumer_group_name.
select group_id from consumer_group where tenant_id = $1 and name = $2 for share
