-- Replaces the settings of a queue. If its rate changes, its token bucket begins full.
-- Takes: $1 queue_id (int8);
--   $2 lease_ms (int8), $3 base_ms (int8), $4 factor (float8), $5 cap_ms (int8), $6 jitter (float8),
--     $7 max_failures (int4), $8 ladder (int8[]), $9 rate_limit (int4), $10 rate_per_ms (int8),
--     $11 max_in_flight (int8), $12 limited (bool): its settings, all as in insert.sql.
-- Returns: nothing.
-- Locks: the queue and its flow, which the caller holds already.
-- Index: queue_pkey, queue_flow_pkey.
with flow as (
    update queue_flow f set limited = $12,
        tokens = case
            when q.rate_limit is distinct from $9 or q.rate_per_ms is distinct from $10 then coalesce($9, 0)
            else f.tokens end,
        refilled_at = case
            when q.rate_limit is distinct from $9 or q.rate_per_ms is distinct from $10
                then date_trunc('milliseconds', clock_timestamp())
            else f.refilled_at end
    from queue q where f.queue_id = $1 and q.queue_id = $1
)
update queue
set lease_ms = $2, base_ms = $3, factor = $4, cap_ms = $5, jitter = $6, max_failures = $7, ladder = $8,
    rate_limit = $9, rate_per_ms = $10, max_in_flight = $11
where queue_id = $1
