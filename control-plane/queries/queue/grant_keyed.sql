-- Leases records of a keyed queue to callers that ask for some, so that of each key at most one record is out
-- at a time, in order.
-- What is given out, and to whom, is as in grant.sql, except that fresh records are the lowest admitted
-- record of each key that is free, if that record is due, by partition and key from a given place on, around.
-- A key is taken from then on, until that record is settled for good (acked, expired or dead). A key that is
-- known not to be due is not looked at before then.
-- Steps that have the name of a step in grant.sql are the same text, unless they say how they differ.
-- Takes: $1 queue_id (int8);
--   $2 agent_id (uuid, the agent that counts it);
--   one element each per caller, in the order in which they asked: $3 lease_id (uuid[], drawn by the agent),
--     $4 records (int4[], how many are wanted at most), $5 lease_ms (int8[], how long the lease lasts);
--   $6 from_partition (int8), $10 from_key (int8, a key hash): where to start with fresh records;
--   $7 random (float8, 0 to 1, drawn by the agent: whether the odd caller, or the odd record, gets a retry);
--   $8 window (int8, records that may be admitted and not settled; from there on no more are to be admitted);
--   $9 max_unadmitted (int8, cursors that are reported as having records to admit, at most);
--   $11 tenant_id (text).
-- Returns: as grant.sql; 'shared' instead of 'keyed': a shared queue, which grant.sql serves.
-- Locks: the queue's flow, in share mode unless the queue is limited; due runs and free keys, passing over
--   those that others hold or have changed; the agent's row.
-- Index: queue_flow_pkey, queue_pkey, lease_pkey, queue_cursor_pkey, topic_partition_pkey, batch_pkey,
--   queue_agent_pkey, waiting_due, waiting_pkey, queue_key_pkey, queue_key_due, admitted_key, admitted_due.
with open as materialized (
    select turn, paused, tokens, refilled_at from queue_flow
    where queue_id = $1 and not limited and not clearing for share
),
bound as materialized (
    select turn, paused, tokens, refilled_at from queue_flow
    where queue_id = $1 and limited and not clearing for no key update
),
held as materialized (
    select x.*, date_trunc('milliseconds', clock_timestamp()) as now
    from (select o.*, false as limited from open o union all select b.*, true from bound b) x
),
flow as materialized (
    -- differs: serves keyed queues only
    select h.now, h.paused, h.limited, q.max_in_flight, q.rate_limit,
        least(
            q.rate_limit,
            h.tokens + extract(epoch from h.now - h.refilled_at)::float8 * 1000 * q.rate_limit / q.rate_per_ms
        ) as tokens
    from held h
    join queue_flow f on f.queue_id = $1 and f.turn = h.turn
    join queue q on q.queue_id = $1 and q.tenant_id || '' = $11 and q.deleted_at is null and q.keyed
),
alive as materialized (select l.* from lease l where l.lease_id = any ($3::uuid[]) and l.queue_id = $1),
want as materialized (
    select u.nth, u.lease_id, u.lease_ms, u.records::int8 as records,
        row_number() over (order by u.nth) as place
    from flow
    cross join unnest($3::uuid[], $4::int4[], $5::int8[])
        with ordinality as u(lease_id, records, lease_ms, nth)
    where not exists (select from alive a where a.lease_id = u.lease_id)
),
place as materialized (
    -- differs: no record can be given out from a cursor, all have to be admitted
    select c.partition_id, c.start_offset, c.next_offset, p.high_watermark
    from flow cross join queue_cursor c
    cross join lateral (
        select x.high_watermark from topic_partition x
        where x.partition_id = c.partition_id and not x.deleted limit 1
    ) p
    where c.queue_id = $1
),
stock as materialized (
    -- differs: fresh records are counted later, in `room`; what is admitted limits what may be admitted
    select x.passed - x.kept - x.waiting as in_flight, x.passed - x.kept as admitted
    from (
        select (select coalesce(sum(next_offset - start_offset), 0)::int8 from place) as passed,
            coalesce(sum(a.acked + a.expired + a.purged + a.dead), 0)::int8 as kept,
            coalesce(sum(a.waiting), 0)::int8 as waiting
        from queue_agent a where a.queue_id = $1
    ) x
),
asked as materialized (select count(*) as callers, coalesce(sum(records), 0)::int8 as records from want),
limits as materialized (
    select a.callers, a.records, f.now, f.tokens, f.max_in_flight - s.in_flight as space,
        case
            when f.paused then 0
            else greatest(
                least(f.max_in_flight - s.in_flight, coalesce(floor(f.tokens)::int8, a.records), a.records), 0
            )
        end as allowed
    from flow f, stock s, asked a
),
-- Some of the keys whose lowest record has become due.
woken as materialized (
    select k.partition_id, k.key_hash, k.turn, r.record_offset, r.attempt
    from (
        select x.partition_id, x.key_hash, x.turn from queue_key x
        where x.queue_id = $1 and not x.taken
            and x.due_at > '-infinity' and x.due_at <= (select now from flow)
        order by x.due_at limit (select coalesce(max(allowed), 0) + 100 from limits)
    ) k
    cross join lateral (
        select a.record_offset, a.due_at, a.attempt from admitted a
        where a.key_hash = k.key_hash and a.queue_id + 0 = $1 and a.partition_id + 0 = k.partition_id
        order by a.record_offset + 0 limit 1
    ) r
    where coalesce(r.due_at, '-infinity') <= (select now from flow)
),
-- Free keys whose lowest record is due, first those from the starting place on, then those before it. One
-- more than can be given out is read, so that it is known whether the limits left any behind.
ahead as materialized (
    select x.* from (
        (
            select k.partition_id, k.key_hash, k.turn, r.record_offset, r.attempt
            from queue_key k
            cross join lateral (
                select a.record_offset, a.due_at, a.attempt from admitted a
                where a.key_hash = k.key_hash and a.queue_id + 0 = $1 and a.partition_id + 0 = k.partition_id
                order by a.record_offset + 0 limit 1
            ) r
            where k.queue_id = $1 and k.due_at = '-infinity' and not k.taken
                and (k.partition_id + 0, k.key_hash + 0) >= ($6::int8, $10::int8)
                and coalesce(r.due_at, '-infinity') <= (select now from flow)
            order by k.partition_id + 0, k.key_hash + 0
            limit (select coalesce(max(allowed), -1) + 1 from limits)
        )
        union all
        select w.partition_id, w.key_hash, w.turn, w.record_offset, w.attempt from woken w
        where (w.partition_id, w.key_hash) >= ($6::int8, $10::int8)
    ) x
    order by x.partition_id, x.key_hash limit (select coalesce(max(allowed), -1) + 1 from limits)
),
behind as materialized (
    select x.* from (
        (
            select k.partition_id, k.key_hash, k.turn, r.record_offset, r.attempt
            from queue_key k
            cross join lateral (
                select a.record_offset, a.due_at, a.attempt from admitted a
                where a.key_hash = k.key_hash and a.queue_id + 0 = $1 and a.partition_id + 0 = k.partition_id
                order by a.record_offset + 0 limit 1
            ) r
            where k.queue_id = $1 and k.due_at = '-infinity' and not k.taken
                and (k.partition_id + 0, k.key_hash + 0) < ($6, $10)
                and coalesce(r.due_at, '-infinity') <= (select now from flow)
            order by k.partition_id + 0, k.key_hash + 0
            limit (select coalesce(max(allowed), -1) + 1 from limits) - (select count(*) from ahead)
        )
        union all
        select w.partition_id, w.key_hash, w.turn, w.record_offset, w.attempt from woken w
        where (w.partition_id, w.key_hash) < ($6, $10)
    ) x
    order by x.partition_id, x.key_hash
    limit (select coalesce(max(allowed), -1) + 1 from limits) - (select count(*) from ahead)
),
-- Keys that these scans have passed because their lowest record is not due: a settlement has made it the
-- lowest. From now on they are found when it is due.
reach as materialized (
    select a.n > l.allowed as ahead_full, a.n + b.n > l.allowed as full, a.partition_id as ahead_partition,
        a.key_hash as ahead_key, b.partition_id as behind_partition, b.key_hash as behind_key
    from limits l,
        (
            select count(*) as n,
                (array_agg(partition_id order by partition_id desc, key_hash desc))[1] as partition_id,
                (array_agg(key_hash order by partition_id desc, key_hash desc))[1] as key_hash
            from ahead
        ) a,
        (
            select count(*) as n,
                (array_agg(partition_id order by partition_id desc, key_hash desc))[1] as partition_id,
                (array_agg(key_hash order by partition_id desc, key_hash desc))[1] as key_hash
            from behind
        ) b
    where exists (select from admitted d where d.queue_id = $1 and d.due_at > (select now from flow))
),
early as materialized (
    (
        select k.partition_id, k.key_hash, k.turn, r.due_at
        from reach h
        cross join queue_key k
        cross join lateral (
            select a.due_at from admitted a
            where a.key_hash = k.key_hash and a.queue_id + 0 = $1 and a.partition_id + 0 = k.partition_id
            order by a.record_offset + 0 limit 1
        ) r
        where k.queue_id = $1 and k.due_at = '-infinity' and not k.taken
            and (k.partition_id + 0, k.key_hash + 0) >= ($6, $10)
            and (
                not h.ahead_full
                or (k.partition_id + 0, k.key_hash + 0) <= (h.ahead_partition, h.ahead_key)
            )
            and r.due_at > (select now from flow)
        limit 200
    )
    union all
    (
        select k.partition_id, k.key_hash, k.turn, r.due_at
        from reach h
        cross join queue_key k
        cross join lateral (
            select a.due_at from admitted a
            where a.key_hash = k.key_hash and a.queue_id + 0 = $1 and a.partition_id + 0 = k.partition_id
            order by a.record_offset + 0 limit 1
        ) r
        where not h.ahead_full and k.queue_id = $1 and k.due_at = '-infinity' and not k.taken
            and (k.partition_id + 0, k.key_hash + 0) < ($6, $10)
            and (
                not h.full
                or (k.partition_id + 0, k.key_hash + 0) <= (h.behind_partition, h.behind_key)
            )
            and r.due_at > (select now from flow)
        limit 200
    )
),
resting as materialized (
    select k.id, e.due_at
    from early e
    cross join lateral (
        select q.ctid as id from queue_key q
        where q.queue_id = $1 and q.partition_id = e.partition_id and q.key_hash = e.key_hash
            and q.turn = e.turn
        limit 1 for update of q skip locked
    ) k
),
rested as (
    update queue_key k set due_at = r.due_at from resting r
    where k.ctid = any (array(select id from resting)) and k.ctid = r.id
),
room as materialized (
    -- differs: fresh records are those of free keys, read with the help of `limits`
    select l.*, (select count(*) from ahead) + (select count(*) from behind) as fresh from limits l
),
lone_room as materialized (
    select least(
            r.allowed,
            case
                when r.fresh = 0 and not exists (
                    select from waiting w
                    where w.queue_id = $1 and not w.alone and w.due_at <= (select now from flow)
                ) then r.callers
                else floor(r.callers / 2.0::float8 + $7::float8)::int8
            end
        ) as runs
    from room r
),
-- Rows of `waiting` are inserted and deleted, never updated: one that can be locked is as in the snapshot.
lone_pick as materialized (
    select w.ctid as id from waiting w
    where w.queue_id = $1 and w.alone and w.due_at <= (select now from flow)
    order by w.due_at, w.partition_id, w.lo limit (select coalesce(max(runs), 0) from lone_room)
    for update skip locked
),
lone_taken as (
    delete from waiting
    where ctid = any (array(select id from lone_pick))
    returning partition_id, lo, hi, due_at, attempt, failures, reason
),
lone as materialized (
    select x.*,
        greatest(
            least(
                x.fits, (select allowed from room) - ((sum(x.fits) over (order by x.place))::int8 - x.fits)
            ),
            0
        ) as give
    from (
        select t.*, w.nth, w.lease_id, w.lease_ms, least(t.hi - t.lo, w.records) as fits
        from (select *, row_number() over (order by due_at, partition_id, lo) as place from lone_taken) t
        join want w on w.place = t.place
    ) x
),
line as materialized (
    select w.nth, w.lease_id, w.lease_ms, (sum(w.records) over (order by w.place))::int8 - w.records as w_lo,
        (sum(w.records) over (order by w.place))::int8 as w_hi
    from want w where w.place > (select count(*) from lone)
),
need as materialized (
    select n.records, n.fresh,
        least(n.records, greatest(floor(n.records / 2.0::float8 + $7)::int8, n.records - n.fresh)) as retries
    from (
        select r.fresh,
            least(
                r.allowed - (select coalesce(sum(give), 0)::int8 from lone),
                (select coalesce(max(w_hi), 0) from line)
            ) as records
        from room r offset 0
    ) n
),
peek as materialized (
    select count(*) as runs
    from (
        select sum(y.hi - y.lo) over (order by y.due_at, y.partition_id, y.lo) - (y.hi - y.lo) as before
        from (
            select w.due_at, w.partition_id, w.lo, w.hi from waiting w
            where w.queue_id = $1 and not w.alone and w.due_at <= (select now from flow)
            order by w.due_at, w.partition_id, w.lo limit (select coalesce(max(retries), 0) from need)
        ) y
    ) x
    where x.before < (select retries from need)
),
pick as materialized (
    select w.ctid as id from waiting w
    where w.queue_id = $1 and not w.alone and w.due_at <= (select now from flow)
    order by w.due_at, w.partition_id, w.lo limit (select runs from peek) for update skip locked
),
taken as (
    delete from waiting
    where ctid = any (array(select id from pick))
    returning partition_id, lo, hi, due_at, attempt, failures, reason
),
retry as materialized (
    select t.*,
        greatest(
            least(
                t.hi - t.lo,
                (select retries from need) - (
                    (sum(t.hi - t.lo) over (order by t.due_at, t.partition_id, t.lo))::int8 - (t.hi - t.lo)
                )
            ),
            0
        ) as give
    from taken t
),
put_back as (
    insert into waiting (queue_id, partition_id, lo, hi, due_at, attempt, failures, alone, reason)
    select $1, r.partition_id, r.lo + r.give, r.hi, r.due_at, r.attempt, r.failures, false, r.reason
    from retry r
    where r.give < r.hi - r.lo
    union all
    select $1, r.partition_id, r.lo + r.give, r.hi, r.due_at, r.attempt, r.failures, true, r.reason
    from lone r
    where r.give < r.hi - r.lo
),
wanted as materialized (
    select n.records - (select coalesce(sum(give), 0)::int8 from retry) as fresh from need n
),
free as materialized (
    select x.*, row_number() over (order by x.around, x.partition_id, x.key_hash) as nth
    from (select a.*, false as around from ahead a union all select b.*, true from behind b) x
),
chosen as materialized (
    -- differs: fresh records come from keys, which are locked here
    select f.nth, f.record_offset, f.attempt, k.partition_id, k.key_hash, k.id
    from (select * from free where nth <= (select fresh from wanted) order by nth) f
    cross join lateral (
        select q.partition_id, q.key_hash, q.ctid as id from queue_key q
        where q.queue_id = $1 and q.partition_id = f.partition_id and q.key_hash = f.key_hash
            and q.turn = f.turn
        limit 1 for update of q skip locked
    ) k
),
-- A key whose turn has not changed is as in the statement's snapshot; `chosen` has locked no others.
closed as (
    update queue_key set taken = true, turn = turn + 1, due_at = '-infinity'
    where ctid = any (array(select id from chosen))
),
moved as materialized (
    -- differs: the record of each key that was taken; its attempts may be more than none after a redrive
    select c.nth, c.partition_id, c.record_offset as lo, c.record_offset + 1 as hi, c.attempt from chosen c
),
supply as materialized (
    -- differs: a fresh record keeps its attempts, and comes by key
    select s.*, (sum(s.hi - s.lo) over (order by s.fresh, s.nth))::int8 - (s.hi - s.lo) as s_lo,
        (sum(s.hi - s.lo) over (order by s.fresh, s.nth))::int8 as s_hi
    from (
        select false as fresh, row_number() over (order by r.due_at, r.partition_id, r.lo) as nth,
            r.partition_id, r.lo, r.lo + r.give as hi, r.attempt + 1 as attempt, r.failures
        from retry r where r.give > 0
        union all
        select true, m.nth, m.partition_id, m.lo, m.hi, m.attempt + 1, 0 from moved m
    ) s
),
piece as materialized (
    select l.nth, l.lease_id, l.lease_ms, s.partition_id, s.attempt, s.failures, s.s_lo,
        s.lo + greatest(l.w_lo, s.s_lo) - s.s_lo as lo, s.lo + least(l.w_hi, s.s_hi) - s.s_lo as hi
    from line l join supply s on s.s_lo < l.w_hi and l.w_lo < s.s_hi
    union all
    select r.nth, r.lease_id, r.lease_ms, r.partition_id, r.attempt + 1, r.failures, 0, r.lo, r.lo + r.give
    from lone r
    where r.give > 0
),
part as materialized (
    select p.nth, p.lease_id, (row_number() over (partition by p.nth order by min(p.s_lo)))::int4 as part,
        p.partition_id, p.attempt, p.failures, f.now + p.lease_ms * interval '1 ms' as deadline,
        range_agg(int8range(p.lo, p.hi)) as pending, array_agg(p.lo) as los, array_agg(p.hi) as his
    from piece p cross join flow f
    group by p.nth, p.lease_id, p.lease_ms, p.partition_id, p.attempt, p.failures, f.now
),
made as (
    insert into lease (lease_id, part, queue_id, partition_id, attempt, failures, deadline, pending)
    select p.lease_id, p.part, $1, p.partition_id, p.attempt, p.failures, p.deadline, p.pending from part p
),
given as materialized (
    select (select coalesce(sum(give), 0)::int8 from lone)
        + (select coalesce(sum(give), 0)::int8 from retry) as retries,
        (select coalesce(sum(hi - lo), 0)::int8 from moved) as fresh
),
noted as (
    -- differs: fresh records were counted as waiting when they were admitted
    insert into queue_agent as a (queue_id, agent_id, waiting, rated_at)
    select $1, $2::uuid, -(g.retries + g.fresh), f.now from given g, flow f
    where g.retries + g.fresh > 0
    on conflict (queue_id, agent_id) do update set waiting = a.waiting + excluded.waiting
),
drawn as (
    update queue_flow f
    set tokens = coalesce(l.tokens - (g.retries + g.fresh), f.tokens), refilled_at = l.now, turn = f.turn + 1
    from flow l, given g where f.queue_id = $1 and l.limited and g.retries + g.fresh > 0
),
unadmitted as materialized (
    -- differs: every record has to be admitted, as long as the window has room
    select p.partition_id, p.next_offset, b.ends
    from place p
    cross join lateral (
        select x.base_offset + x.records as ends from batch x
        where x.partition_id = p.partition_id and x.base_offset <= p.next_offset
        order by x.base_offset desc limit 1
    ) b
    where p.next_offset < p.high_watermark and b.ends > p.next_offset and not (select paused from flow)
        and (select admitted from stock) < $8::int8
    order by p.partition_id < $6, p.partition_id limit $9::int8
)
select s.status as "status?", (extract(epoch from s.now) * 1000)::int8 as "at_ms?",
    s.limited_by as "limited_by?", s.contended as "contended?",
    (extract(epoch from s.due_at) * 1000)::int8 as "next_due_ms?", s.partitions as "partitions?",
    s.nexts as "nexts?", s.ends as "ends?", null::uuid as "lease_id?", null::int4 as "part?",
    null::int8 as "partition_id?", null::int4 as "attempt?", null::int4 as "failures?",
    null::int8 as "deadline_ms?", null::int8[] as "los?", null::int8[] as "his?"
