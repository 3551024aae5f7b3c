-- Makes segment ids known before anything is uploaded under them. Sending it again changes nothing.
-- Returns nothing. Locks nothing but the new rows. Index: segment_pkey.
insert into segment (segment_id, agent_id)
select id, $1 from unnest($2::uuid[]) id
order by id
on conflict do nothing
