-- Replaces a topic's settings. Returns nothing.
-- Locks the topic, which the caller holds already. Index: topic_pkey.
update topic
set retention_ms = $2, retention_bytes = $3, retention_hold_ms = $4, placement = $5, dedup_window_ms = $6,
    max_record_bytes = $7, archive = $8, columns = $9
where topic_id = $1
