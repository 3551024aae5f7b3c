-- What became of requests that a commit could not see: the request's own answer if it has one, else that of its unexpired key.
-- Returns request number, the answer's request id and body hash (null when found by request id), context, base offsets, dropped positions.
-- Locks nothing. Index: primary keys.
select u.req as "req!", a.request_id as "request_id!", k.body_hash as "body_hash?", a.context as "context!",
    a.bases as "bases!: Vec<Option<i64>>", a.dropped as "dropped!"
from unnest($1::int4[], $2::uuid[], $3::uuid[]) as u(req, request_id, key_hash)
left join answer own on own.request_id = u.request_id
left join request_key k on k.key_hash = u.key_hash and k.expires_at > clock_timestamp()
    and own.request_id is null
join answer a on a.request_id = coalesce(own.request_id, k.request_id)
