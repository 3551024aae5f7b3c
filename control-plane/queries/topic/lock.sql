-- Reads the settings of a topic by name, and locks it against change until the transaction ends.
-- Takes: $1 tenant_id (text), $2 name (text): the topic.
-- Returns: one row, or none when there is no such topic.
-- Locks: the topic.
-- Index: topic_name.
select topic_id, retention_ms, retention_bytes, retention_hold_ms, placement, dedup_window_ms,
    max_record_bytes, archive, columns
from topic where tenant_id = $1 and name = $2 and deleted_at is null for update
