-- Holds a group against a new generation until the transaction ends.
-- Returns nothing of use. Locks the group in share mode. Index: consumer_group_name.
select group_id from consumer_group where tenant_id = $1 and name = $2 for share
