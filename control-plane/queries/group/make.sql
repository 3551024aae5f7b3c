-- Makes a group without members. Sending it again changes nothing.
-- Returns nothing. Locks nothing but the new row. Index: consumer_group_name.
insert into consumer_group (tenant_id, name) values ($1, $2) on conflict do nothing
