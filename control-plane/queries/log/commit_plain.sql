-- Gives offsets to runs whose requests have neither key nor dedup id nor expected offset, all of them or none.
-- Returns a row per run: base offset and commit time; no row when a part was claimed before. A partition that is gone makes it fail
--   with division_by_zero. In both cases nothing was changed, and the statement of `commit.sql` says what is wrong with whom.
-- Locks, each in the order of ids: segments, inline payloads, partitions: the update of a high watermark is its lock, and takes them in
--   the order of the array, which the caller has sorted. A commit is sent again as a whole, so its parts are claimed all or none.
-- Index: primary keys. Each step reads the one before, so their order is a data dependency.
with at as materialized (select date_trunc('milliseconds', clock_timestamp()) as now),
claimed_segment as materialized (
    select segment_id from segment
    where segment_id = any ($1::uuid[]) and state = 'p'
    order by segment_id for update
),
claimed_payload as (
    insert into inline_payload (payload_id, committed_at, bytes, payload)
    select u.id, at.now, octet_length(u.body), u.body from unnest($4::uuid[], $5::bytea[]) as u(id, body), at
    where (select count(*) from claimed_segment) = cardinality($1::uuid[])
    order by u.id
    on conflict do nothing returning payload_id
),
claimed as materialized (
    select (select count(*) from claimed_segment) = cardinality($1::uuid[])
        and (select count(*) from claimed_payload) = cardinality($4::uuid[]) as yes
),
advanced as (
    update topic_partition p set high_watermark = p.high_watermark + u.records, bytes = p.bytes + u.bytes
    from unnest($16::int8[], $17::int8[], $18::int8[]) as u(partition_id, records, bytes)
    where p.partition_id = u.partition_id and not p.deleted and (select yes from claimed)
    returning p.partition_id, p.high_watermark - u.records as base
),
whole as materialized (
    select 1 / (
        not (select yes from claimed) or (select count(*) from advanced) = cardinality($16::int8[])
    )::int4 as one
),
placed as materialized (
    select r.*,
        (a.base + sum(r.records) over (partition by r.partition_id order by r.run) - r.records)::int8 as first
    from unnest(
        $6::uuid[], $7::bool[], $8::int8[], $9::int4[], $10::int4[], $11::int4[], $12::int4[], $13::int8[],
        $14::int8[], $15::int2[], $19::int4[]
    )
        with ordinality as r(
            part_id, inline, partition_id, byte_offset, byte_length, raw_bytes, crc, max_timestamp,
            expires_at, flags, records, run
        )
    join advanced a on a.partition_id = r.partition_id
    where (select one from whole) = 1
),
batches as (
    insert into batch (
        partition_id, base_offset, records, part_id, inline, byte_offset, byte_length, raw_bytes, crc, flags,
        committed_at, max_timestamp, expires_at
    )
    select u.partition_id, u.first, u.records, u.part_id, u.inline, u.byte_offset, u.byte_length, u.raw_bytes,
        u.crc, u.flags, at.now, u.max_timestamp,
        case when u.expires_at is null then null else to_timestamp(u.expires_at / 1000.0) end
    from placed u, at
),
segments as (
    update segment s set state = 'c', committed_at = at.now, bytes = i.bytes, crc = i.crc, live = i.live
    from unnest($1::uuid[], $2::int8[], $3::int4[], $20::int4[]) as i(id, bytes, crc, live), at
    where s.segment_id = i.id and (select yes from claimed)
)
select p.run as "run!", p.first as "base!", (extract(epoch from at.now) * 1000)::int8 as "at_ms!"
from placed p, at
order by p.run
