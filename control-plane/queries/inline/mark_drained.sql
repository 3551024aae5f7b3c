-- Marks inline payloads that hold no batch any more as drained, so that they are deleted later.
-- Takes: $1 payload_id (uuid[], the payloads).
-- Returns: nothing.
-- Locks: these payloads.
-- Index: inline_payload_pkey, batch_inline.
update inline_payload p set drained_at = clock_timestamp()
where p.payload_id = any ($1::uuid[]) and p.drained_at is null
    and not exists (select from batch b where b.part_id = p.payload_id and b.inline)
