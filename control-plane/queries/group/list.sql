-- Lists the names of a tenant's consumer groups.
-- Takes: $1 tenant_id (text).
-- Returns: a row per group, by name.
-- Locks: nothing.
-- Index: consumer_group_name.
select name from consumer_group where tenant_id = $1 order by name collate "C"
