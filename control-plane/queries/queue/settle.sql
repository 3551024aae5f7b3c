-- Settles leased records of one queue, as far as their leases still hold them: acks, nacks, rejects,
-- releases, expires or renews them. An entry names a run of records of a lease, or all of a lease that no
-- other entry names. Settled records leave their lease. Renewed records get a new deadline; unless they are
-- all that is left of their lease part, they move to a part of their own.
-- Sent again, it answers what it did the first time.
-- Takes: $1 queue_id (int8);
--   $2 agent_id (uuid, the agent that counts it; the nil id for acks that are part of a commit);
--   $3 op (uuid, identity of this settlement);
--   $4 keep (bool, store the outcome under the identity for a time; otherwise only until the agent's next
--     settlement);
--   $5 random (float8, 0 to 1, drawn by the agent, for the jitter of the retry delay);
--   $6 leased (int8, records that the agent leased out since its last settlement, for the rate);
--   one element each per entry: $7 lease_id (uuid[]), $8 partition_id (int8[]), $9 attempt (int4[], as which
--     the lease gave the records out), $10 lo (int8[], first offset), $11 hi (int8[], offset after the last),
--     $12 action (text[], 'ack', 'nack', 'reject', 'release', 'expire' or 'renew'), $13 ms (int8[], delay of
--     a nack, null: by the retry policy; new length of a renewed lease), $14 counts (bool[], a nack counts as
--     a failure), $15 reason (text[], of a nack or reject); $8 to $11 are null when the entry names the whole
--     lease;
--   $16 operation_ttl_ms (int8, how long the outcome is stored if $4);
--   $17 tenant_id (text, in the queue of another nothing is held).
-- Returns: one row: verdicts, four numbers for each run of records that was settled: (entry, from 0) * 8 +
--   outcome, partition, lo, hi; the outcomes are 0 acked, 1 released, 2 renewed, 3 dead, 4 expired (stored
--   like this, and read by `verdict` in control-plane/src/postgres/queue/columns.rs); and the time.
--   `repeated`: the settlement was carried out before, and this is what it did then. `current` is false when
--   another sending of it was carried out while this one waited: send it again. Fails with 23505 (unique
--   violation) when another renews the same lease or sends the same settlement at the same time: send it
--   again.
-- Locks: lease parts by lease and part, then keys by partition and key, then the agent's row.
-- Index: queue_operation_pkey, queue_agent_pkey, queue_pkey, lease_pkey, waiting_pkey, dead_pkey,
--   admitted_pkey, queue_key_pkey, queue_key_hash.
with own as materialized (
    -- The queue, also when it was deleted.
    select q.queue_id, q.keyed, q.max_failures, q.ladder, q.jitter, q.deleted_at from queue q
    where q.queue_id = $1::int8 and q.tenant_id || '' = $17::text
),
-- The outcome of an earlier sending of this settlement.
done as materialized (
    select o.at, o.verdicts from queue_operation o
    where o.op = $3::uuid and o.queue_id = (select queue_id from own)
    union all
    select a.settle_at, a.settle_verdicts from queue_agent a
    where a.queue_id = (select queue_id from own) and a.agent_id = $2::uuid and a.settle_op = $3
),
-- The queue's retry policy; empty if the settlement was carried out before, and then nothing is done below.
target as materialized (
    select o.keyed, o.max_failures, o.ladder, o.jitter from own o
    where o.deleted_at is null and not exists (select from done)
),
entry as materialized (
    select u.*
    from target
    cross join unnest(
        $7::uuid[], $8::int8[], $9::int4[], $10::int8[], $11::int8[], $12::text[], $13::int8[], $14::bool[],
        $15::text[]
    )
        with ordinality as u(lease_id, partition_id, attempt, lo, hi, action, ms, counts, reason, nth)
),
held as materialized (
    select l.lease_id, l.part, l.partition_id, l.attempt, l.failures, l.pending from lease l
    where l.lease_id = any (array(select distinct lease_id from entry)) and l.queue_id = $1
    order by l.lease_id, l.part for update
),
-- The time when all locks are held.
at as materialized (
    select date_trunc('milliseconds', clock_timestamp()) as now from (select count(*) from held) h
),
-- Entries that name runs, with the lease parts that they may concern. The full joins below could be inner
-- joins: they are full because Postgres joins these by hash, while it would take a nested loop for an inner
-- join of steps, whose size it cannot estimate. Rows without a partner are dropped in the step after.
met as materialized (
    select e.nth, e.lo, e.hi, h.lease_id, h.part, h.pending
    from (select * from entry where lo is not null) e
    full join held h on h.lease_id = e.lease_id and h.partition_id = e.partition_id and h.attempt = e.attempt
),
-- What of these runs the lease parts still hold.
run as materialized (
    select nth, lease_id, part, pending * int8multirange(int8range(lo, hi)) as got
    from met
    where nth is not null and part is not null
),
named as materialized (
    select r.lease_id, r.part, range_agg(x) as got
    from run r
    cross join lateral unnest(r.got) x
    group by r.lease_id, r.part
),
unnamed as materialized (
    select h.lease_id, h.part, h.pending - coalesce(n.got, '{}') as got
    from held h full join named n on n.lease_id = h.lease_id and n.part = h.part
),
-- Entries that name whole leases get what no run names.
wide as materialized (
    select e.nth, u.lease_id, u.part, u.got
    from (select * from entry where lo is null) e
    full join unnamed u on u.lease_id = e.lease_id
),
-- What each entry gets of each lease part.
got as materialized (
    select nth, lease_id, part, got from run
    union all
    select nth, lease_id, part, got from wide
    where nth is not null and part is not null
),
told as materialized (
    select g.nth, g.lease_id, g.part, g.got, e.action, e.ms, e.counts, e.reason
    from got g
    full join entry e on e.nth = g.nth
),
-- The same, with the action and with the history of the records.
claim as materialized (
    select t.nth, t.lease_id, t.part, t.action, t.ms, t.counts, t.reason, h.partition_id, h.attempt,
        h.failures, t.got
    from told t full join held h on h.lease_id = t.lease_id and h.part = t.part
),
-- What becomes of them. Outcomes: 0 acked, 1 released (back to the queue), 2 renewed, 3 dead, 4 expired.
fate as materialized (
    select c.nth, c.lease_id, c.part, c.action, c.ms, c.counts, c.reason, c.partition_id, c.attempt,
        c.failures, x as range, lower(x) as lo, upper(x) as hi,
        case c.action
            when 'ack' then 0
            when 'renew' then 2
            when 'reject' then 3
            when 'expire' then 4
            when 'nack' then case when c.counts and c.failures + 1 >= t.max_failures then 3 else 1 end
            else 1
        end as outcome
    from target t
    cross join claim c
    cross join lateral unnest(c.got) x
    where c.nth is not null and c.attempt is not null
),
-- What each lease part loses, and what of it is renewed.
touched as materialized (
    select lease_id, part, range_agg(range) filter (where outcome <> 2) as gone,
        range_agg(range) filter (where outcome = 2) as renewed,
        count(distinct nth) filter (where outcome = 2) as renewals, max(ms) filter (where outcome = 2) as ms
    from fate group by lease_id, part
),
-- What is left of it; `in_place`: one entry renews all that is left, so the part just gets another deadline.
weighed as materialized (
    select h.lease_id, h.part, h.pending - coalesce(t.gone, '{}') as rest, t.part is not null as touched,
        t.renewed, t.ms,
        coalesce(t.renewals = 1 and t.renewed = h.pending - coalesce(t.gone, '{}'), false) as in_place
    from held h full join touched t on t.lease_id = h.lease_id and t.part = h.part
),
change as materialized (
    select lease_id, part, touched, in_place, ms,
        case when in_place then rest else rest - coalesce(renewed, '{}') end as rest
    from weighed
),
renewed as materialized (
    select f.nth, f.lease_id, f.part, f.partition_id, f.attempt, f.failures, f.ms, range_agg(f.range) as got
    from fate f
    where f.outcome = 2
    group by f.nth, f.lease_id, f.part, f.partition_id, f.attempt, f.failures, f.ms
),
-- Renewed records that need a part of their own.
apart as materialized (
    select r.*, c.in_place from renewed r full join change c on c.lease_id = r.lease_id and c.part = r.part
),
-- Leases of which nothing is left.
ended as (
    delete from lease
    where lease_id = any (array(
        select lease_id from change group by lease_id having bool_and(rest = '{}') and not bool_or(in_place)
    ))
),
dropped as (
    delete from lease l using change c
    where l.lease_id = any (array(
        select lease_id from change
        group by lease_id having bool_or(rest <> '{}') and bool_or(touched and rest = '{}')
    ))
        and c.lease_id = l.lease_id and c.part = l.part and c.rest = '{}'
),
cut as (
    update lease l
    set pending = c.rest,
        deadline = case when c.in_place then at.now + c.ms * interval '1 ms' else l.deadline end
    from change c, at
    where l.lease_id = any (array(select lease_id from change where touched and rest <> '{}'))
        and c.lease_id = l.lease_id and c.part = l.part
        and c.touched and c.rest <> '{}'
),
added as (
    insert into lease (lease_id, part, queue_id, partition_id, attempt, failures, deadline, pending)
    select a.lease_id, (a.top + row_number() over (partition by a.lease_id order by a.nth, a.part))::int4, $1,
        a.partition_id, a.attempt, a.failures, at.now + a.ms * interval '1 ms', a.got
    from (
        select a.*, m.top
        from apart a
        join (select lease_id, max(part) as top from held group by lease_id) m on m.lease_id = a.lease_id
        where a.nth is not null and not a.in_place
    ) a, at
),
-- Back to the queue. The delay after so many failures is in `ladder`; jitter spreads it (see
-- core/src/retry.rs).
returned as (
    insert into waiting (queue_id, partition_id, lo, hi, due_at, attempt, failures, alone, reason)
    select $1, f.partition_id, f.lo, f.hi,
        at.now + interval '1 ms' * case
            when f.action = 'release' then 0
            when f.ms is not null then f.ms
            when f.counts then floor(
                t.ladder[least(f.failures + 1, cardinality(t.ladder))]::float8
                    * (1.0::float8 - t.jitter + 2.0::float8 * t.jitter * (u.place - floor(u.place)))
            )
            else 0
        end,
        f.attempt - (f.action = 'release')::int4, f.failures + (f.action = 'nack' and f.counts)::int4, false,
        f.reason
    from at
    cross join target t
    cross join fate f
    cross join lateral (select $5::float8 + (f.lo % 1000000)::float8 * 0.6180339887498949::float8 as place) u
    where f.outcome = 1
),
-- Records that have to be treated one by one: dead ones, and in keyed queues all that are settled for good.
over as materialized (
    select f.partition_id, o as record_offset, f.outcome, f.attempt,
        f.failures + (f.action = 'nack')::int4 as failures, f.reason
    from target t
    cross join fate f
    cross join lateral generate_series(f.lo, f.hi - 1) o
    where f.outcome = 3 or (t.keyed and f.outcome in (0, 4))
),
listed as materialized (
    select o.*, a.key_hash, a.id from target t cross join over o
    left join lateral (
        select x.key_hash, x.ctid as id from admitted x
        where t.keyed and x.queue_id = $1 and x.partition_id = o.partition_id
            and x.record_offset = o.record_offset
        limit 1
    ) a on true
),
unlisted as (delete from admitted where ctid = any (array(select id from listed where id is not null))),
died as (
    insert into dead (queue_id, partition_id, record_offset, died_at, attempt, failures, key_hash, reason)
    select $1, l.partition_id, l.record_offset, at.now, l.attempt, l.failures, l.key_hash, l.reason
    from listed l, at
    where l.outcome = 3
),
-- Their keys, which are free again, or deleted with their last record.
freed as materialized (
    select k.partition_id, k.key_hash, k.records
    from (
        select distinct partition_id, key_hash from listed
        where key_hash is not null
        order by partition_id, key_hash
    ) l
    cross join lateral (
        select x.partition_id, x.key_hash, x.records from queue_key x
        where x.queue_id = $1 and x.partition_id = l.partition_id and x.key_hash = l.key_hash limit 1
        for update
    ) k
),
key_ended as (
    delete from queue_key k using freed f
    where k.key_hash + 0 = any (array(select key_hash from freed where records <= 1)) and k.queue_id + 0 = $1
        and f.partition_id = k.partition_id + 0 and f.key_hash = k.key_hash + 0 and f.records <= 1
),
key_freed as (
    update queue_key k set records = k.records - 1, taken = false, turn = k.turn + 1 from freed f
    where k.key_hash + 0 = any (array(select key_hash from freed where records > 1)) and k.queue_id + 0 = $1
        and f.partition_id = k.partition_id + 0 and f.key_hash = k.key_hash + 0 and f.records > 1
),
counted as materialized (
    select count(*) as runs, coalesce(sum(hi - lo) filter (where outcome = 0), 0)::int8 as acked,
        coalesce(sum(hi - lo) filter (where outcome = 4), 0)::int8 as expired,
        coalesce(sum(hi - lo) filter (where outcome = 3), 0)::int8 as dead,
        coalesce(sum(hi - lo) filter (where outcome = 1), 0)::int8 as waiting
    from fate
),
verdict as materialized (
    select array(
        select v
        from (select nth, partition_id, lo, hi, outcome from fate order by nth, partition_id, lo) f
        cross join lateral unnest(array[(f.nth - 1) * 8 + f.outcome, f.partition_id, f.lo, f.hi]) v
    ) as verdicts
),
kept as (
    insert into queue_operation (op, queue_id, at, verdicts, expires_at)
    select $3, $1, at.now, v.verdicts, at.now + $16::int8 * interval '1 ms'
    from at, verdict v, counted c
    where $4::bool and c.runs > 0
),
-- Postgres runs steps that change rows and that no other step reads in reverse order. This one reads `freed`,
-- so that the agent's row is locked last.
noted as (
    insert into queue_agent as a (
        queue_id, agent_id, acked, expired, dead, waiting, settle_op, settle_at, settle_verdicts, lease_rate,
        settle_rate, rated_at
    )
    select $1, $2, c.acked, c.expired, c.dead, c.waiting, case when not $4 then $3 end, at.now,
        case when not $4 then v.verdicts end, $6::int8 / 60.0::float8,
        (c.acked + c.expired + c.dead) / 60.0::float8, at.now
    from counted c, at, verdict v where c.runs > 0 and (select count(*) from freed) >= 0
    on conflict (queue_id, agent_id) do update set acked = a.acked + excluded.acked,
        expired = a.expired + excluded.expired, dead = a.dead + excluded.dead,
        waiting = a.waiting + excluded.waiting, settle_op = coalesce(excluded.settle_op, a.settle_op),
        settle_at = case when excluded.settle_op is null then a.settle_at else excluded.settle_at end,
        settle_verdicts = case when excluded.settle_op is null then a.settle_verdicts
            else excluded.settle_verdicts end,
        lease_rate = a.lease_rate
            * exp(-least(greatest(extract(epoch from excluded.rated_at - a.rated_at)::float8, 0), 6000) / 60)
            + excluded.lease_rate,
        settle_rate = a.settle_rate
            * exp(-least(greatest(extract(epoch from excluded.rated_at - a.rated_at)::float8, 0), 6000) / 60)
            + excluded.settle_rate,
        rated_at = excluded.rated_at
    where a.settle_op is distinct from excluded.settle_op or excluded.settle_op is null
    returning 1
)
select coalesce((select verdicts from done limit 1), v.verdicts) as "verdicts!",
    (extract(epoch from coalesce((select d.at from done d limit 1), at.now)) * 1000)::int8 as "at_ms!",
    (c.runs = 0 or exists (select from noted)) as "current!", exists (select from done) as "repeated!"
from at, verdict v, counted c
