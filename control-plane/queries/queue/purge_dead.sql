-- Deletes dead records of a queue: those named (all of them, or none if one is not dead), or, step by step,
-- those whose reason matches a pattern, or all.
-- Takes: $1 queue_id (int8);
--   $2 named (bool, the records are named by $3 and $4);
--   one element each per record named: $3 partition_id (int8[]), $4 record_offset (int8[]);
--   $5 pattern (text, for `like`, null: all), if not $2;
--   $6 tenant_id (text);
--   if not $2, the step: $7 partition_id (int8), $8 record_offset (int8): it begins after this record;
--     $9 limit (int8): how many dead records it looks at.
-- Returns: one row, as redrive.sql does.
-- Locks: the queue's flow in share mode, dead records by partition and offset, the counts that belong to no
--   agent.
-- Index: queue_flow_pkey, queue_pkey, dead_pkey, queue_agent_pkey.
with held as materialized (
    -- The queue's flow; `turn` tells whether the queue changed while its lock was waited for.
    select turn from queue_flow where queue_id = $1::int8 and not clearing for share
),
flow as materialized (
    select date_trunc('milliseconds', clock_timestamp()) as now
    from held h
    join queue_flow f on f.queue_id = $1 and f.turn = h.turn
    join queue q on q.queue_id = $1 and q.tenant_id || '' = $6 and q.deleted_at is null
),
named as materialized (
    select u.nth, d.* from (
        select u.*
        from flow
        cross join unnest($3::int8[], $4::int8[]) with ordinality as u(partition_id, record_offset, nth)
        where $2::bool order by u.partition_id, u.record_offset
    ) u
    cross join lateral (
        select x.ctid as id from dead x
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
    where not $2 and x.queue_id = $1 and (x.partition_id, x.record_offset) > ($7::int8, $8::int8)
        and exists (select from flow)
    order by x.partition_id, x.record_offset limit $9
),
matched as materialized (
    select x.ctid as id, x.partition_id, x.record_offset from dead x
    where x.ctid = any (array(select id from looked where $5::text is null or reason like $5))
    order by x.partition_id, x.record_offset for update
),
taken as (
    delete from dead
    where ctid = any (array(
        select id from named where (select nth from missing) is null union all select id from matched
    ))
    returning 1
),
counted as materialized (select count(*) as n from taken),
-- The nil id stands for no agent in particular.
noted as (
    insert into queue_agent as a (queue_id, agent_id, dead, purged, rated_at)
    select $1, '00000000-0000-0000-0000-000000000000', -c.n, c.n, f.now from counted c, flow f where c.n > 0
    on conflict (queue_id, agent_id) do update set dead = a.dead + excluded.dead,
        purged = a.purged + excluded.purged
)
select case
        when exists (select from flow) then 'done'
        when not exists (
            select from queue where queue_id = $1 and tenant_id || '' = $6 and deleted_at is null
        ) then 'gone'
        when exists (select from queue_flow where queue_id = $1 and clearing) then 'clearing'
        else 'again'
    end as "status!",
    (select nth from missing) as "missing?", c.n as "records!", l.partition_id as "partition_id?",
    l.record_offset as "record_offset?"
from counted c
left join (
    select partition_id, record_offset from looked
    where (select count(*) from looked) >= $9
    order by partition_id desc, record_offset desc limit 1
) l on true
