-- Reads the assignment of a consumer group: which member has which partition, and since which generation.
-- Takes: $1 group_id (int8).
-- Returns: a row per assigned partition.
-- Locks: nothing.
-- Index: group_assignment_pkey.
select partition_id, member_id, since from group_assignment where group_id = $1
