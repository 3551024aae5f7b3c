-- When a key's lowest record is due, so that a grant need not look at keys that are not.
alter table queue_key add column due_at timestamptz not null default '-infinity';
comment on column queue_key.due_at is
    'of its lowest record, if that lies ahead and the key is free; else -infinity: grants look at the record';
update queue_key k set due_at = r.due_at
from (
    select distinct on (a.queue_id, a.partition_id, a.key_hash)
        a.queue_id, a.partition_id, a.key_hash, a.due_at
    from admitted a order by a.queue_id, a.partition_id, a.key_hash, a.record_offset
) r
where r.queue_id = k.queue_id and r.partition_id = k.partition_id and r.key_hash = k.key_hash and not k.taken
    and r.due_at > clock_timestamp();
-- Agents before would redrive a record and leave its key to be looked at too late.
update cluster set oldest_agent = 16;
