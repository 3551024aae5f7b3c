-- Who has which partition in a group.
-- Returns a row per partition. Locks nothing. Index: group_assignment_pkey.
select partition_id, member_id, since from group_assignment where group_id = $1
