-- An agent's sign of life: renews its row, measures undrained payload, and takes the jobs that have work and nobody's lease.
-- Returns one row: undrained bytes of the cluster, names of the jobs taken.
-- Locks the agent's row, then due jobs, passing over those that another heartbeat holds. Index: agent_pkey, job_pkey, inline_payload_live, segment_pending, segment_doomed; the
--   leases are looked through, which are few.
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
