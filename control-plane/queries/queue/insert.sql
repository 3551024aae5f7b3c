-- Makes a queue. Returns its id, or no row when another made it in the meantime.
-- Locks nothing but the new rows. Index: queue_name, queue_flow_pkey.
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
