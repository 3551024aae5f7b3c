-- Makes a topic. Returns its id, or no row when another made it in the meantime.
-- Locks nothing but the new row. Index: topic_name.
insert into topic (
    tenant_id, name, retention_ms, retention_bytes, retention_hold_ms, placement, dedup_window_ms,
    max_record_bytes, archive, columns
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict do nothing returning topic_id
