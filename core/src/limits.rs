//! Every limit of the product, in one place. Bytes, milliseconds, counts.

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// An atomic request, and the unit into which a streamed body is cut. Part of the contract: retries of a
/// stream depend on it.
pub const REQUEST_MAX_BYTES: usize = 8 * MIB;
/// A streamed body is also cut after so many records.
pub const CHUNK_MAX_RECORDS: usize = 65_536;
pub const RECORD_MAX_BYTES_DEFAULT: i32 = 1 << 20;
/// `max_record_bytes` of a topic cannot be set above this.
pub const RECORD_MAX_BYTES_CAP: i32 = 8 << 20;
pub const RECORD_MAX_HEADERS: usize = 128;
pub const HEADERS_MAX_BYTES: usize = 64 * KIB;
pub const IDEMPOTENCY_KEY_MAX_BYTES: usize = 128;
pub const DEDUP_ID_MAX_BYTES: usize = 256;
pub const DEDUP_WINDOW_MAX_MS: i64 = 24 * 3_600_000;
/// About 100 years: Postgres' instants do not reach back much further than its calendar.
pub const RETENTION_MAX_MS: i64 = 3_200_000_000_000;
pub const TOPICS_PER_BATCH: usize = 64;
/// Latest timestamp that a record may carry: the last millisecond of the year 9999.
pub const TIMESTAMP_MAX_MS: i64 = 253_402_300_799_999;

pub const PARTITIONS_DEFAULT: i32 = 8;
pub const PARTITIONS_MAX: i32 = 10_000;

/// Requests up to this size may go inline into Postgres.
pub const SMALL_REQUEST_MAX_BYTES: usize = 16 * KIB;
pub const INLINE_MAX_BYTES: usize = 64 * KIB;
pub const INLINE_BYTES_PER_S: u32 = 4 << 20;
pub const INLINE_COMMITS_PER_S: u32 = 1_000;
/// Inline payload of the whole cluster that is not yet drained; past it the small lane spills into bulk.
pub const INLINE_LIVE_MAX_BYTES: i64 = 256 << 20;
/// Payloads older than this are moved into segments.
pub const INLINE_DRAIN_AFTER_MS: i64 = 10_000;
/// A reader's plan over inline payloads is good for so long; drained payloads go after it.
pub const INLINE_PLAN_TTL_MS: i64 = 60_000;

pub const SEGMENT_MAX_BYTES: usize = 8 * MIB;
pub const LINGER_MAX_MS: u64 = 250;
/// Uncompressed bytes after which a run of one partition goes on in another record batch.
pub const BATCH_MAX_BYTES: usize = MIB;
pub const PUTS_PER_S: f64 = 4.0;
pub const PUT_BURST: f64 = 8.0;
pub const UPLOADS_IN_FLIGHT: usize = 8;
/// Batches that one commit statement may carry.
pub const COMMIT_MAX_RUNS: usize = 4_096;
/// Shares of requests in the batches of one part.
pub const COMMIT_MAX_PIECES: usize = 16_384;

/// Part ids are registered so many at a time, and used within this time of the agent's monotonic clock.
pub const PARTS_PER_REGISTRATION: usize = 64;
pub const PART_USABLE_MS: u64 = 600_000;
/// A registered part that was not committed by then is abandoned.
pub const PART_PENDING_MAX_MS: i64 = 3_600_000;
/// A deleted object's row stays until a stalled PUT can no longer land.
pub const OBJECT_FORGET_AFTER_MS: i64 = 86_400_000;
/// A plan over segments is good for so long; an unlinked segment is deleted after it.
pub const PLAN_TTL_MS: i64 = 600_000;

pub const READ_MAX_RECORDS_DEFAULT: usize = 500;
pub const READ_MAX_RECORDS: usize = 100_000;
pub const READ_MAX_BYTES_DEFAULT: usize = MIB;
pub const READ_MAX_BYTES: usize = 16 * MIB;
/// Batch rows that one plan of a partition may hold.
pub const PLAN_MAX_BATCHES: i64 = 1_000;
pub const WAIT_MAX_MS: u64 = 30_000;
pub const CACHE_BLOCK_BYTES: u64 = 4 << 20;

pub const IDEMPOTENCY_KEY_TTL_MS: i64 = 3_600_000;
pub const HEARTBEAT_MS: u64 = 5_000;

/// Of a member of a consumer group.
pub const SESSION_MIN_MS: i64 = 1_000;
pub const SESSION_MAX_MS: i64 = 1_800_000;
pub const SESSION_DEFAULT_MS: i64 = 30_000;
/// A sign of life is noted when the last one is older than this part of the session.
pub const SESSION_NOTED_PARTS: i64 = 6;
pub const TOPICS_PER_MEMBER: usize = 64;
pub const CLIENT_ID_MAX_BYTES: usize = 256;
/// Partitions that one commit of group offsets may name.
pub const OFFSETS_PER_COMMIT: usize = 10_000;
/// Members that expired so long ago are forgotten though nobody in their group has called since.
pub const MEMBER_FORGET_AFTER_MS: i64 = 3_600_000;
/// A group without members and committed offsets is forgotten when it has not changed for so long.
pub const GROUP_FORGET_AFTER_MS: i64 = 86_400_000;
/// The answer of a commit that carries group offsets is kept so long, key or not: longer than the commit is
/// sent again.
pub const GUARDED_ANSWER_TTL_MS: i64 = 600_000;

pub const LEASE_DEFAULT_MS: i64 = 30_000;
pub const LEASE_MIN_MS: i64 = 1_000;
/// As long as the longest of SQS.
pub const LEASE_MAX_MS: i64 = 43_200_000;
pub const LEASE_MAX_RECORDS: usize = 1_000;
pub const LEASE_MAX_BYTES: usize = 16 * MIB;
/// Uncompressed batches that are read for one grant, or one page of a listing.
pub const LOOKUP_MAX_BYTES: i64 = 32 << 20;
/// Grants of an agent that are being read at once.
pub const LOOKUPS_AT_ONCE: usize = 8;
/// Entries of one settlement call; whole leases count as one.
pub const SETTLE_MAX_ENTRIES: usize = 10_000;
pub const REASON_MAX_BYTES: usize = 1_024;
/// A queue with this cap counts its leases without a lock: agents that grant at the same instant may pass it
/// together.
pub const IN_FLIGHT_DEFAULT: i64 = 20_000;
pub const IN_FLIGHT_MAX: i64 = 1_000_000;
pub const MAX_FAILURES_MAX: i32 = 1_000;
/// Of a retry policy and of the delay of a nack: a year.
pub const RETRY_MAX_MS: i64 = 31_536_000_000;
/// Records of a keyed queue that are admitted and not yet settled.
pub const KEYED_WINDOW: i64 = 100_000;
/// The verdicts of a settlement with a request id, for whoever sends it again.
pub const OPERATION_TTL_MS: i64 = 300_000;
/// Cursors that a grant says have to be admitted.
pub const UNADMITTED_MAX: i64 = 16;
