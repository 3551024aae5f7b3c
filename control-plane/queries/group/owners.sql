-- Reads the assignment of consumer groups: which member has which partition, and since which generation.
-- Takes: $1 group_ids (int8[]).
-- Returns: a row per assigned partition.
-- Locks: nothing.
-- Index: group_assignment_pkey.
select group_id, partition_id, member_id, since from group_assignment where group_id = any ($1::int8[])
