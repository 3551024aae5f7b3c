-- Reads the high watermarks of partitions, for readers that wait for new records.
-- Takes: $1 partition_id (int8[]);
--   $2 tenant_id (text[], on whose behalf, each once).
-- Returns: a row per partition that is not deleted and is one of these tenants', with its tenant: where they
--   are several, the caller compares it with the one who asked. (A join with pairs takes a fifth to a half
--   longer.)
-- Locks: nothing.
-- Index: topic_partition_pkey.
select partition_id, tenant_id, high_watermark
from topic_partition
where partition_id = any ($1::int8[]) and tenant_id = any ($2::text[]) and not deleted
