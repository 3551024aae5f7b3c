-- The living topic of a name, held against change until the transaction ends.
-- Returns one row or none. Locks the topic. Index: topic_name.
select topic_id, retention_ms, retention_bytes, retention_hold_ms, placement, dedup_window_ms,
    max_record_bytes, archive, columns
from topic where tenant_id = $1 and name = $2 and deleted_at is null for update
