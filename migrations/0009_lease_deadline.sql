-- no-transaction
-- An expression, so that no statement can use this index in place of the primary key.
create index concurrently if not exists lease_deadline on lease ((deadline at time zone 'UTC'));
