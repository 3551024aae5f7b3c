-- Records an agent's heartbeat, says what background work is due, and hands the agent the jobs that have
-- work to do and are not in another agent's hands. A job stays with the agent that took it for 30 seconds
-- after the last heartbeat that took or renewed it. Of the slices of the drain an agent takes its share.
-- Takes: $1 agent_id (uuid, the agent whose heartbeat it is);
--   $2 version (text, its version, stored when the agent is seen for the first time);
--   $3 drain_after_ms (int8, age from which inline payloads are to be moved into segments);
--   $4 pending_max_ms (int8, age from which segments that were registered but never committed are abandoned);
--   $5 plan_ttl_ms (int8, how long a payload is kept after it was drained);
--   $6 lease_late_ms (int8, how long a lease's deadline must be past before job "expire" ends it);
--   $7 busy (text[], jobs that the agent is running, which it keeps);
--   $8 job (text[]), $9 every_ms (int8[]): jobs that do not run again at once, and the time between two runs;
--   $10 span_ms (int8), $11 slices (int8): slices of the drain, as in inline/drain_plan.sql.
-- Returns: one row: epoch of the cluster;
--   bytes of inline payload of the whole cluster that are not drained yet; bytes of those
--   that are set aside; names of the jobs taken or kept; what job "forget" has to delete; names of all jobs
--   with work that is due, each with how long the oldest has been due, in ms.
-- Locks: the agent's row, then the rows of the due jobs, passing over those that another heartbeat holds.
-- Index: agent_pkey, job_pkey, inline_payload_live, segment_pending, segment_doomed, topic_retain_at,
--   lease_deadline, request_key_expires, answer_expires, dedup_expires, inline_payload_drained,
--   queue_operation_expires, topic_deleted, queue_deleted.
with at as materialized (select clock_timestamp() as now),
seen as (
    insert into agent (agent_id, version, seen_at) select $1, $2, now from at
    on conflict (agent_id) do update set seen_at = excluded.seen_at
),
slice as materialized (
    select x.span % $11::int8 as slice, sum(x.bytes)::int8 as bytes, sum(x.aside_bytes)::int8 as aside_bytes,
        'epoch'::timestamptz + (min(x.span) filter (where x.live > 0) + 1) * $10::int8 * interval '1 ms'
            as ended_at
    from (
        select floor(extract(epoch from committed_at) * 1000 / $10::int8)::int8 as span,
            coalesce(sum(bytes) filter (where aside_at is null), 0) as bytes,
            coalesce(sum(bytes) filter (where aside_at is not null), 0) as aside_bytes,
            count(*) filter (where aside_at is null) as live
        from inline_payload
        where drained_at is null
        group by 1
    ) x
    group by 1
),
-- Since when there is work of a kind. States of segments: 'p' pending, 'u' unlinked or abandoned, 'd' deleted
-- once and to be deleted again.
work as materialized (
    select 'drain-' || slice as job, '' as kind, ended_at + $3::int8 * interval '1 ms' as since from slice
    union all
    select 'sweep', '', min(registered_at) + $4::int8 * interval '1 ms' from segment where state = 'p'
    union all
    select 'sweep', '', min(delete_at) from segment where state in ('u', 'd')
    union all
    select 'retain', '', min(retain_at) from topic
    union all
    select 'expire', '', min(deadline at time zone 'UTC') at time zone 'UTC' + $6::int8 * interval '1 ms'
    from lease
    union all
    select 'forget', 'keys', min(expires_at) from request_key
    union all
    select 'forget', 'answers', min(expires_at) from answer
    union all
    select 'forget', 'dedup', min(expires_at) from dedup
    union all
    select 'forget', 'payloads', min(drained_at) + $5::int8 * interval '1 ms'
    from inline_payload where drained_at is not null
    union all
    select 'forget', 'operations', min(expires_at) from queue_operation
    union all
    select 'forget', 'topics', min(deleted_at) from topic where deleted_at is not null
    union all
    select 'forget', 'queues', min(deleted_at) from queue where deleted_at is not null
    union all
    select name, '', due_at from job where name in ('clamp', 'clean')
),
ready as materialized (
    select job, min(since) as since from work, at where since <= at.now group by job
),
pick as materialized (
    select j.name, j.name like 'drain-%' as shared,
        row_number() over (
            partition by j.name like 'drain-%' order by j.name = any ($7::text[]) desc, r.since
        ) as nth
    from job j left join ready r on r.job = j.name, at
    where ((r.job is not null and j.due_at <= at.now) or j.name = any ($7::text[]))
        and (j.until <= at.now or j.agent_id = $1)
),
due as materialized (
    select j.name from pick p join job j on j.name = p.name, at
    where (j.until <= at.now or j.agent_id = $1)
        and (not p.shared or p.nth <= ceil($11::float8 / greatest(
            (select count(*) from agent where seen_at > (select now from at) - interval '30 s'), 1
        )))
    for update of j skip locked
),
taken as (
    update job j
    set agent_id = $1, until = at.now + interval '30 s',
        due_at = case when j.name = any ($7::text[]) then j.due_at
            else at.now + coalesce(e.every_ms, 0) * interval '1 ms' end
    from due d
    left join unnest($8::text[], $9::int8[]) as e(name, every_ms) on e.name = d.name
    cross join at
    where j.name = d.name
)
select (select epoch from cluster where one) as "epoch!",
    (select coalesce(sum(bytes), 0)::int8 from slice) as "inline_live_bytes!",
    (select coalesce(sum(aside_bytes), 0)::int8 from slice) as "aside_bytes!",
    array(select name from due) as "jobs!: Vec<String>",
    array(select kind from work, at where job = 'forget' and since <= at.now) as "kinds!: Vec<String>",
    array(select job from ready order by job) as "late_jobs!: Vec<String>",
    array(
        select case when isfinite(since) then (extract(epoch from at.now - since) * 1000)::int8 else 0 end
        from ready, at order by job
    ) as "late_ms!: Vec<i64>"
