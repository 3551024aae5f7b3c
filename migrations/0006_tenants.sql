-- Whose a row is, where statements go by its id. Until here every row was of the tenant `default`; agents of
-- an earlier version that still run write such rows by the columns' default. Only the catalogue is changed.
alter table topic_partition add column tenant_id text not null default 'default';
alter table request_key add column tenant_id text not null default 'default';
alter table answer add column tenant_id text not null default 'default';
alter table dedup add column tenant_id text not null default 'default';
alter table segment add column tenant_id text;
comment on column topic_partition.tenant_id is 'its topic''s: who reads a partition need not read the topic';
comment on column request_key.tenant_id is 'that of the request; key_hash is over the tenant as well';
comment on column answer.tenant_id is 'that of the request';
comment on column dedup.tenant_id is 'its topic''s';
comment on column segment.tenant_id is
    'whose records alone it holds; null: shared by tenants, as segments are that agents commit';

-- Statements that go by the id of a queue or a group compare `tenant_id || ''`, so that none can use the
-- index of names in place of the primary key: the planner may take these tables for empty, and then all
-- indexes for equally good.
