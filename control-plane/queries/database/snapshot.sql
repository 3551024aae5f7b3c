-- What a statement sees that begins now: the transactions that are visible to it. Answers that are equal mean
-- that no transaction which writes ended between them.
-- Takes: nothing.
-- Returns: one row.
-- Locks: nothing.
-- Index: none.
select pg_current_snapshot()::text as "snapshot!"
