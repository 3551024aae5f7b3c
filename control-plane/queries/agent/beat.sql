-- Records an agent's heartbeat, and hands it the background jobs that have work to do and are not in another
-- agent's hands. A job stays with the agent that took it for 30 seconds.
-- Takes: $1 agent_id (uuid, the agent whose heartbeat it is);
--   $2 version (text, its version, stored when the agent is seen for the first time);
--   $3 drain_after_ms (int8, age from which inline payloads are to be moved into segments: job "drain");
--   $4 pending_max_ms (int8, age from which segments that were registered but never committed are abandoned:
--     job "sweep");
--   $5 retain_every_ms (int8, time between two runs of job "retain");
--   $6 lease_late_ms (int8, how long a lease's deadline must be past before job "expire" ends it).
-- Returns: one row: bytes of inline payload of the whole cluster that are not drained yet, names of the jobs
--   taken.
-- Locks: the agent's row, then the rows of the due jobs, passing over those that another heartbeat holds.
-- Index: agent_pkey, job_pkey, inline_payload_live, segment_pending, segment_doomed; the leases, which are
--   few, are scanned.
with at as materialized (select clock_timestamp() as now),
seen as (
    insert into agent (agent_id, version, seen_at) select $1, $2, now from at
    on conflict (agent_id) do update set seen_at = excluded.seen_at
),
inline as materialized (
    select coalesce(sum(bytes), 0)::int8 as bytes, min(committed_at) as oldest
    from inline_payload
    where drained_at is null
),
-- States of segments: 'p' pending, 'u' unlinked or abandoned, 'd' deleted once and to be deleted again.
work as materialized (
    select 'drain' as name from inline, at where oldest <= now - $3::int8 * interval '1 ms'
    union all
    select 'sweep' from at
    where exists (
        select from segment
        where state = 'p' and registered_at <= (select now from at) - $4::int8 * interval '1 ms'
    )
        or exists (select from segment where state in ('u', 'd') and delete_at <= (select now from at))
    union all
    select 'retain'
    union all
    select 'expire'
    where exists (select from lease where deadline <= (select now from at) - $6::int8 * interval '1 ms')
),
due as materialized (
    select j.name from job j, at
    where j.name in (select name from work) and j.due_at <= at.now and (j.until <= at.now or j.agent_id = $1)
    for update of j skip locked
),
taken as (
    update job j
    set agent_id = $1, until = at.now + interval '30 s',
        due_at = case j.name when 'retain' then at.now + $5::int8 * interval '1 ms' else at.now end
    from due d, at where j.name = d.name
)
select inline.bytes as "inline_live_bytes!", array(select name from due) as "jobs!: Vec<String>" from inline
