-- Replaces the settings of a topic, and makes retention look at it.
-- Takes: $1 topic_id (int8);
--   $2 retention_ms (int8), $3 retention_bytes (int8), $4 retention_hold_ms (int8), $5 placement (text),
--     $6 dedup_window_ms (int8), $7 max_record_bytes (int4), $8 archive (text), $9 columns (text): its
--     settings, all as in insert.sql.
-- Returns: nothing.
-- Locks: the topic, which the caller holds already.
-- Index: topic_pkey.
update topic
set retention_ms = $2, retention_bytes = $3, retention_hold_ms = $4, placement = $5, dedup_window_ms = $6,
    max_record_bytes = $7, archive = $8, columns = $9, retain_at = '-infinity'
where topic_id = $1