from (
    select coalesce(
            (select 'given' from flow),
            (
                select case when not q.keyed then 'shared' when f.clearing then 'clearing' else 'again' end
                from queue q
                join queue_flow f on f.queue_id = q.queue_id
                where q.queue_id = $1 and q.tenant_id || '' = $11 and q.deleted_at is null
            ),
            'gone'
        ) as status,
        (select now from flow) as now,
        case when (select paused from flow) then 'paused'
        else coalesce((
            select case when floor(r.tokens) <= greatest(r.space, 0) then 'rate' else 'max_in_flight' end
            from room r, given g
            where g.fresh + g.retries < r.records
                and g.fresh + g.retries >= least(r.space, coalesce(floor(r.tokens)::int8, r.space))
                and (
                    g.fresh < r.fresh
                    or exists (select from retry where give < hi - lo)
                    or exists (select from lone where give < hi - lo)
                    or (
                        select count(*)
                        from (
                            select from waiting w
                            where w.queue_id = $1 and not w.alone and w.due_at <= (select now from flow)
                            limit (select count(*) + 1 from taken)
                        ) d
                    ) > (select count(*) from taken)
                    or (
                        select count(*)
                        from (
                            select from waiting w
                            where w.queue_id = $1 and w.alone and w.due_at <= (select now from flow)
                            limit (select count(*) + 1 from lone_taken)
                        ) d
                    ) > (select count(*) from lone_taken)
                )
        ), (
            select 'keys' from given g, asked a, stock s
            where g.fresh + g.retries = 0 and a.callers > 0 and s.admitted >= $8
        )) end as limited_by,
        (select g.fresh < least(w.fresh, n.fresh) from given g, wanted w, need n) as contended,
        least(
            (
                select w.due_at from waiting w
                where w.queue_id = $1 and not w.alone and w.due_at > (select now from flow)
                order by w.due_at limit 1
            ),
            (
                select w.due_at from waiting w
                where w.queue_id = $1 and w.alone and w.due_at > (select now from flow)
                order by w.due_at limit 1
            ),
            (
                select a.due_at from admitted a
                where a.queue_id = $1 and a.due_at > (select now from flow)
                order by a.due_at limit 1
            )
        ) as due_at,
        array(select partition_id from unadmitted) as partitions,
        array(select next_offset from unadmitted) as nexts, array(select ends from unadmitted) as ends
) s
union all
select null, null, null, null, null, null, null, null, x.* from (
    select p.lease_id, p.part, p.partition_id, p.attempt, p.failures,
        (extract(epoch from p.deadline) * 1000)::int8, p.los, p.his
    from part p
    union all
    select a.lease_id, a.part, a.partition_id, a.attempt, a.failures,
        (extract(epoch from a.deadline) * 1000)::int8, array(select lower(r) from unnest(a.pending) r),
        array(select upper(r) from unnest(a.pending) r)
    from alive a where exists (select from flow)
) x
