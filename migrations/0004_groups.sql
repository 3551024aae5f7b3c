create table consumer_group (
    group_id         int8 generated always as identity constraint consumer_group_pkey primary key,
    tenant_id        text not null,
    name             text not null,
    generation       int8 not null default 0,
    topic_ids        int8[] not null default '{}',
    partition_counts int4[] not null default '{}',
    changed_at       timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
comment on column consumer_group.generation is 'counts the changes of group_member and group_assignment, each of which is made with it';
comment on column consumer_group.topic_ids is 'topics that the assignment was made from, ascending; partition_counts says how many partitions each had';
create unique index consumer_group_name on consumer_group (tenant_id, name);

create table group_member (
    member_id  uuid constraint group_member_pkey primary key,
    group_id   int8 not null,
    client_id  text,
    topics     text[] not null,
    session_ms int8 not null,
    latest     bool not null,
    seen_at    timestamptz not null
) with (fillfactor = 50);
create index group_member_group on group_member (group_id);

create table group_assignment (
    group_id     int8 not null,
    partition_id int8 not null,
    member_id    uuid not null,
    since        int8 not null,
    constraint group_assignment_pkey primary key (group_id, partition_id)
) with (fillfactor = 50);
create index group_assignment_member on group_assignment (member_id);

create table group_offset (
    group_id     int8 not null,
    partition_id int8 not null,
    committed    int8 not null,
    committed_at timestamptz not null,
    constraint group_offset_pkey primary key (group_id, partition_id)
) with (fillfactor = 50);
create index group_offset_partition on group_offset (partition_id);
