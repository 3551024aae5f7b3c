-- Deletes the rows of agents without a heartbeat for a day.
-- Takes: $1 limit (int8, rows that are deleted at most).
-- Returns: how many were deleted.
-- Locks: what it deletes, passing over what others hold.
-- Index: agent_pkey; the agents, which are few, are scanned.
with gone as (
    delete from agent
    where agent_id = any (array(
        select agent_id from agent
        where seen_at < (select clock_timestamp()) - interval '1 day'
        limit $1 for update skip locked
    ))
    returning 1
)
select count(*) as "rows!" from gone
