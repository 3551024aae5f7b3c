-- Gives dead records of a queue another chance, with no failures: those named (all of them, or none if one is
-- not dead), or, step by step, those whose reason matches a pattern, or all. Records that retention has
-- unlinked stay dead.
-- Takes: $1 queue_id (int8);
--   $2 named (bool, the records are named by $3 and $4);
--   one element each per record named: $3 partition_id (int8[]), $4 record_offset (int8[]);
--   $5 pattern (text, for `like`, null: all), if not $2;
--   $6 max_rate (float8, records a second at which they become due; null: all at once);
--   $7 tenant_id (text);
--   if not $2, the step: $8 partition_id (int8), $9 record_offset (int8): it begins after this record;
--     $10 limit (int8): how many dead records it looks at.
--   $11 begun_ms (int8, when the first step began, null in that); $12 redriven (int8, by the steps before).
-- Returns: one row: 'done'; 'again': the queue changed while the statement waited for its lock, nothing was
--   done, send it again; 'clearing': a seek is under way, nothing was done; or 'gone': the tenant has no such
--   queue. `missing`: number, from 1, of the first record named that is not dead: nothing was done.
--   `records`: how many were given back. Where the next step begins, if there may be one, and when the first
--   began.
-- Locks: the queue's flow in share mode, dead records by partition and offset, keys by partition and key, the
--   counts that belong to no agent.
-- Index: queue_flow_pkey, queue_pkey, dead_pkey, topic_partition_pkey, waiting_pkey, admitted_pkey,
--   queue_key_pkey, queue_agent_pkey.
with held as materialized (
    -- The queue's flow; `turn` tells whether the queue changed while its lock was waited for.
    select turn from queue_flow where queue_id = $1::int8 and not clearing for share
),
flow as materialized (
    select q.keyed, x.now, coalesce(timestamptz 'epoch' + $11::int8 * interval '1 ms', x.now) as begun
    from held h
    join queue_flow f on f.queue_id = $1 and f.turn = h.turn
    join queue q on q.queue_id = $1 and q.tenant_id || '' = $7 and q.deleted_at is null
    cross join (select date_trunc('milliseconds', clock_timestamp()) as now) x
),
named as materialized (
    select u.nth, d.* from (
        select u.*
        from flow
        cross join unnest($3::int8[], $4::int8[]) with ordinality as u(partition_id, record_offset, nth)
        where $2::bool order by u.partition_id, u.record_offset
    ) u
    cross join lateral (
        select x.ctid as id, x.partition_id, x.record_offset from dead x
        where x.queue_id = $1 and x.partition_id = u.partition_id and x.record_offset = u.record_offset
        limit 1 for update
    ) d
),
missing as materialized (
    select min(u.nth) as nth
    from flow
    cross join unnest($3, $4) with ordinality as u(partition_id, record_offset, nth)
    where $2 and not (u.nth = any (array(select nth from named)))
),
looked as materialized (
    select x.ctid as id, x.partition_id, x.record_offset, x.reason from dead x
    where not $2 and x.queue_id = $1 and (x.partition_id, x.record_offset) > ($8::int8, $9::int8)
        and exists (select from flow)
    order by x.partition_id, x.record_offset limit $10
),
matched as materialized (
    select x.ctid as id, x.partition_id, x.record_offset from dead x
    where x.ctid = any (array(select id from looked where $5::text is null or reason like $5))
    order by x.partition_id, x.record_offset for update
),
chosen as materialized (
    select c.id from (
        select id, partition_id, record_offset from named
        where (select nth from missing) is null
        union all
        select id, partition_id, record_offset from matched
    ) c
    join topic_partition p on p.partition_id = c.partition_id and c.record_offset >= p.log_start_offset
),
taken as (
    delete from dead
    where ctid = any (array(select id from chosen))
    returning partition_id, record_offset, attempt, key_hash
),
-- When each is due, and which of them follow each other: those of one island.
placed as materialized (
    select t.*, f.keyed,
        f.begun + floor(
            ($12::int8 + row_number() over (order by t.partition_id, t.record_offset) - 1) * 1000.0::float8
                / $6::float8
        ) * interval '1 ms' as due_at,
        t.record_offset
            - row_number() over (partition by t.partition_id, t.attempt order by t.record_offset) as island
    from taken t cross join flow f
),
waits as (
    insert into waiting (queue_id, partition_id, lo, hi, due_at, attempt, failures, alone)
    select $1, p.partition_id, min(p.record_offset), max(p.record_offset) + 1, coalesce(p.due_at, f.now),
        p.attempt, 0, false
    from placed p
    cross join flow f
    where not p.keyed
    group by p.partition_id, p.attempt, p.island, p.due_at, f.now
),
listed as (
    insert into admitted (queue_id, partition_id, record_offset, key_hash, due_at, attempt)
    select $1, p.partition_id, p.record_offset, p.key_hash, p.due_at, p.attempt from placed p where p.keyed
    returning partition_id, key_hash, record_offset, due_at
),
keyed as (
    insert into queue_key as k (queue_id, partition_id, key_hash, records, due_at)
    select $1, l.partition_id, l.key_hash, l.records,
        case when l.due_at > f.now then l.due_at else '-infinity' end
    from flow f
    cross join (
        select partition_id, key_hash, count(*)::int4 as records,
            (array_agg(due_at order by record_offset))[1] as due_at
        from listed group by partition_id, key_hash
    ) l
    order by l.partition_id, l.key_hash
    -- One of these may have become the lowest record of its key: the next grant looks at it.
    on conflict (queue_id, partition_id, key_hash) do update set records = k.records + excluded.records,
        turn = k.turn + 1, due_at = '-infinity'
    returning 1
),
counted as materialized (select count(*) as n from placed),
-- Postgres runs steps that change rows and that no other step reads in reverse order. This one reads `keyed`,
-- so that its row is locked last. The nil id stands for no agent in particular.
noted as (
    insert into queue_agent as a (queue_id, agent_id, dead, waiting, rated_at)
    select $1, '00000000-0000-0000-0000-000000000000', -c.n, c.n, f.now
    from counted c, flow f
    where c.n > 0 and (select count(*) from keyed) >= 0
    on conflict (queue_id, agent_id) do update set dead = a.dead + excluded.dead,
        waiting = a.waiting + excluded.waiting
)
select case
        when exists (select from flow) then 'done'
        when not exists (
            select from queue where queue_id = $1 and tenant_id || '' = $7 and deleted_at is null
        ) then 'gone'
        when exists (select from queue_flow where queue_id = $1 and clearing) then 'clearing'
        else 'again'
    end as "status!",
    (select nth from missing) as "missing?", c.n as "records!", l.partition_id as "partition_id?",
    l.record_offset as "record_offset?", (extract(epoch from f.begun) * 1000)::int8 as "begun_ms?"
from counted c
left join flow f on true
left join (
    select partition_id, record_offset from looked
    where (select count(*) from looked) >= $10
    order by partition_id desc, record_offset desc limit 1
) l on true
