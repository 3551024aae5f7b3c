-- Acks leased records of a shared queue as settle.sql does, for the frequent case in which nothing but acks
-- is sent, and of each lease either runs are named or all of it. It costs less than half.
-- Takes: $1 queue_id (int8);
--   $2 agent_id (uuid, the agent that counts it), $3 op (uuid, identity of this settlement);
--   $4 leased (int8, records that the agent leased out since its last settlement, for the rate);
--   one element each per entry: $5 lease_id (uuid[]), $6 partition_id (int8[]), $7 attempt (int4[]),
--     $8 lo (int8[]), $9 hi (int8[]), all as in settle.sql;
--   $10 tenant_id (text).
-- Returns: one row, as settle.sql does. `plain` is false when nothing was done and settle.sql has to be sent
--   instead; `keyed` says that this is so for every settlement of the queue.
-- Locks: lease parts by lease and part, then the agent's row.
-- Index: queue_pkey, lease_pkey, queue_agent_pkey.
with target as materialized (
    select q.queue_id from queue q
    where q.queue_id = $1::int8 and q.tenant_id || '' = $10::text and q.deleted_at is null and not q.keyed
        and not exists (
            select from queue_agent a
            where a.queue_id = $1 and a.agent_id = $2::uuid and a.settle_op = $3::uuid
        )
),
entry as materialized (
    select u.*
    from unnest($5::uuid[], $6::int8[], $7::int4[], $8::int8[], $9::int8[])
        with ordinality as u(lease_id, partition_id, attempt, lo, hi, nth)
),
held as materialized (
    select l.lease_id, l.part, l.partition_id, l.attempt, l.pending from lease l
    where l.lease_id = any (array(select distinct lease_id from entry))
        and l.queue_id = (select queue_id from target)
    order by l.lease_id, l.part for update
),
-- What each entry gets of each lease part. The full join could be an inner join: it is full because Postgres
-- joins these by hash, while it would take a nested loop for an inner join of steps, whose size it cannot
-- estimate. Rows without a partner are dropped in the step after.
met as materialized (
    select e.nth, h.lease_id, h.part, h.partition_id, h.pending,
        case when e.lo is null then h.pending
            when e.partition_id = h.partition_id and e.attempt = h.attempt
                then h.pending * int8multirange(int8range(e.lo, e.hi)) end as got
    from entry e full join held h on h.lease_id = e.lease_id
),
-- What is left of each lease part.
rest as materialized (
    select m.lease_id, m.part, m.pending - coalesce(range_agg(r), '{}') as rest, count(r) > 0 as touched
    from met m left join lateral unnest(m.got) r on m.nth is not null
    where m.part is not null
    group by m.lease_id, m.part, m.pending
),
ended as (
    delete from lease
    where lease_id = any (array(select lease_id from rest group by lease_id having bool_and(rest = '{}')))
),
dropped as (
    delete from lease l using rest c
    where l.lease_id = any (array(
        select lease_id from rest group by lease_id having bool_or(rest <> '{}') and bool_or(rest = '{}')
    ))
        and c.lease_id = l.lease_id and c.part = l.part and c.rest = '{}'
),
cut as (
    update lease l set pending = c.rest from rest c
    where l.lease_id = any (array(select lease_id from rest where touched and rest <> '{}'))
        and c.lease_id = l.lease_id and c.part = l.part
        and c.touched and c.rest <> '{}'
),
-- Every outcome is 0, acked.
verdict as materialized (
    select count(*) as runs, coalesce(sum(f.hi - f.lo), 0)::int8 as records,
        array(
            select v
            from (
                select m.nth, m.partition_id, lower(r) as lo, upper(r) as hi
                from met m
                cross join lateral unnest(m.got) r
                where m.nth is not null
                order by 1, 2, 3
            ) x
            cross join lateral unnest(array[(x.nth - 1) * 8, x.partition_id, x.lo, x.hi]) v
        ) as verdicts,
        (select date_trunc('milliseconds', clock_timestamp()) from (select count(*) from held) h) as now
    from (
        select lower(r) as lo, upper(r) as hi
        from met m
        cross join lateral unnest(m.got) r
        where m.nth is not null
    ) f
),
noted as (
    insert into queue_agent as a (
        queue_id, agent_id, acked, settle_op, settle_at, settle_verdicts, lease_rate, settle_rate, rated_at
    )
    select $1, $2, v.records, $3, v.now, v.verdicts, $4::int8 / 60.0::float8, v.records / 60.0::float8, v.now
    from verdict v
    where v.runs > 0
    on conflict (queue_id, agent_id) do update set acked = a.acked + excluded.acked,
        settle_op = excluded.settle_op, settle_at = excluded.settle_at,
        settle_verdicts = excluded.settle_verdicts,
        lease_rate = a.lease_rate
            * exp(-least(greatest(extract(epoch from excluded.rated_at - a.rated_at)::float8, 0), 6000) / 60)
            + excluded.lease_rate,
        settle_rate = a.settle_rate
            * exp(-least(greatest(extract(epoch from excluded.rated_at - a.rated_at)::float8, 0), 6000) / 60)
            + excluded.settle_rate,
        rated_at = excluded.rated_at
    where a.settle_op is distinct from excluded.settle_op
    returning 1
)
select v.verdicts as "verdicts!", (extract(epoch from v.now) * 1000)::int8 as "at_ms!",
    (v.runs = 0 or exists (select from noted)) as "current!", exists (select from target) as "plain!",
    exists (select from queue where queue_id = $1 and tenant_id || '' = $10 and keyed) as "keyed!"
from verdict v
