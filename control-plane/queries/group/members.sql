-- Lists the members of consumer groups, including those whose session is over.
-- Takes: $1 group_ids (int8[]).
-- Returns: a row per member, by id.
-- Locks: nothing.
-- Index: group_member_group.
select m.group_id, m.member_id, m.client_id, m.topics, m.session_ms, m.latest,
    (extract(epoch from m.seen_at) * 1000)::int8 as "seen_at_ms!",
    m.seen_at + m.session_ms * interval '1 ms' <= (select clock_timestamp()) as "expired!"
from group_member m where m.group_id = any ($1::int8[]) order by m.member_id
