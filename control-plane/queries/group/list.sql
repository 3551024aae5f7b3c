-- Names of a tenant's groups.
-- Returns them in order. Locks nothing. Index: consumer_group_name.
select name from consumer_group where tenant_id = $1 order by name collate "C"
