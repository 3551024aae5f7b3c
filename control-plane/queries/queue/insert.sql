-- Creates a queue.
-- Takes: $1 tenant_id (text), $2 name (text): of the queue;
--   $3 topic_id (int8, the topic it works on);
--   $4 keyed (bool, records of one key are given out in order);
--   $5 latest (bool, its cursors begin at the end of the logs);
--   $6 lease_ms (int8, length of a lease if the caller says none);
--   $7 base_ms (int8), $8 factor (float8), $9 cap_ms (int8), $10 jitter (float8), $11 max_failures (int4),
--     $12 ladder (int8[], delay after 1, 2, ... failures as it follows from the others): the retry policy;
--   $13 rate_limit (int4), $14 rate_per_ms (int8): records that are given out in a time, null: as many as are
--     asked for;
--   $15 max_in_flight (int8, records that are leased at the same time, at most);
--   $16 limited (bool, grants have to be counted one after the other because of rate or max_in_flight).
-- Returns: its id, or no row when another made it in the meantime.
-- Locks: nothing but the new rows.
-- Index: queue_name, queue_flow_pkey.
with made as (
    insert into queue (
        tenant_id, name, topic_id, keyed, latest, lease_ms, base_ms, factor, cap_ms, jitter, max_failures,
        ladder, rate_limit, rate_per_ms, max_in_flight
    )
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
    on conflict do nothing returning queue_id
),
flow as (
    insert into queue_flow (queue_id, limited, tokens, refilled_at)
    select queue_id, $16, coalesce($13, 0), date_trunc('milliseconds', clock_timestamp()) from made
)
select queue_id from made
