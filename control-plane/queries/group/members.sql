-- Lists the members of a consumer group, including those whose session is over.
-- Takes: $1 group_id (int8).
-- Returns: a row per member, by id.
-- Locks: nothing.
-- Index: group_member_group.
select m.member_id, m.client_id, m.topics, m.session_ms, m.latest,
    (extract(epoch from m.seen_at) * 1000)::int8 as "seen_at_ms!",
    m.seen_at + m.session_ms * interval '1 ms' <= (select clock_timestamp()) as "expired!"
from group_member m where m.group_id = $1 order by m.member_id
