-- Byte ranges of inline payloads.
-- Returns a row per range whose payload is there, with its number from 1. Locks nothing. Index: inline_payload_pkey.
select u.number as "number!", substring(p.payload from u.byte_offset + 1 for u.byte_length) as "bytes!"
from unnest($1::uuid[], $2::int4[], $3::int4[])
    with ordinality as u(payload_id, byte_offset, byte_length, number)
join inline_payload p on p.payload_id = u.payload_id
