-- What a cluster says of itself: who may use its schema, and with which bucket it belongs together.
alter table cluster add column oldest_agent int8 not null default 13;
alter table cluster add column nonce uuid;
alter table cluster add column beat int8 not null default 0;
comment on column cluster.oldest_agent is
    'schema that an agent must know; a migration that earlier agents cannot bear sets it to its own number';
comment on column cluster.nonce is
    'as in the marker object of the bucket; null: the cluster has no bucket yet';
comment on column cluster.beat is
    'batches of deletions so far, which the marker follows; if it is ahead, the database was set back';
