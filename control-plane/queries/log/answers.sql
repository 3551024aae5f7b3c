-- Looks up what became of requests that a commit refused or found done: the answer of the request itself,
-- else that of the tenant's request that used the same idempotency key, if the key has not expired.
-- Takes: one element each per request: $1 req (int4[], number by which the caller knows the request),
--   $2 request_id (uuid[]), $3 key_hash (uuid[], null without a key), $4 tenant_id (text[]).
-- Returns: a row per request with an answer: its number, id and body hash of the request that was answered
--   (the hash is null when it is the request itself), context, base offset of each piece, dropped records as
--   (piece << 32) | position.
-- Locks: nothing.
-- Index: answer_pkey, request_key_pkey.
select u.req as "req!", a.request_id as "request_id!", k.body_hash as "body_hash?", a.context as "context!",
    a.bases as "bases!: Vec<Option<i64>>", a.dropped as "dropped!"
from unnest($1::int4[], $2::uuid[], $3::uuid[], $4::text[]) as u(req, request_id, key_hash, tenant_id)
left join answer own on own.request_id = u.request_id and own.tenant_id = u.tenant_id
left join request_key k on k.key_hash = u.key_hash and k.tenant_id = u.tenant_id
    and k.expires_at > clock_timestamp() and own.request_id is null
join answer a on a.request_id = coalesce(own.request_id, k.request_id)
