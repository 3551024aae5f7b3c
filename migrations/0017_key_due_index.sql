-- no-transaction
-- Keys by when they are due, and those that are to be looked at in the order in which grants take them.
-- Expressions, so that no statement can use the primary key in its place: the planner takes the table for
-- empty.
create index concurrently if not exists queue_key_due
    on queue_key (queue_id, due_at, (partition_id + 0), (key_hash + 0));
