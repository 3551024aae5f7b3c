-- Leases records of a shared queue to callers that ask for some. Each caller gets a lease of the length it
-- asked for.
-- What is given out, and to whom (`deal` in core/src/queue/deal.rs is the same arithmetic): first, runs of
-- records whose lease expired, each to one caller that gets nothing else, for at most half of the callers
-- while there is other work. The other callers form one line, as long as the sum of what they want. Due runs,
-- which were given out before or delayed, fill at most half of the line while there are fresh records; fresh
-- records, which the cursors have not passed yet, fill the rest, in each partition up to the first batch with
-- delayed records, which has to be admitted first (admit.sql). Rate and max_in_flight of the queue limit all
-- of it.
-- A lease is stored as parts: its records of one partition with the same attempt and failures.
-- Takes: $1 queue_id (int8);
--   $2 agent_id (uuid, the agent that counts it);
--   one element each per caller, in the order in which they asked: $3 lease_id (uuid[], drawn by the agent),
--     $4 records (int4[], how many are wanted at most), $5 lease_ms (int8[], how long the lease lasts);
--   $6 from_partition (int8, partition whose fresh records are taken first; the others follow by id, around);
--   $7 random (float8, 0 to 1, drawn by the agent: whether the odd caller, or the odd record, gets a retry);
--   $8 patient (bool, wait for cursors that others hold instead of passing over them);
--   $9 max_unadmitted (int8, cursors that are reported as standing before a batch to be admitted, at most);
--   $10 tenant_id (text).
-- Returns: one row with a `status`, and, if that is 'given', a row per lease part. 'given': done; 'clearing':
--   a seek is under way, nothing was done; 'again':
--   the queue changed while the statement waited for its lock, nothing was done, send it again; 'keyed': a
--   keyed queue, which grant_keyed.sql serves; 'gone': the tenant has no such queue. A caller whose lease is
--   alive already, since the statement was sent before, gets what is left of it. The first row also says why
--   less was given out than there is, whether others held fresh records, when the next run is due, and which
--   cursors stand before a batch to be admitted. Fails with 23505 (unique violation) when the same lease is
--   being made at the same time; sent again, it is found alive.
-- Locks: the queue's flow, in share mode unless the queue is limited; due runs, and cursors by partition,
--   passing over those that others hold (cursors are waited for if $8); the agent's row.
-- Index: queue_flow_pkey, queue_pkey, lease_pkey, queue_cursor_pkey, topic_partition_pkey, batch_delayed,
--   queue_agent_pkey, waiting_due, waiting_pkey.
with open as materialized (
    -- The queue's flow, locked in share mode, or alone where a limit makes grants count one after the other.
    -- One of the two steps is empty.
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
-- Empty, and with it all that follows, if a seek is under way, or if the queue changed while its lock was
-- waited for: the row that was
-- locked has another turn than the row in the statement's snapshot. Tokens refill with time, up to the limit.
flow as materialized (
    -- differs: serves shared queues only
    select h.now, h.paused, h.limited, q.max_in_flight, q.rate_limit,
        least(
            q.rate_limit,
            h.tokens + extract(epoch from h.now - h.refilled_at)::float8 * 1000 * q.rate_limit / q.rate_per_ms
        ) as tokens
    from held h
    join queue_flow f on f.queue_id = $1 and f.turn = h.turn
    join queue q on q.queue_id = $1 and q.tenant_id || '' = $10 and q.deleted_at is null and not q.keyed
),
-- Leases that an earlier sending made.
alive as materialized (select l.* from lease l where l.lease_id = any ($3::uuid[]) and l.queue_id = $1),
-- The callers that take part.
want as materialized (
    select u.nth, u.lease_id, u.lease_ms, u.records::int8 as records,
        row_number() over (order by u.nth) as place
    from flow
    cross join unnest($3::uuid[], $4::int4[], $5::int8[])
        with ordinality as u(lease_id, records, lease_ms, nth)
    where not exists (select from alive a where a.lease_id = u.lease_id)
),
-- The cursors, and up to where each may go: to the first batch with delayed records (flags & 2,
-- `BatchFlags::DELAY`).
place as materialized (
    -- differs: a cursor goes up to the first batch that has to be admitted, which is told as well
    select c.partition_id, c.start_offset, c.next_offset, d.base_offset as stop, d.ends,
        case when d.base_offset is null then p.high_watermark
            else greatest(d.base_offset, c.next_offset) end as upto
    from flow
    cross join queue_cursor c
    cross join lateral (
        select x.high_watermark from topic_partition x
        where x.partition_id = c.partition_id and not x.deleted limit 1
    ) p
    left join lateral (
        select b.base_offset, b.base_offset + b.records as ends from batch b
        where b.partition_id = c.partition_id and b.flags & 2 <> 0
            and b.base_offset + b.records > c.next_offset and c.next_offset < p.high_watermark
        order by b.base_offset + b.records limit 1
    ) d on true
    where c.queue_id = $1
),
-- Fresh records, and records in flight: those that the cursors have passed and that are not settled or
-- waiting.
stock as materialized (
    -- differs: fresh records are what lies between the cursors and where they may go
    select coalesce(sum(upto - next_offset), 0)::int8 as fresh,
        coalesce(sum(next_offset - start_offset), 0)::int8
        - (
            select coalesce(sum(a.acked + a.expired + a.purged + a.dead + a.waiting), 0)::int8
            from queue_agent a
            where a.queue_id = $1
        ) as in_flight
    from place
),
asked as materialized (select count(*) as callers, coalesce(sum(records), 0)::int8 as records from want),
-- How many records may be given out to all.
room as materialized (
    -- differs: `stock` has counted the fresh records
    select a.callers, a.records, s.fresh, f.now, f.tokens, f.max_in_flight - s.in_flight as space,
        case
            when f.paused then 0
            else greatest(
                least(f.max_in_flight - s.in_flight, coalesce(floor(f.tokens)::int8, a.records), a.records), 0
            )
        end as allowed
    from flow f, stock s, asked a
),
-- How many callers may get a run whose lease expired.
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
-- Takes these runs. Rows of `waiting` are inserted and deleted, never updated: one that can be locked is as
-- in the snapshot.
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
-- Each of them with its caller, and how much of it is given out.
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
-- The other callers on a line: each has the places from w_lo to before w_hi.
line as materialized (
    select w.nth, w.lease_id, w.lease_ms, (sum(w.records) over (order by w.place))::int8 - w.records as w_lo,
        (sum(w.records) over (order by w.place))::int8 as w_hi
    from want w where w.place > (select count(*) from lone)
),
-- How many records the line takes, and how many of them are retries.
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
-- How many due runs that needs.
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
-- Takes these runs.
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
-- Each of them, and how much of it is given out.
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
-- The rest of a run that was cut waits on, unchanged.
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
-- How many fresh records the line still takes.
wanted as materialized (
    select n.records - (select coalesce(sum(give), 0)::int8 from retry) as fresh from need n
),
-- The partitions that supply them.
chosen as materialized (
    -- differs: fresh records come from partitions
    select x.partition_id, x.upto
    from (
        select p.partition_id, p.upto,
            sum(p.upto - p.next_offset) over (order by p.partition_id < $6::int8, p.partition_id)
                - (p.upto - p.next_offset) as before
        from place p where p.upto > p.next_offset
    ) x
    where x.before < (select fresh from wanted)
),
-- Their cursors, locked: either those that nobody else holds, or all of them. One of the two steps is empty.
eager as materialized (
    select c.partition_id, c.next_offset, k.upto
    from chosen k
    join queue_cursor c on c.queue_id = $1 and c.partition_id = k.partition_id
    where not $8::bool and c.next_offset < k.upto order by c.partition_id for update of c skip locked
),
patient as materialized (
    select c.partition_id, c.next_offset, k.upto
    from chosen k
    join queue_cursor c on c.queue_id = $1 and c.partition_id = k.partition_id
    where $8 and c.next_offset < k.upto order by c.partition_id for update of c
),
-- Moves them past what is given out.
moved as (
    -- differs: fresh records are taken by moving cursors
    update queue_cursor c set next_offset = x.next_offset + x.give
    from (
        select y.partition_id, y.next_offset,
            least(
                y.n,
                (select fresh from wanted)
                    - ((sum(y.n) over (order by y.partition_id < $6, y.partition_id))::int8 - y.n)
            ) as give
        from (
            select *, upto - next_offset as n from eager union all select *, upto - next_offset from patient
        ) y
    ) x
    where c.queue_id = $1 and c.partition_id = x.partition_id and x.give > 0
    returning c.partition_id, x.next_offset as lo, c.next_offset as hi
),
-- All that is given out along the line, which it fills from s_lo to before s_hi.
supply as materialized (
    -- differs: a fresh record was never given out before, and comes by partition
    select s.*, (sum(s.hi - s.lo) over (order by s.fresh, s.nth))::int8 - (s.hi - s.lo) as s_lo,
        (sum(s.hi - s.lo) over (order by s.fresh, s.nth))::int8 as s_hi
    from (
        select false as fresh, row_number() over (order by r.due_at, r.partition_id, r.lo) as nth,
            r.partition_id, r.lo, r.lo + r.give as hi, r.attempt + 1 as attempt, r.failures
        from retry r where r.give > 0
        union all
        select true, row_number() over (order by m.partition_id < $6, m.partition_id), m.partition_id, m.lo,
            m.hi, 1, 0
        from moved m
    ) s
),
-- Where a caller's places and a run meet.
piece as materialized (
    select l.nth, l.lease_id, l.lease_ms, s.partition_id, s.attempt, s.failures, s.s_lo,
        s.lo + greatest(l.w_lo, s.s_lo) - s.s_lo as lo, s.lo + least(l.w_hi, s.s_hi) - s.s_lo as hi
    from line l join supply s on s.s_lo < l.w_hi and l.w_lo < s.s_hi
    union all
    select r.nth, r.lease_id, r.lease_ms, r.partition_id, r.attempt + 1, r.failures, 0, r.lo, r.lo + r.give
    from lone r
    where r.give > 0
),
-- The lease parts.
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
    -- differs: only retries were counted as waiting
    insert into queue_agent as a (queue_id, agent_id, waiting, rated_at)
    select $1, $2::uuid, -g.retries, f.now from given g, flow f
    where g.retries > 0
    on conflict (queue_id, agent_id) do update set waiting = a.waiting + excluded.waiting
),
-- Takes the tokens. Counting the turn tells grants that wait for the lock that their snapshot is old.
drawn as (
    update queue_flow f
    set tokens = coalesce(l.tokens - (g.retries + g.fresh), f.tokens), refilled_at = l.now, turn = f.turn + 1
    from flow l, given g where f.queue_id = $1 and l.limited and g.retries + g.fresh > 0
),
-- Cursors that stand before a batch with delayed records.
unadmitted as materialized (
    -- differs: a cursor stands before a batch to admit where it comes to that batch
    select p.partition_id, coalesce(m.hi, p.next_offset) as next_offset, p.ends
    from place p
    left join moved m on m.partition_id = p.partition_id
    where p.stop <= coalesce(m.hi, p.next_offset) and not (select paused from flow)
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
                select case when q.keyed then 'keyed' when f.clearing then 'clearing' else 'again' end
                from queue q
                join queue_flow f on f.queue_id = q.queue_id
                where q.queue_id = $1 and q.tenant_id || '' = $10 and q.deleted_at is null
            ),
            'gone'
        ) as status,
        (select now from flow) as now,
        case when (select paused from flow) then 'paused'
        else (
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
        ) end as limited_by,
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
