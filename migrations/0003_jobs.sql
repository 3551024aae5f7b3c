create table agent (
    agent_id   uuid constraint agent_pkey primary key,
    version    text not null,
    started_at timestamptz not null default clock_timestamp(),
    seen_at    timestamptz not null
) with (fillfactor = 50);

create table job (
    name       text constraint job_pkey primary key,
    agent_id   uuid,
    until      timestamptz not null default '-infinity',
    due_at     timestamptz not null default '-infinity'
) with (fillfactor = 50);
insert into job (name) values ('drain'), ('sweep'), ('retain');
