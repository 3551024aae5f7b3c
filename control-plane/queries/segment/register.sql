-- Registers ids of segments before their objects are uploaded, so that an object that is never committed is
-- found and deleted. An id that is registered already stays as it is.
-- Takes: $1 agent_id (uuid, the agent that is going to upload);
--   $2 segment_id (uuid[]).
-- Returns: nothing.
-- Locks: nothing but the new rows.
-- Index: segment_pkey.
insert into segment (segment_id, agent_id)
select id, $1 from unnest($2::uuid[]) id
order by id
on conflict do nothing
