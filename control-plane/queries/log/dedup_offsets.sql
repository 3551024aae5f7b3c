-- Where the first record of each dedup id lies.
-- Returns a row per id that is known and within its window. Locks nothing. Index: dedup_pkey, answer_pkey.
select d.id_hash as "id_hash!", d.partition as "partition!",
    (
        a.bases[d.piece + 1] + d.position
        - (select count(*) from unnest(a.dropped) x where x >> 32 = d.piece and (x & 4294967295) < d.position)
    ) as "record_offset!"
from dedup d
join answer a on a.request_id = d.request_id
where d.topic_id = $1 and d.id_hash = any ($2::uuid[]) and d.expires_at > clock_timestamp()
