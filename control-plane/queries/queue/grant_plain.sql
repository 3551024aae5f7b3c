-- Leases fresh records of a shared queue as grant.sql does, for the frequent case in which there is nothing
-- else to consider: the queue has no limits of its own and is below the common one, no run is due, no batch
-- ahead has to be admitted, none of the leases is alive. It costs less than half.
-- Takes: $1 queue_id (int8);
--   one element each per caller, in the order in which they asked: $2 lease_id (uuid[], drawn by the agent),
--     $3 records (int4[], how many are wanted at most), $4 lease_ms (int8[], how long the lease lasts);
--   $5 from_partition (int8, partition whose fresh records are taken first; the others follow by id, around);
--   $6 tenant_id (text).
-- Returns: a row per lease part, each with what grant.sql says in its first row; one row without a part when
--   there are no fresh records. `status` is 'given', or 'other': nothing was done, send grant.sql instead.
--   Fails with 23505 as that does.
-- Locks: the queue's flow in share mode, then cursors, passing over those that others hold.
-- Index: queue_flow_pkey, queue_pkey, waiting_due, lease_pkey, queue_cursor_pkey, topic_partition_pkey,
--   queue_agent_pkey, batch_delayed.
with open as materialized (
    -- Empty, and with it all that follows, if the queue is limited or paused, or a seek is under way.
    select turn, date_trunc('milliseconds', clock_timestamp()) as now
    from queue_flow
    where queue_id = $1::int8 and not limited and not paused and not clearing for share
),
-- Empty if the queue changed while its lock was waited for: the row that was locked has another turn than the
-- row in the statement's snapshot.
head as materialized (
    select o.now, q.max_in_flight, least(
        (select w.due_at from waiting w where w.queue_id = $1 and not w.alone order by w.due_at limit 1),
        (select w.due_at from waiting w where w.queue_id = $1 and w.alone order by w.due_at limit 1)
    ) as due_at
    from open o
    join queue_flow f on f.queue_id = $1 and f.turn = o.turn
    join queue q on q.queue_id = $1 and q.tenant_id || '' = $6 and q.deleted_at is null and not q.keyed
    where not exists (select from lease l where l.lease_id = any ($2::uuid[]))
),
-- The callers on a line: each has the places from w_lo to before w_hi.
want as materialized (
    select u.nth, u.lease_id, u.lease_ms, sum(u.records) over (order by u.nth) - u.records as w_lo,
        sum(u.records) over (order by u.nth) as w_hi
    from unnest($2::uuid[], $3::int4[], $4::int8[]) with ordinality as u(lease_id, records, lease_ms, nth)
),
-- The cursors, if no run is due.
place as materialized (
    select c.partition_id, c.next_offset, p.high_watermark,
        (
            sum(p.high_watermark - c.next_offset) over (order by c.partition_id < $5::int8, c.partition_id)
        )::int8 as upto,
        (sum(c.next_offset - c.start_offset) over ())::int8 as passed
    from head h join queue_cursor c on c.queue_id = $1
    cross join lateral (
        select x.high_watermark from topic_partition x
        where x.partition_id = c.partition_id and not x.deleted limit 1
    ) p
    where h.due_at is null or h.due_at > h.now
),
-- How many fresh records are there, how many are given out, and whether that stays within max_in_flight.
room as materialized (
    select coalesce(max(p.upto), 0) as fresh,
        least((select max(w_hi) from want), coalesce(max(p.upto), 0)) as wanted,
        coalesce(max(p.passed), 0)
            - (
                select coalesce(sum(a.acked + a.expired + a.purged + a.dead + a.waiting), 0)::int8
                from queue_agent a
                where a.queue_id = $1
            )
            + (select max(w_hi) from want)
            <= (select max_in_flight from head) as enough
    from place p
),
chosen as materialized (
    select p.partition_id, p.next_offset, p.high_watermark
    from room r
    join place p on p.upto - (p.high_watermark - p.next_offset) < r.wanted
    where r.enough and p.next_offset < p.high_watermark
),
-- The cursors that supply them, locked; none if a batch with delayed records lies ahead of any cursor (flags
-- & 2, `BatchFlags::DELAY`).
cur as materialized (
    select c.partition_id, c.next_offset, k.high_watermark
    from chosen k
    join queue_cursor c on c.queue_id = $1 and c.partition_id = k.partition_id
    where c.next_offset < k.high_watermark
        and not exists (
            select from place x
            cross join lateral (
                select from batch b
                where b.partition_id = x.partition_id and b.flags & 2 <> 0
                    and b.base_offset + b.records > x.next_offset
                limit 1
            ) b
        )
    order by c.partition_id for update of c skip locked
),
moved as (
    update queue_cursor c set next_offset = x.next_offset + x.give
    from (
        select y.partition_id, y.next_offset,
            least(
                y.high_watermark - y.next_offset,
                (select wanted from room) - ((
                    sum(y.high_watermark - y.next_offset) over (order by y.partition_id < $5, y.partition_id)
                )::int8 - (y.high_watermark - y.next_offset))
            ) as give
        from cur y
    ) x
    where c.queue_id = $1 and c.partition_id = x.partition_id and x.give > 0
    returning c.partition_id, x.next_offset as lo, c.next_offset as hi
),
-- All that is given out along the line, which it fills from s_lo to before s_hi.
supply as materialized (
    select m.partition_id, m.lo,
        (sum(m.hi - m.lo) over (order by m.partition_id < $5, m.partition_id))::int8 - (m.hi - m.lo) as s_lo,
        (sum(m.hi - m.lo) over (order by m.partition_id < $5, m.partition_id))::int8 as s_hi
    from moved m
),
-- Where a caller's places and a run meet: a lease part each.
piece as materialized (
    select w.nth, w.lease_id, h.now + w.lease_ms * interval '1 ms' as deadline,
        (row_number() over (partition by w.nth order by s.s_lo))::int4 as part, s.partition_id,
        s.lo + greatest(w.w_lo, s.s_lo) - s.s_lo as lo, s.lo + least(w.w_hi, s.s_hi) - s.s_lo as hi
    from head h cross join want w join supply s on s.s_lo < w.w_hi and w.w_lo < s.s_hi
),
made as (
    insert into lease (lease_id, part, queue_id, partition_id, attempt, failures, deadline, pending)
    select p.lease_id, p.part, $1, p.partition_id, 1, 0, p.deadline, int8multirange(int8range(p.lo, p.hi))
    from piece p
)
select case
        when h.now is not null and r.enough and (h.due_at is null or h.due_at > h.now)
            and (p.nth is not null or r.fresh = 0) then 'given'
        else 'other'
    end as "status!",
    (extract(epoch from h.now) * 1000)::int8 as "at_ms?",
    (select coalesce(max(s_hi), 0) from supply) < r.wanted as "contended?",
    (extract(epoch from h.due_at) * 1000)::int8 as "next_due_ms?",
    p.lease_id as "lease_id?", p.part as "part?", p.partition_id as "partition_id?",
    (extract(epoch from p.deadline) * 1000)::int8 as "deadline_ms?", p.lo as "lo?", p.hi as "hi?"
from room r left join head h on true left join piece p on true
