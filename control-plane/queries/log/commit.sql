-- Commits a set of uploaded or inline records to the log: gives them their offsets, stores the batches that
-- index them, and stores keys, dedup ids and answers of their requests, all in one step. A request is stored
-- whole or refused; the others of the same commit are stored all the same.
-- Words: a *part* is a segment or an inline payload; a *run* is the record batch of one partition within a
-- part; a *piece* is the share of one request in one run, and its records follow each other.
-- Instants are whole milliseconds, so that a batch keeps its own when it is read out and swapped back.
-- Takes: one element each per segment: $1 segment_id (uuid[]), $2 bytes (int8[], size of the object),
--   $3 crc (int4[], CRC-32C of the object);
--   one element each per inline payload: $4 payload_id (uuid[]), $5 payload (bytea[]);
--   one element each per run: $6 part_id (uuid[], the part it lies in), $7 inline (bool[], the part is an
--     inline payload), $8 partition_id (int8[]), $9 byte_offset (int4[]) and $10 byte_length (int4[]) within
--     the part, $11 raw_bytes (int4[], size before compression), $12 crc (int4[], CRC-32C of the byte range),
--     $13 max_timestamp (int8[], greatest timestamp of a record), $14 expires_at (int8[], when its last
--     record expires in ms since 1970, null: never), $15 flags (int2[], see `BatchFlags`);
--   one element each per piece, in the order in which offsets are given: $16 req (int4[], number of its
--     request, from 1), $17 run (int4[], number of its run, from 1), $18 first (int4[], position of its first
--     record in the run), $19 records (int4[], how many), $32 nth (int4[], its number within the request,
--     from 0), $34 partition_id (int8[]) and $35 part_id (uuid[]) of its run;
--   one element each per request: $20 request_id (uuid[]), $21 key_hash (uuid[], its idempotency key, null:
--     none), $22 body_hash (uuid[], hash of what a retry may not change, null without a key),
--     $23 keep_ms (int8[], how long its answer is kept, null: not at all), $24 expect (int8[], the high
--     watermark it requires, null: any), $25 context (bytea[], given back to a retry),
--     $36 tenant_id (text[]);
--   one element each per record with a dedup id, by piece and position: $26 piece (int4[], number of its
--     piece, from 0), $27 position (int4[], of the record in the piece), $28 topic_id (int8[]),
--     $29 id_hash (uuid[]), $30 window_ms (int8[], how long the id is remembered), $31 partition (int4[],
--     partition number);
--   $33 partition_id (int8[], each partition of the commit once);
--   $37 not_after (int8, ms since 1970 after which nothing is stored any more, null: never).
-- Returns: a row per piece, in order: base offset (null: no record was stored), positions of the records
--   dropped as duplicates, why its request was refused, the partition's high watermark before the commit,
--   commit time. `refused` is null or one of: 'late': it is after $37; 'repeat': a part is not open any more:
--   an earlier sending of the commit took it, or it was abandoned; 'gone': a partition was deleted, or is
--   another tenant's; 'mismatch': the high watermark is not the required one; 'key': another request holds
--   the idempotency key.
-- Locks: each in the order of ids: segments, inline payloads, partitions, request keys, dedup ids. Each step
--   reads the one before, which forces this order. A verdict is reached from locked rows or by a unique
--   index, never from the statement's snapshot, which may be older than the locks.
-- Index: segment_pkey, inline_payload_pkey, topic_partition_pkey, request_key_pkey, dedup_pkey, batch_pkey,
--   answer_pkey.
with at as materialized (
    select c.now, c.now <= coalesce(to_timestamp($37::int8 / 1000.0), 'infinity') as in_time
    from (select date_trunc('milliseconds', clock_timestamp()) as now) c
),
-- A segment is committed once, while it is pending ('p'; 'c' is committed, 'u' unlinked).
claimed_segment as materialized (
    select segment_id from segment
    where segment_id = any ($1::uuid[]) and state = 'p' and (select in_time from at)
    order by segment_id for update
),
-- A payload is inserted once.
claimed_payload as (
    insert into inline_payload (payload_id, committed_at, bytes, payload)
    select u.id, at.now, octet_length(u.body), u.body
    from unnest($4::uuid[], $5::bytea[]) as u(id, body), at
    where at.in_time
    order by u.id
    on conflict do nothing returning payload_id
),
-- Parts that this sending of the commit has claimed.
mine as materialized (
    select segment_id as part_id from claimed_segment union all select payload_id from claimed_payload
),
-- Runs, requests, dedup ids and pieces: the parameters as tables.
run as materialized (
    select u.*
    from unnest(
        $6::uuid[], $7::bool[], $8::int8[], $9::int4[], $10::int4[], $11::int4[], $12::int4[], $13::int8[],
        $14::int8[], $15::int2[]
    )
        with ordinality as u(
            part_id, inline, partition_id, byte_offset, byte_length, raw_bytes, crc, max_timestamp,
            expires_at, flags, run
        )
),
request as materialized (
    select u.*
    from unnest(
        $20::uuid[], $21::uuid[], $22::uuid[], $23::int8[], $24::int8[], $25::bytea[], $36::text[]
    )
        with ordinality as u(request_id, key_hash, body_hash, keep_ms, expect, context, tenant_id, req)
),
dedup_id as materialized (
    select u.* from unnest($26::int4[], $27::int4[], $28::int8[], $29::uuid[], $30::int8[], $31::int4[])
        as u(piece, position, topic_id, id_hash, window_ms, partition)
),
-- The high watermark of each partition that is not deleted, and whose it is.
locked as materialized (
    select p.partition_id, p.high_watermark, p.tenant_id
    from unnest($33::int8[]) u(partition_id)
    join topic_partition p on p.partition_id = u.partition_id
    where not p.deleted and exists (select from mine)
    order by p.partition_id for no key update of p
),
piece as materialized (
    select u.*, l.high_watermark, l.tenant_id
    from unnest($16::int4[], $17::int4[], $18::int4[], $19::int4[], $32::int4[], $34::int8[], $35::uuid[])
        with ordinality as u(req, run, first, records, nth, partition_id, part_id, piece)
    left join locked l on l.partition_id = u.partition_id
),
-- Requests that are refused for one of their pieces. Where several reasons hold, the first of these counts.
refused as materialized (
    select p.req,
        case
            when not (select in_time from at) then 'late'
            when bool_or(m.part_id is null) then 'repeat'
            when bool_or(p.tenant_id is distinct from q.tenant_id) then 'gone'
            else 'mismatch'
        end as why
    from piece p
    join request q on q.req = p.req
    left join mine m on m.part_id = p.part_id
    where m.part_id is null or p.tenant_id is distinct from q.tenant_id or q.expect <> p.high_watermark
    group by p.req
),
-- Takes idempotency keys, those that are new or have expired; a request without its key is refused.
keyed as (
    insert into request_key as k (key_hash, body_hash, request_id, expires_at, tenant_id)
    select q.key_hash, q.body_hash, q.request_id, at.now + q.keep_ms * interval '1 ms', q.tenant_id
    from request q, at
    where q.key_hash is not null and q.req not in (select req from refused)
    order by q.key_hash
    on conflict (key_hash) do update set body_hash = excluded.body_hash, request_id = excluded.request_id,
        expires_at = excluded.expires_at, tenant_id = excluded.tenant_id
        where k.expires_at <= clock_timestamp()
    returning k.request_id
),
accepted as materialized (
    select q.req, q.request_id, q.tenant_id from request q
    where q.req not in (select req from refused)
        and (q.key_hash is null or q.request_id in (select request_id from keyed))
),
-- Of the records of this commit with the same dedup id, the first.
offered as materialized (
    select distinct on (d.topic_id, d.id_hash) d.*, a.request_id, a.tenant_id, p.nth
    from dedup_id d
    join piece p on p.piece = d.piece + 1
    join accepted a on a.req = p.req
    order by d.topic_id, d.id_hash, d.piece, d.position
),
-- Takes their dedup ids, those that are new or have expired.
fresh as (
    insert into dedup as d (
        topic_id, id_hash, request_id, piece, position, partition, expires_at, tenant_id
    )
    select o.topic_id, o.id_hash, o.request_id, o.nth, o.position, o.partition,
        at.now + o.window_ms * interval '1 ms', o.tenant_id
    from offered o, at
    order by o.topic_id, o.id_hash
    on conflict (topic_id, id_hash) do update set request_id = excluded.request_id, piece = excluded.piece,
        position = excluded.position, partition = excluded.partition, expires_at = excluded.expires_at,
        tenant_id = excluded.tenant_id
        where d.expires_at <= clock_timestamp()
    returning d.topic_id, d.id_hash
),
-- Duplicates: the id was known, or is that of an earlier record of this commit.
dropped as materialized (
    select d.piece + 1 as piece, d.position
    from dedup_id d
    join piece p on p.piece = d.piece + 1
    join accepted a on a.req = p.req
    where (d.topic_id, d.id_hash) not in (select topic_id, id_hash from fresh)
        or (d.piece, d.position) not in (select o.piece, o.position from offered o)
),
kept as materialized (
    select p.piece, p.req, p.run, p.nth, p.partition_id, p.high_watermark,
        p.records - coalesce(d.n, 0)::int4 as records, coalesce(d.positions, '{}') as positions
    from piece p
    join accepted a on a.req = p.req
    left join (
        select piece, count(*) as n, array_agg(position order by position) as positions
        from dropped
        group by piece
    ) d on d.piece = p.piece
),
-- Offsets: the kept records of a partition follow each other from its high watermark on, by piece.
placed as materialized (
    select k.*,
        k.high_watermark + (sum(k.records) over (partition by k.partition_id order by k.piece))::int8
            - k.records as base
    from kept k
),
-- Positions of a run that get no offset: records of refused requests, and duplicates.
skipped as materialized (
    select x.run, range_agg(x.positions) as skip
    from (
        select p.run, int4range(p.first, p.first + p.records) as positions
        from piece p
        where p.req not in (select req from accepted)
        union all
        select p.run, int4range(p.first + d.position, p.first + d.position + 1)
        from dropped d
        join piece p on p.piece = d.piece
    ) x
    group by x.run
),
-- Runs of which any record is kept: they become batches.
used as materialized (
    select r.part_id, r.partition_id, x.base, x.records, r.inline, r.byte_offset, r.byte_length, r.raw_bytes,
        r.crc, r.flags, r.max_timestamp, r.expires_at, s.skip
    from (
        select run, min(base) as base, sum(records)::int4 as records from placed
        group by run having sum(records) > 0
    ) x
    join run r on r.run = x.run
    left join skipped s on s.run = x.run
),
batches as (
    insert into batch (
        partition_id, base_offset, records, part_id, inline, byte_offset, byte_length, raw_bytes, crc, flags,
        committed_at, max_timestamp, expires_at, skip
    )
    select u.partition_id, u.base, u.records, u.part_id, u.inline, u.byte_offset, u.byte_length, u.raw_bytes,
        u.crc, u.flags, at.now, u.max_timestamp,
        case when u.expires_at is null then null else to_timestamp(u.expires_at / 1000.0) end, u.skip
    from used u, at
    order by u.partition_id, u.base
),
advanced as (
    update topic_partition p set high_watermark = u.top, bytes = p.bytes + u.bytes
    from (
        select partition_id, max(base + records) as top, sum(byte_length)::int8 as bytes
        from used
        group by partition_id
    ) u
    where p.partition_id = u.partition_id
),
-- A segment of which no record is kept is unlinked at once.
segments as (
    update segment s
    set state = case when coalesce(u.live, 0) > 0 then 'c' else 'u' end::"char", committed_at = at.now,
        bytes = i.bytes, crc = i.crc, live = coalesce(u.live, 0),
        delete_at = case when coalesce(u.live, 0) > 0 then null else at.now end
    from unnest($1::uuid[], $2::int8[], $3::int4[]) as i(id, bytes, crc)
    left join (select part_id, count(*)::int4 as live from used group by part_id) u on u.part_id = i.id
    cross join at
    where s.segment_id = i.id and i.id in (select segment_id from claimed_segment)
),
-- Positions of the dropped records of a request, for its answer.
dropped_of as materialized (
    select x.req, array_agg(x.nth::int8 << 32 | d.position order by x.nth, d.position) as positions
    from dropped d
    join piece x on x.piece = d.piece
    group by x.req
),
-- Kept for retries of requests that have a key or dedup ids.
answers as (
    insert into answer (request_id, expires_at, context, bases, dropped, tenant_id)
    select q.request_id, at.now + q.keep_ms * interval '1 ms', q.context, b.bases,
        coalesce(d.positions, '{}'), q.tenant_id
    from request q
    join (
        select req, array_agg(case when records > 0 then base end order by nth) as bases
        from placed
        group by req
    ) b on b.req = q.req
    left join dropped_of d on d.req = q.req
    cross join at
    where q.keep_ms is not null
)
select p.piece as "piece!", case when k.records > 0 then k.base end as "base?",
    coalesce(k.positions, '{}') as "dropped!",
    case when k.piece is null then coalesce(r.why, 'key') end as "refused?",
    p.high_watermark as "high_watermark?", (extract(epoch from at.now) * 1000)::int8 as "at_ms!"
from piece p
cross join at
left join placed k on k.piece = p.piece
left join refused r on r.req = p.req
order by p.piece
