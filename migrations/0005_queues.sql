create table queue (
    queue_id      int8 generated always as identity constraint queue_pkey primary key,
    tenant_id     text not null,
    name          text not null,
    topic_id      int8 not null,
    keyed         bool not null,
    latest        bool not null,
    lease_ms      int8 not null,
    base_ms       int8 not null,
    factor        float8 not null,
    cap_ms        int8 not null,
    jitter        float8 not null,
    max_failures  int4 not null,
    ladder        int8[] not null,
    rate_limit    int4,
    rate_per_ms   int8,
    max_in_flight int8 not null,
    secret        uuid not null default gen_random_uuid(),
    created_at    timestamptz not null default clock_timestamp(),
    deleted_at    timestamptz
);
comment on column queue.ladder is 'delay in milliseconds after 1, 2, ... failures, without jitter; the last holds for all that follow';
create unique index queue_name on queue (tenant_id, name, coalesce(deleted_at, 'infinity'));
create index queue_topic on queue (topic_id);
create index queue_deleted on queue (deleted_at) where deleted_at is not null;

-- What grants share, and what excludes them. Who changes more than a grant may see by halves counts the turn.
create table queue_flow (
    queue_id    int8 constraint queue_flow_pkey primary key,
    paused      bool not null default false,
    limited     bool not null,
    tokens      float8 not null,
    refilled_at timestamptz not null,
    turn        int8 not null default 0
) with (fillfactor = 50);
comment on column queue_flow.turn is 'a statement that waited for this row knows by it whether its snapshot is older than the row';

create table queue_cursor (
    queue_id     int8 not null,
    partition_id int8 not null,
    start_offset int8 not null,
    next_offset  int8 not null,
    constraint queue_cursor_pkey primary key (queue_id, partition_id)
) with (fillfactor = 30);
comment on column queue_cursor.start_offset is 'next_offset less what was passed, a seek backward taken back: next_offset - start_offset = settled, dead, waiting and leased';

-- Records of one lease, partition, attempt, failures and deadline. Looked up by id alone: no other index.
create table lease (
    lease_id     uuid not null,
    part         int4 not null,
    queue_id     int8 not null,
    partition_id int8 not null,
    attempt      int4 not null,
    failures     int4 not null,
    deadline     timestamptz not null,
    pending      int8multirange not null,
    constraint lease_pkey primary key (lease_id, part)
) with (fillfactor = 70);

-- Rows are inserted and deleted, never updated: a statement that waited for one would look for its new key in an old snapshot.
create table waiting (
    queue_id     int8 not null,
    partition_id int8 not null,
    lo           int8 not null,
    hi           int8 not null,
    due_at       timestamptz not null,
    attempt      int4 not null,
    failures     int4 not null,
    alone        bool not null,
    reason       text,
    constraint waiting_pkey primary key (partition_id, lo, queue_id)
);
comment on column waiting.alone is 'its lease expired: it is given out apart from others';
create index waiting_due on waiting (queue_id, alone, due_at, partition_id, lo);

create table dead (
    queue_id      int8 not null,
    partition_id  int8 not null,
    record_offset int8 not null,
    died_at       timestamptz not null,
    attempt       int4 not null,
    failures      int4 not null,
    key_hash      int8,
    reason        text,
    constraint dead_pkey primary key (queue_id, partition_id, record_offset)
);

-- Keyed queues: a record from its admission until it is settled for good, also while it is leased or waits for a retry.
create table admitted (
    queue_id      int8 not null,
    partition_id  int8 not null,
    record_offset int8 not null,
    key_hash      int8 not null,
    due_at        timestamptz,
    attempt       int4 not null default 0,
    constraint admitted_pkey primary key (queue_id, partition_id, record_offset)
);
-- Expressions, here and below, so that no statement can use this index in place of the primary key, or the other way round: the planner takes these
-- tables for empty, and all indexes of an empty table for equally good.
create index admitted_key on admitted (key_hash, (queue_id + 0), (partition_id + 0), (record_offset + 0));
create index admitted_due on admitted (queue_id, due_at) where due_at is not null;

-- One row a live key, which is its lock.
create table queue_key (
    queue_id     int8 not null,
    partition_id int8 not null,
    key_hash     int8 not null,
    records      int4 not null,
    taken        bool not null default false,
    turn         int8 not null default 0,
    constraint queue_key_pkey primary key (queue_id, partition_id, key_hash)
) with (fillfactor = 50);
create index queue_key_hash on queue_key ((key_hash + 0));
comment on column queue_key.records is 'admitted records of the key; the row goes with the last';
comment on column queue_key.taken is 'from the grant of one of them until that one is settled for good';

-- What an agent has done in a queue; sums over agents are the queue's counts.
create table queue_agent (
    queue_id        int8 not null,
    agent_id        uuid not null,
    acked           int8 not null default 0,
    expired         int8 not null default 0,
    purged          int8 not null default 0,
    dead            int8 not null default 0,
    waiting         int8 not null default 0,
    settle_op       uuid,
    settle_at       timestamptz,
    settle_verdicts int8[],
    lease_rate      float8 not null default 0,
    settle_rate     float8 not null default 0,
    rated_at        timestamptz not null,
    constraint queue_agent_pkey primary key (queue_id, agent_id)
) with (fillfactor = 50);
comment on column queue_agent.waiting is 'net, as dead: less than 0 where an agent gave out more than it took back';
comment on column queue_agent.settle_op is 'the last settlement, for whoever sends it again; verdicts as in queue_operation';
comment on column queue_agent.lease_rate is 'a second, at rated_at, of a mean that forgets with a time constant of a minute';

create table queue_operation (
    op         uuid not null,
    queue_id   int8 not null,
    at         timestamptz not null,
    verdicts   int8[] not null,
    expires_at timestamptz not null,
    constraint queue_operation_pkey primary key (op, queue_id)
);
comment on column queue_operation.verdicts is 'entry * 8 + outcome, partition, lo, hi of each';
create index queue_operation_expires on queue_operation (expires_at);

-- The next batch with delayed records that ends after an offset.
create index batch_delayed on batch (partition_id, (base_offset + records)) where flags & 2 <> 0;

insert into job (name) values ('expire');
