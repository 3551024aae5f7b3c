-- Commits records to the log as commit.sql does, for the frequent case in which no request has an idempotency
-- key, a dedup id or a required offset. It costs less, and stores all or nothing.
-- Takes: one element each per segment: $1 segment_id (uuid[]), $2 bytes (int8[], size of the object),
--   $3 crc (int4[], CRC-32C of the object), $20 live (int4[], how many of the runs lie in it);
--   one element each per inline payload: $4 payload_id (uuid[]), $5 payload (bytea[]);
--   one element each per run: $6 part_id (uuid[]), $7 inline (bool[]), $8 partition_id (int8[]),
--     $9 byte_offset (int4[]), $10 byte_length (int4[]), $11 raw_bytes (int4[]), $12 crc (int4[]),
--     $13 max_timestamp (int8[]), $14 expires_at (int8[]), $15 flags (int2[]), all as in commit.sql,
--     $19 records (int4[], how many);
--   one element each per partition, sorted by id: $16 partition_id (int8[]), $17 records (int8[]) and
--     $18 bytes (int8[]) that the commit adds to it, $21 tenant_id (text[], on whose behalf);
--   $22 not_after (int8, ms since 1970 after which nothing is stored any more, null: never).
-- Returns: a row per run, in order: base offset, commit time. No row when a part is not open any more, or it
--   is after $22; the error division_by_zero when a partition was deleted or is another tenant's. Nothing was
--   changed in either case, and commit.sql finds out which request is concerned.
-- Locks: each in the order of ids: segments, inline payloads, partitions. A partition is locked by the update
--   of its high watermark, which takes them in the order of the array.
-- Index: segment_pkey, inline_payload_pkey, topic_partition_pkey, batch_pkey. Each step reads the one before,
--   which forces their order.
with at as materialized (
    select c.now, c.now <= coalesce(to_timestamp($22::int8 / 1000.0), 'infinity') as in_time
    from (select date_trunc('milliseconds', clock_timestamp()) as now) c
),
claimed_segment as materialized (
    select segment_id from segment
    where segment_id = any ($1::uuid[]) and state = 'p' and (select in_time from at)
    order by segment_id for update
),
claimed_payload as (
    insert into inline_payload (payload_id, committed_at, bytes, payload)
    select u.id, at.now, octet_length(u.body), u.body from unnest($4::uuid[], $5::bytea[]) as u(id, body), at
    where (select count(*) from claimed_segment) = cardinality($1::uuid[]) and at.in_time
    order by u.id
    on conflict do nothing returning payload_id
),
claimed as materialized (
    select (select count(*) from claimed_segment) = cardinality($1::uuid[])
        and (select count(*) from claimed_payload) = cardinality($4::uuid[]) as yes
),
advanced as (
    update topic_partition p set high_watermark = p.high_watermark + u.records, bytes = p.bytes + u.bytes
    from unnest($16::int8[], $17::int8[], $18::int8[], $21::text[])
        as u(partition_id, records, bytes, tenant_id)
    where p.partition_id = u.partition_id and p.tenant_id = u.tenant_id and not p.deleted
        and (select yes from claimed)
    returning p.partition_id, p.high_watermark - u.records as base
),
-- Divides by zero when a partition was left out, which undoes what was done to the others.
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
