-- Creates a consumer group without members; if it exists, nothing changes.
-- Takes: $1 tenant_id (text), $2 name (text): the group.
-- Returns: nothing.
-- Locks: nothing but the new row.
-- Index: consumer_group_name.
insert into consumer_group (tenant_id, name) values ($1, $2) on conflict do nothing
