-- Looks up the offsets of records by their dedup ids.
-- Takes: $1 topic_id (int8);
--   $2 id_hash (uuid[], hashes of the dedup ids);
--   $3 tenant_id (text).
-- Returns: a row per id that was stored and whose window has not passed: hash, partition number, offset; no
--   row when the topic is not the tenant's.
-- Locks: nothing.
-- Index: dedup_pkey, answer_pkey.
select d.id_hash as "id_hash!", d.partition as "partition!",
    (
        a.bases[d.piece + 1] + d.position
        - (select count(*) from unnest(a.dropped) x where x >> 32 = d.piece and (x & 4294967295) < d.position)
    ) as "record_offset!"
from dedup d
join answer a on a.request_id = d.request_id
where d.topic_id = $1 and d.id_hash = any ($2::uuid[]) and d.tenant_id = $3
    and d.expires_at > clock_timestamp()
