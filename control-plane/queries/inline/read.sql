-- Reads byte ranges of inline payloads.
-- Takes: one element each per range: $1 payload_id (uuid[]), $2 byte_offset (int4[]),
--   $3 byte_length (int4[]).
-- Returns: a row per range whose payload exists: its number, counted from 1, and its bytes.
-- Locks: nothing.
-- Index: inline_payload_pkey.
select u.number as "number!", substring(p.payload from u.byte_offset + 1 for u.byte_length) as "bytes!"
from unnest($1::uuid[], $2::int4[], $3::int4[])
    with ordinality as u(payload_id, byte_offset, byte_length, number)
join inline_payload p on p.payload_id = u.payload_id
