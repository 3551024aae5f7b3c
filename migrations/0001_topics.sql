create table cluster (
    one        bool primary key default true constraint cluster_is_one check (one),
    cluster    text not null,
    epoch      int8 not null default 1,
    created_at timestamptz not null default clock_timestamp()
);
insert into cluster (cluster) values (replace(gen_random_uuid()::text, '-', ''));

create table topic (
    topic_id          int8 generated always as identity constraint topic_pkey primary key,
    tenant_id         text not null,
    name              text not null,
    created_at        timestamptz not null default clock_timestamp(),
    deleted_at        timestamptz,
    retention_ms      int8,
    retention_bytes   int8,
    retention_hold_ms int8 not null,
    placement         text not null constraint topic_placement check (placement in ('auto', 'inline', 'object')),
    dedup_window_ms   int8 not null,
    max_record_bytes  int4 not null,
    archive           text not null,
    columns           text
);
create unique index topic_name on topic (tenant_id, name) where deleted_at is null;
create index topic_deleted on topic (deleted_at) where deleted_at is not null;

create table topic_partition (
    partition_id     int8 generated always as identity constraint topic_partition_pkey primary key,
    topic_id         int8 not null,
    number           int4 not null,
    log_start_offset int8 not null default 0,
    high_watermark   int8 not null default 0,
    bytes            int8 not null default 0,
    deleted          bool not null default false
) with (fillfactor = 50);
create unique index topic_partition_number on topic_partition (topic_id, number);
