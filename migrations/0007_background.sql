-- When retention looks at a topic next: never later than it may have something to unlink. Agents of an
-- earlier version leave it alone when they make or change a topic: hence the default, and a day at most.
alter table topic add column retain_at timestamptz not null default '-infinity';

-- Set when a payload could not be read by the drain, which then leaves it where it is.
alter table inline_payload add column aside_at timestamptz;

alter table segment add column failures int4 not null default 0;
comment on column segment.failures is 'deletions of its object that failed since the last that did not';

insert into job (name)
values ('clamp'), ('clean'), ('forget'), ('drain-0'), ('drain-1'), ('drain-2'), ('drain-3');
comment on column job.name is
    'drain-N drains slice N of the payloads; agents of an earlier version take drain, which is all slices';
