-- Stores the heartbeats of members of any groups, whose polls wait.
-- Takes: one element each per member: $1 member_id (uuid[]), $2 tenant_id (text[], on whose behalf).
-- Returns: the members whose heartbeat was stored: not those that are gone, whose session is over, or that
--   somebody else is changing.
-- Locks: the members, passing over those that others hold.
-- Index: group_member_pkey, consumer_group_pkey.
with at as materialized (select date_trunc('milliseconds', clock_timestamp()) as now),
own as materialized (
    select m.member_id
    from unnest($1::uuid[], $2::text[]) as u(member_id, tenant_id)
    join group_member m on m.member_id = u.member_id
    join consumer_group g on g.group_id = m.group_id and g.tenant_id || '' = u.tenant_id
    cross join at
    where m.seen_at + m.session_ms * interval '1 ms' > at.now
    order by m.member_id for no key update of m skip locked
)
update group_member m set seen_at = greatest(m.seen_at, at.now)
from own, at
where m.member_id = own.member_id
returning m.member_id as "member_id!"
