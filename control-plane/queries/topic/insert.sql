-- Creates a topic, without partitions.
-- Takes: $1 tenant_id (text), $2 name (text): of the topic;
--   $3 retention_ms (int8, how long records are kept, null: for ever), $4 retention_bytes (int8, bytes that
--     all partitions together keep, null: all), $5 retention_hold_ms (int8, how much longer records are kept
--     that a queue has not processed);
--   $6 placement (text, where records are stored first: 'auto', 'inline' or 'object');
--   $7 dedup_window_ms (int8, how long dedup ids are remembered);
--   $8 max_record_bytes (int4);
--   $9 archive (text), $10 columns (text, JSON): stored for the archive, and given back as they are.
-- Returns: its id, or no row when another made it in the meantime.
-- Locks: nothing but the new row.
-- Index: topic_name.
insert into topic (
    tenant_id, name, retention_ms, retention_bytes, retention_hold_ms, placement, dedup_window_ms,
    max_record_bytes, archive, columns
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict do nothing returning topic_id
