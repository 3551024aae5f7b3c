-- Notes that a request without records was carried out, under its key if it has one.
-- Returns whether; not when its key is taken. Fails with 23505 when the request was carried out before.
-- Locks the key, then the new row. Index: request_key_pkey, answer_pkey.
with keyed as (
    insert into request_key as k (key_hash, body_hash, request_id, expires_at)
    select $2::uuid, $3::uuid, $1::uuid, clock_timestamp() + $4::int8 * interval '1 ms'
    where $2::uuid is not null
    on conflict (key_hash) do update set body_hash = excluded.body_hash, request_id = excluded.request_id,
        expires_at = excluded.expires_at
        where k.expires_at <= clock_timestamp()
    returning 1
),
answered as (
    insert into answer (request_id, expires_at, context, bases, dropped)
    select $1, clock_timestamp() + $4 * interval '1 ms', $5::bytea, '{}', '{}'
    where $2 is null or exists (select from keyed)
    returning 1
)
select exists (select from answered) as "noted!"
