-- Sets inline payloads aside that the drain could not read: no drain plan takes them again. They are
-- kept.
-- Takes: $1 payload_id (uuid[], the payloads).
-- Returns: nothing.
-- Locks: these payloads.
-- Index: inline_payload_pkey.
update inline_payload set aside_at = clock_timestamp()
where payload_id = any ($1::uuid[]) and drained_at is null and aside_at is null
