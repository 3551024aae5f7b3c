-- Looks up what became of requests that a commit refused or found done: the answer of the request itself,
-- else that of the request that used the same idempotency key, if the key has not expired.
-- Takes: one element each per request: $1 req (int4[], number by which the caller knows the request),
--   $2 request_id (uuid[]), $3 key_hash (uuid[], null without a key).
-- Returns: a row per request with an answer: its number, id and body hash of the request that was answered
--   (the hash is null when it is the request itself), context, base offset of each piece, dropped records as
--   (piece << 32) | position.
-- Locks: nothing.
-- Index: answer_pkey, request_key_pkey.
select u.req as "req!", a.request_id as "request_id!", k.body_hash as "body_hash?", a.context as "context!",
    a.bases as "bases!: Vec<Option<i64>>", a.dropped as "dropped!"
from unnest($1::int4[], $2::uuid[], $3::uuid[]) as u(req, request_id, key_hash)
left join answer own on own.request_id = u.request_id
left join request_key k on k.key_hash = u.key_hash and k.expires_at > clock_timestamp()
    and own.request_id is null
join answer a on a.request_id = coalesce(own.request_id, k.request_id)
