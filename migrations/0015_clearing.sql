-- Purge and seek clear what a queue has of a partition in steps. Until the last of them, the queue gives out
-- nothing, and takes up nothing.
alter table queue_flow add column clearing bool not null default false,
    add column skipped int8 not null default 0;
alter table queue_cursor add column seek_to int8;
comment on column queue_flow.clearing is 'some of the queue''s cursors have a seek_to';
comment on column queue_flow.skipped is
    'records not settled that the seek under way, or the last one, has dropped below its targets';
comment on column queue_cursor.seek_to is
    'where the cursor goes once what the queue has of the partition is cleared';
-- Agents before would give out records in the middle of a seek.
update cluster set oldest_agent = 15;
