-- Gives offsets to runs whose requests have neither key nor dedup id nor expected offset, all of them or none.
-- Returns a row per run: base offset and commit time; no row when a part was claimed before or a partition is gone: then nothing
--   was changed, and the statement of `commit.sql` says what is wrong with whom.
-- Locks partitions, then segments, then inline payloads, each in the order of ids. A commit is sent again as a whole, so its parts
--   are claimed all or none.
-- Index: primary keys. Each step reads the one before, so their order is a data dependency.
with at as materialized (select date_trunc('milliseconds', clock_timestamp()) as now),
locked as materialized (
    select p.partition_id, p.high_watermark
    from unnest($16::int8[]) u(partition_id)
    join topic_partition p on p.partition_id = u.partition_id
    where not p.deleted
    order by p.partition_id for no key update of p
),
alive as materialized (select (select count(*) from locked) = cardinality($16::int8[]) as yes),
claimed_segment as materialized (
    select segment_id from segment where segment_id = any ($1::uuid[]) and state = 'p' and (select yes from alive) order by segment_id for update
),
claimed_payload as (
    insert into inline_payload (payload_id, committed_at, bytes, payload)
    select u.id, at.now, octet_length(u.body), u.body from unnest($4::uuid[], $5::bytea[]) as u(id, body), at
    where (select yes from alive) and (select count(*) from claimed_segment) = cardinality($1::uuid[])
    order by u.id
    on conflict do nothing returning payload_id
),
claimed as materialized (
    select (select yes from alive) and (select count(*) from claimed_segment) = cardinality($1::uuid[])
        and (select count(*) from claimed_payload) = cardinality($4::uuid[]) as yes
),
placed as materialized (
    select r.*, (l.high_watermark + sum(r.records) over (partition by r.partition_id order by r.run) - r.records)::int8 as base
    from unnest($6::uuid[], $7::bool[], $8::int8[], $9::int4[], $10::int4[], $11::int4[], $12::int4[], $13::int8[], $14::int8[], $15::int2[], $17::int4[])
        with ordinality as r(part_id, inline, partition_id, byte_offset, byte_length, raw_bytes, crc, max_timestamp, expires_at, flags, records, run)
    join locked l on l.partition_id = r.partition_id
    where (select yes from claimed)
),
batches as (
    insert into batch (partition_id, base_offset, records, part_id, inline, byte_offset, byte_length, raw_bytes, crc, flags, committed_at, max_timestamp, expires_at)
    select u.partition_id, u.base, u.records, u.part_id, u.inline, u.byte_offset, u.byte_length, u.raw_bytes, u.crc, u.flags, at.now, u.max_timestamp,
        case when u.expires_at is null then null else to_timestamp(u.expires_at / 1000.0) end
    from placed u, at
),
advanced as (
    update topic_partition p set high_watermark = u.top, bytes = p.bytes + u.bytes
    from (select partition_id, max(base + records) as top, sum(byte_length)::int8 as bytes from placed group by partition_id) u
    where p.partition_id = u.partition_id
),
segments as (
    update segment s set state = 'c', committed_at = at.now, bytes = i.bytes, crc = i.crc, live = i.live
    from unnest($1::uuid[], $2::int8[], $3::int4[], $18::int4[]) as i(id, bytes, crc, live), at
    where s.segment_id = i.id and (select yes from claimed)
)
select p.run as "run!", p.base as "base!", (extract(epoch from at.now) * 1000)::int8 as "at_ms!" from placed p, at order by p.run
