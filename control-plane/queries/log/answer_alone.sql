-- Stores that a request without records was carried out, so that a retry is recognised: its answer, and its
-- idempotency key if it has one. (The answer of a request with records is stored by commit.sql.)
-- Takes: $1 request_id (uuid);
--   $2 key_hash (uuid, hash of tenant, path and idempotency key), $3 body_hash (uuid, hash of what a retry
--     may not change): both null for a request without a key;
--   $4 keep_ms (int8, how long key and answer are kept);
--   $5 context (bytea, given back to a retry);
--   $6 tenant_id (text).
-- Returns: one row: whether it was stored; not when another request holds the key. Fails with 23505 (unique
--   violation) when this very request was carried out before.
-- Locks: the key, then the new row.
-- Index: request_key_pkey, answer_pkey.
with keyed as (
    insert into request_key as k (key_hash, body_hash, request_id, expires_at, tenant_id)
    select $2::uuid, $3::uuid, $1::uuid, clock_timestamp() + $4::int8 * interval '1 ms', $6::text
    where $2::uuid is not null
    on conflict (key_hash) do update set body_hash = excluded.body_hash, request_id = excluded.request_id,
        expires_at = excluded.expires_at, tenant_id = excluded.tenant_id
        where k.expires_at <= clock_timestamp()
    returning 1
),
answered as (
    insert into answer (request_id, expires_at, context, bases, dropped, tenant_id)
    select $1, clock_timestamp() + $4 * interval '1 ms', $5::bytea, '{}', '{}', $6
    where $2 is null or exists (select from keyed)
    returning 1
)
select exists (select from answered) as "noted!"
