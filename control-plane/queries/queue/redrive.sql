-- Gives dead records of a queue another chance, with no failures: those named (all of them, or none if one is
-- not dead), or those whose reason matches a pattern, or all. Records that retention has unlinked stay dead.
-- Takes: $1 queue_id (int8);
--   $2 named (bool, the records are named by $3 and $4);
--   one element each per record named: $3 partition_id (int8[]), $4 record_offset (int8[]);
--   $5 pattern (text, for `like`, null: all), if not $2;
--   $6 max_rate (float8, records a second at which they become due; null: all at once);
--   $7 tenant_id (text).
-- Returns: one row: 'done'; 'again': the queue changed while the statement waited for its lock, nothing was
--   done, send it again; or 'gone': the tenant has no such queue. `missing`: number, from 1, of the first
--   record named that is not dead: nothing was done. `records`: how many were given back.
-- Locks: the queue's flow in share mode, dead records by partition and offset, keys by partition and key, the
--   counts that belong to no agent.
-- Index: queue_flow_pkey, queue_pkey, dead_pkey, topic_partition_pkey, waiting_pkey, admitted_pkey,
--   queue_key_pkey, queue_agent_pkey.
with held as materialized (
    -- The queue's flow; `turn` tells whether the queue changed while its lock was waited for.
    select turn from queue_flow where queue_id = $1::int8 for share
),
flow as materialized (
    select q.keyed, date_trunc('milliseconds', clock_timestamp()) as now
    from held h
    join queue_flow f on f.queue_id = $1 and f.turn = h.turn
    join queue q on q.queue_id = $1 and q.tenant_id || '' = $7 and q.deleted_at is null
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
matched as materialized (
    select x.ctid as id, x.partition_id, x.record_offset from dead x
    where not $2 and x.queue_id = $1 and ($5::text is null or x.reason like $5) and exists (select from flow)
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
        f.now + floor(
            (row_number() over (order by t.partition_id, t.record_offset) - 1) * 1000.0::float8 / $6::float8
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
    returning partition_id, key_hash
),
keyed as (
    insert into queue_key as k (queue_id, partition_id, key_hash, records)
    select $1, l.partition_id, l.key_hash, count(*)::int4 from listed l
    group by l.partition_id, l.key_hash
    order by l.partition_id, l.key_hash
    on conflict (queue_id, partition_id, key_hash) do update set records = k.records + excluded.records,
        turn = k.turn + 1
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
        when exists (
            select from queue where queue_id = $1 and tenant_id || '' = $7 and deleted_at is null
        ) then 'again'
        else 'gone'
    end as "status!",
    (select nth from missing) as "missing?", c.n as "records!"
from counted c
