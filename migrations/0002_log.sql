-- A segment: one object of the bucket, known before it is uploaded.
create table segment (
    segment_id    uuid constraint segment_pkey primary key,
    agent_id      uuid not null,
    state         "char" not null default 'p',
    registered_at timestamptz not null default clock_timestamp(),
    committed_at  timestamptz,
    bytes         int8,
    crc           int4,
    live          int4 not null default 0,
    delete_at     timestamptz,
    constraint segment_state check (state in ('p', 'c', 'u', 'd'))
);
comment on column segment.state is 'p pending, c committed, u unlinked or abandoned, d deleted once and to be deleted again';
create index segment_pending on segment (registered_at) where state = 'p';
create index segment_doomed on segment (delete_at) where state in ('u', 'd');

create table inline_payload (
    payload_id   uuid constraint inline_payload_pkey primary key,
    committed_at timestamptz not null,
    drained_at   timestamptz,
    bytes        int4 not null,
    payload      bytea not null
);
alter table inline_payload alter column payload set storage external;
create index inline_payload_live on inline_payload (committed_at) where drained_at is null;
create index inline_payload_drained on inline_payload (drained_at) where drained_at is not null;

create table batch (
    partition_id  int8 not null,
    base_offset   int8 not null,
    records       int4 not null,
    part_id       uuid not null,
    inline        bool not null,
    byte_offset   int4 not null,
    byte_length   int4 not null,
    raw_bytes     int4 not null,
    crc           int4 not null,
    flags         int2 not null,
    committed_at  timestamptz not null,
    max_timestamp int8 not null,
    expires_at    timestamptz,
    skip          int4multirange,
    constraint batch_pkey primary key (partition_id, base_offset)
);
create index batch_inline on batch (part_id) where inline;

create table request_key (
    key_hash   uuid constraint request_key_pkey primary key,
    body_hash  uuid not null,
    request_id uuid not null,
    expires_at timestamptz not null
);
create index request_key_expires on request_key (expires_at);

create table answer (
    request_id uuid constraint answer_pkey primary key,
    expires_at timestamptz not null,
    context    bytea not null,
    bases      int8[] not null,
    dropped    int8[] not null
);
comment on column answer.bases is 'offset of the first kept record of each piece, null where none was kept';
comment on column answer.dropped is 'piece << 32 | position of each record whose dedup id was known, ascending';
create index answer_expires on answer (expires_at);

create table dedup (
    topic_id   int8 not null,
    id_hash    uuid not null,
    request_id uuid not null,
    piece      int4 not null,
    position   int4 not null,
    partition  int4 not null,
    expires_at timestamptz not null,
    constraint dedup_pkey primary key (topic_id, id_hash)
);
create index dedup_expires on dedup (expires_at);
