-- Moves a queue's cursor past records that an agent had to read before they can be given out. In a shared
-- queue these are delayed records: they wait as runs until they are due. In a keyed queue these are all
-- records: each is admitted, that is, listed under its key.
-- Takes: $1 queue_id (int8);
--   $2 agent_id (uuid, the agent that counts it);
--   $3 partition_id (int8);
--   $4 from_offset (int8, where the cursor must stand), $5 to_offset (int8, where it goes);
--   for shared queues, one element each per run of records: $6 lo (int8[], first offset), $7 hi (int8[],
--     offset after the last), $8 due_ms (int8[], when they may be given out in ms since 1970, null: at once);
--   for keyed queues, one element each per record: $9 record_offset (int8[]), $10 key_hash (int8[]),
--     $11 due_ms (int8[], as above);
--   $12 tenant_id (text).
-- Returns: one row: 'moved'; 'stale': the cursor stands elsewhere, or a seek is under way; 'again': the queue
--   changed while the statement waited for its lock, nothing was done, send it again; 'gone': the tenant has
--   no such queue.
-- Locks: the queue's flow in share mode, the cursor, the keys in order, the agent's row.
-- Index: queue_flow_pkey, queue_pkey, queue_cursor_pkey, waiting_pkey, admitted_pkey, queue_key_pkey,
--   queue_agent_pkey.
with held as materialized (
    -- The queue's flow; `turn` tells whether the queue changed while its lock was waited for.
    select turn from queue_flow where queue_id = $1::int8 and not clearing for share
),
flow as materialized (
    select date_trunc('milliseconds', clock_timestamp()) as now
    from held h
    join queue_flow f on f.queue_id = $1 and f.turn = h.turn
    join queue q on q.queue_id = $1 and q.tenant_id || '' = $12 and q.deleted_at is null
),
moved as (
    update queue_cursor c set next_offset = $5::int8
    from flow
    where c.queue_id = $1 and c.partition_id = $3::int8 and c.next_offset = $4::int8
    returning flow.now
),
waits as (
    insert into waiting (queue_id, partition_id, lo, hi, due_at, attempt, failures, alone)
    select $1, $3, u.lo, u.hi, coalesce(timestamptz 'epoch' + u.due_ms * interval '1 ms', m.now), 0, 0, false
    from moved m cross join unnest($6::int8[], $7::int8[], $8::int8[]) as u(lo, hi, due_ms)
    returning hi - lo as records
),
listed as (
    insert into admitted (queue_id, partition_id, record_offset, key_hash, due_at)
    select $1, $3, u.record_offset, u.key_hash, timestamptz 'epoch' + u.due_ms * interval '1 ms'
    from moved cross join unnest($9::int8[], $10::int8[], $11::int8[]) as u(record_offset, key_hash, due_ms)
    returning key_hash, record_offset, due_at
),
keyed as (
    -- A key that is there already has a lower record, on which its due time depends.
    insert into queue_key as k (queue_id, partition_id, key_hash, records, due_at)
    select $1, $3, l.key_hash, l.records, case when l.due_at > m.now then l.due_at else '-infinity' end
    from moved m
    cross join (
        select key_hash, count(*)::int4 as records, (array_agg(due_at order by record_offset))[1] as due_at
        from listed group by key_hash
    ) l
    order by l.key_hash
    on conflict (queue_id, partition_id, key_hash) do update set records = k.records + excluded.records,
        turn = k.turn + 1
    returning 1
),
-- Postgres runs steps that change rows and that no other step reads in reverse order. This one reads `keyed`,
-- so that the agent's row is locked last.
noted as (
    insert into queue_agent as a (queue_id, agent_id, waiting, rated_at)
    select $1, $2::uuid, (select coalesce(sum(records), 0)::int8 from waits) + (select count(*) from listed),
        m.now
    from moved m
    where (select count(*) from keyed) >= 0
    on conflict (queue_id, agent_id) do update set waiting = a.waiting + excluded.waiting
)
select case
        when exists (select from moved) then 'moved'
        when exists (select from flow) then 'stale'
        when exists (
            select from queue_flow f join queue q on q.queue_id = f.queue_id
            where f.queue_id = $1 and f.clearing and q.tenant_id || '' = $12 and q.deleted_at is null
        ) then 'stale'
        when exists (
            select from queue where queue_id = $1 and tenant_id || '' = $12 and deleted_at is null
        ) then 'again'
        else 'gone'
    end as "status!"
