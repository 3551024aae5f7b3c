-- Replaces batches by others that hold the same offsets in a new segment, as the draining of inline payloads
-- does; only if every input is still as it was read and the segment is not abandoned or unlinked. Several
-- swaps may go into one segment, of a few partitions each, so that none locks many for long.
-- Takes: $1 segment_id (uuid, the new segment), $2 bytes (int8, size of the object), $3 crc (int4, CRC-32C of
--   the object);
--   one element each per batch that is replaced, as it was read: $4 partition_id (int8[]),
--     $5 base_offset (int8[]), $6 records (int4[]), $7 part_id (uuid[]);
--   one element each per batch that replaces them: $8 partition_id (int8[]), $9 base_offset (int8[]),
--     $10 records (int4[]), $11 byte_offset (int4[]), $12 byte_length (int4[]), $13 raw_bytes (int4[]),
--     $14 crc (int4[]), $15 flags (int2[]), $16 committed_at (int8[], in ms since 1970),
--     $17 max_timestamp (int8[]), $18 expires_at (int8[], in ms since 1970, null: never);
--   $19 payload_id (uuid[], inline payloads that hold nothing but these inputs and those of swaps before);
--   $20 plan_ttl_ms (int8, how long an object stays after its last batch was replaced, for reads planned
--     before that).
-- Returns: one row: whether this sending replaced the batches; whether the segment was committed before: if
--   so, the one before may have (see swapped.sql).
-- Locks: the segment, partitions by id, input batches by key, their segments by id.
-- Index: segment_pkey, topic_partition_pkey, batch_pkey, inline_payload_pkey.
with seg as materialized (
    -- States: 'p' pending, 'c' committed, 'u' unlinked.
    select segment_id, state from segment where segment_id = $1 for update
),
input as materialized (
    select *
    from unnest($4::int8[], $5::int8[], $6::int4[], $7::uuid[])
        as u(partition_id, base_offset, records, part_id)
),
home as materialized (
    select p.partition_id
    from (select distinct partition_id from input order by 1) i
    join topic_partition p on p.partition_id = i.partition_id
    where exists (select from seg where state in ('p', 'c'))
    order by p.partition_id for no key update of p
),
-- The inputs that are still as they were read.
locked as materialized (
    select b.id
    from (select * from input order by partition_id, base_offset) i
    cross join lateral (
        select x.ctid as id from batch x
        where x.partition_id = i.partition_id and x.base_offset = i.base_offset and x.part_id = i.part_id
            and x.records = i.records
        limit 1 for update
    ) b
    where (select count(*) from home) > 0
),
agreed as materialized (select (select count(*) from locked) = (select count(*) from input) as yes),
gone as (
    delete from batch b where b.ctid = any (array(select id from locked where (select yes from agreed)))
    returning b.partition_id, b.byte_length, b.part_id, b.inline
),
added as (
    insert into batch (
        partition_id, base_offset, records, part_id, inline, byte_offset, byte_length, raw_bytes, crc, flags,
        committed_at, max_timestamp, expires_at
    )
    select u.partition_id, u.base_offset, u.records, $1, false, u.byte_offset, u.byte_length, u.raw_bytes,
        u.crc, u.flags, to_timestamp(u.committed_at / 1000.0), u.max_timestamp,
        case when u.expires_at is null then null else to_timestamp(u.expires_at / 1000.0) end
    from unnest(
        $8::int8[], $9::int8[], $10::int4[], $11::int4[], $12::int4[], $13::int4[], $14::int4[], $15::int2[],
        $16::int8[], $17::int8[], $18::int8[]
    )
        as u(
            partition_id, base_offset, records, byte_offset, byte_length, raw_bytes, crc, flags, committed_at,
            max_timestamp, expires_at
        )
    where (select count(*) from gone) > 0
    returning partition_id, byte_length
),
sized as (
    update topic_partition p set bytes = p.bytes + d.bytes
    from (
        select partition_id, sum(bytes)::int8 as bytes
        from (
            select partition_id, byte_length::int8 as bytes from added
            union all
            select partition_id, -byte_length::int8 from gone
        ) x
        group by partition_id
    ) d
    where p.partition_id = d.partition_id
),
kept as (
    update segment s
    set state = 'c', committed_at = clock_timestamp(), bytes = $2, crc = $3,
        live = s.live + (select count(*)::int4 from added)
    where s.segment_id = $1 and (select yes from agreed)
),
-- The segments that the inputs lay in; one that holds no batch any more is unlinked.
emptied as materialized (
    select s.segment_id, s.live
    from (select distinct part_id from gone where not inline order by 1) g
    join segment s on s.segment_id = g.part_id
    order by s.segment_id for update of s
),
unlinked as (
    update segment s
    set live = l.live - g.n, state = case when l.live - g.n > 0 then s.state else 'u' end,
        delete_at = case when l.live - g.n > 0 then null
            else clock_timestamp() + $20::int8 * interval '1 ms' end
    from emptied l
    join (select part_id, count(*)::int4 as n from gone group by part_id) g on g.part_id = l.segment_id
    where s.segment_id = l.segment_id
),
drained as (
    update inline_payload set drained_at = clock_timestamp()
    where payload_id = any ($19::uuid[]) and drained_at is null and (select yes from agreed)
)
select (select yes from agreed) as "swapped!",
    exists (select from seg where state = 'c') as "committed!"
