-- Reads the server's version, settings and state, from which `millpond doctor` judges whether Millpond can
-- work on it.
-- Takes: nothing.
-- Returns: one row: version, settings, connections, clock, whether it is a standby, whether the session's own
--   settings arrived.
-- Locks: nothing.
-- Index: none.
select current_setting('server_version_num')::int4 as version,
    current_setting('server_version') as version_text,
    current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('synchronous_standby_names') as synchronous_standby_names,
    current_setting('max_connections')::int4
        - current_setting('superuser_reserved_connections')::int4 as connections,
    (
        select count(*) from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid()
    )::int4 as connections_used,
    pg_is_in_recovery() as standby,
    current_setting('plan_cache_mode') = 'force_generic_plan' as session_settings,
    pg_backend_pid() as backend,
    (extract(epoch from clock_timestamp()) * 1000)::int8 as now_ms
