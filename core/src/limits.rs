//! Every limit and default of the product, in one place. The suffix gives the unit: `_BYTES`, `_MS`
//! (milliseconds), `_PER_S` (a second); otherwise a count.

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// Maximum size of an atomic produce request, and of a chunk of a streamed body. Part of the API contract,
/// since a retried stream must be cut at the same places.
pub const REQUEST_MAX_BYTES: usize = 8 * MIB;
/// Maximum number of records in a chunk of a streamed body.
pub const CHUNK_MAX_RECORDS: usize = 65_536;
/// Default of the topic setting `max_record_bytes`.
pub const RECORD_MAX_BYTES_DEFAULT: i32 = 1 << 20;
/// Maximum of the topic setting `max_record_bytes`.
pub const RECORD_MAX_BYTES_CAP: i32 = 8 << 20;
/// Maximum number of headers of a record.
pub const RECORD_MAX_HEADERS: usize = 128;
/// Maximum size of all headers of a record.
pub const HEADERS_MAX_BYTES: usize = 64 * KIB;
/// Maximum length of an idempotency key.
pub const IDEMPOTENCY_KEY_MAX_BYTES: usize = 128;
/// Maximum length of a dedup id.
pub const DEDUP_ID_MAX_BYTES: usize = 256;
/// Maximum of the topic setting `dedup_window_ms`: a day.
pub const DEDUP_WINDOW_MAX_MS: i64 = 24 * 3_600_000;
/// Maximum of the retention settings: about 100 years. Subtracting more from the current time would soon
/// leave the range of Postgres timestamps.
pub const RETENTION_MAX_MS: i64 = 3_200_000_000_000;
/// Maximum number of topics that one produce request may name.
pub const TOPICS_PER_BATCH: usize = 64;
/// Latest timestamp of a record: the last millisecond of the year 9999.
pub const TIMESTAMP_MAX_MS: i64 = 253_402_300_799_999;

/// Partitions of a topic that is created without a number.
pub const PARTITIONS_DEFAULT: i32 = 8;
/// Maximum number of partitions of a topic.
pub const PARTITIONS_MAX: i32 = 10_000;

/// Maximum size of a produce request that may be stored inline, in Postgres.
pub const SMALL_REQUEST_MAX_BYTES: usize = 16 * KIB;
/// Maximum size of one inline payload.
pub const INLINE_MAX_BYTES: usize = 64 * KIB;
/// Inline bytes that an agent may commit per second.
pub const INLINE_BYTES_PER_S: u32 = 4 << 20;
/// Inline commits that an agent may make per second.
pub const INLINE_COMMITS_PER_S: u32 = 1_000;
/// Inline payload of the whole cluster that is not drained yet. Above it, small requests go into segments
/// too.
pub const INLINE_LIVE_MAX_BYTES: i64 = 256 << 20;
/// Age at which inline payloads are moved into segments.
pub const INLINE_DRAIN_AFTER_MS: i64 = 10_000;
/// Spans of time, by whose number modulo [`DRAIN_SLICES`] inline payloads are divided among drains:
/// neighbours stay together, so that they can be joined.
pub const DRAIN_SLICE_MS: i64 = 10_000;
/// Number of drains that can run at once, in one agent or several.
pub const DRAIN_SLICES: i64 = 4;
/// Maximum number of batches in the plan of a drain.
pub const DRAIN_PLAN_MAX_BATCHES: i64 = 16_384;
/// Maximum number of batches that one swap replaces.
pub const SWAP_MAX_INPUTS: usize = 1_000;
/// Maximum number of partitions that one swap locks.
pub const SWAP_MAX_PARTITIONS: usize = 64;
/// Maximum number of partitions that one step of retention locks.
pub const UNLINK_MAX_PARTITIONS: usize = 32;
/// How long a reader may use a plan over inline payloads. A drained payload is deleted after this time.
pub const INLINE_PLAN_TTL_MS: i64 = 60_000;

/// Size at which a segment is flushed.
pub const SEGMENT_MAX_BYTES: usize = 8 * MIB;
/// Maximum time that an append waits for others before it is flushed.
pub const LINGER_MAX_MS: u64 = 250;
/// Maximum uncompressed size of a record batch. Further records of the partition go into another batch.
pub const BATCH_MAX_BYTES: usize = MIB;
/// Segment uploads per second that an agent may start, on average.
pub const PUTS_PER_S: f64 = 4.0;
/// Segment uploads that an agent may start at once after a pause.
pub const PUT_BURST: f64 = 8.0;
/// Maximum number of concurrent segment uploads of an agent.
pub const UPLOADS_IN_FLIGHT: usize = 8;
/// Maximum number of runs (record batches) in one commit statement.
pub const COMMIT_MAX_RUNS: usize = 4_096;
/// Maximum number of pieces (the records of one request within one run) in one commit statement, unless one
/// request alone has more.
pub const COMMIT_MAX_PIECES: usize = 4_096;

/// Number of part ids that an agent registers at a time, at most.
pub const PARTS_PER_REGISTRATION: usize = 64;
/// How long an agent may use a registered part id, by the agent's monotonic clock.
pub const PART_USABLE_MS: u64 = 600_000;
/// Age at which a registered part that was not committed counts as abandoned.
pub const PART_PENDING_MAX_MS: i64 = 3_600_000;
/// How long the row of a deleted object is kept. By then a stalled PUT of the object can no longer arrive.
pub const OBJECT_FORGET_AFTER_MS: i64 = 86_400_000;
/// How long a reader may use a plan over segments. An unlinked segment is deleted after this time.
pub const PLAN_TTL_MS: i64 = 600_000;

/// Maximum number of names in a page of a listing of topics, queues or groups; also the default.
pub const PAGE_MAX_NAMES: i64 = 1_000;
/// Number of partitions in a page of topics or groups after which it ends early.
pub const PAGE_MAX_PARTITIONS: i64 = 100_000;
/// Number of partitions in a page of queues after which it ends early: each costs some index lookups.
pub const PAGE_MAX_QUEUE_PARTITIONS: i64 = 20_000;
/// Records that may wait in a queue, or in all queues of a page together, for the counts of those that are
/// due and of those that are not to be exact. Of more, so many rows are read.
pub const COUNTED_MAX_ROWS: i64 = 10_000;

/// Maximum number of dead records that a redrive or a purge may name.
pub const DEAD_MAX_OFFSETS: usize = 10_000;

/// Default of a read's `max_records`.
pub const READ_MAX_RECORDS_DEFAULT: usize = 500;
/// Maximum of a read's `max_records`.
pub const READ_MAX_RECORDS: usize = 100_000;
/// Default of a read's `max_bytes`.
pub const READ_MAX_BYTES_DEFAULT: usize = MIB;
/// Maximum of a read's `max_bytes`.
pub const READ_MAX_BYTES: usize = 16 * MIB;
/// Maximum number of batches in the read plan of one partition.
pub const PLAN_MAX_BATCHES: i64 = 1_000;
/// Maximum time that a call may wait for records.
pub const WAIT_MAX_MS: u64 = 30_000;
/// Size of the blocks in which segments are fetched and cached.
pub const CACHE_BLOCK_BYTES: u64 = 4 << 20;

/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_KEY_TTL_MS: i64 = 3_600_000;
/// Interval of the heartbeats of an agent.
pub const HEARTBEAT_MS: u64 = 10_000;

/// Minimum session of a consumer group member.
pub const SESSION_MIN_MS: i64 = 1_000;
/// Maximum session of a consumer group member.
pub const SESSION_MAX_MS: i64 = 1_800_000;
/// Default session of a consumer group member.
pub const SESSION_DEFAULT_MS: i64 = 30_000;
/// A heartbeat of a member is stored only if the stored one is older than the session divided by this number.
pub const SESSION_NOTED_PARTS: i64 = 6;
/// Maximum number of topics that a consumer group member subscribes to.
pub const TOPICS_PER_MEMBER: usize = 64;
/// Maximum length of a client id.
pub const CLIENT_ID_MAX_BYTES: usize = 256;
/// Maximum number of partitions in one commit of consumer group offsets.
pub const OFFSETS_PER_COMMIT: usize = 10_000;
/// Time after which an expired member is removed even if nobody in its group has called since.
pub const MEMBER_FORGET_AFTER_MS: i64 = 3_600_000;
/// Time after its last change at which a group without members and committed offsets is deleted.
pub const GROUP_FORGET_AFTER_MS: i64 = 86_400_000;
/// How long the answer of a commit that carries group offsets or acks is kept, with or without a key. Longer
/// than the commit is retried.
pub const GUARDED_ANSWER_TTL_MS: i64 = 600_000;

/// Default length of a lease.
pub const LEASE_DEFAULT_MS: i64 = 30_000;
/// Minimum length of a lease.
pub const LEASE_MIN_MS: i64 = 1_000;
/// Maximum length of a lease: 12 hours, as in SQS.
pub const LEASE_MAX_MS: i64 = 43_200_000;
/// Maximum number of records in one lease.
pub const LEASE_MAX_RECORDS: usize = 1_000;
/// Maximum size of the records in one lease.
pub const LEASE_MAX_BYTES: usize = 16 * MIB;
/// Maximum uncompressed size of the batches that are read for one grant or for one page of a listing.
pub const LOOKUP_MAX_BYTES: i64 = 32 << 20;
/// Maximum number of grants whose records an agent reads at the same time.
pub const LOOKUPS_AT_ONCE: usize = 8;
/// Maximum number of entries in one settlement call. A whole lease counts as one entry.
pub const SETTLE_MAX_ENTRIES: usize = 10_000;
/// Maximum length of the reason of a nack or a reject.
pub const REASON_MAX_BYTES: usize = 1_024;
/// Default of the queue setting `max_in_flight`. A queue with this value counts its leases without a lock, so
/// agents that grant at the same moment may exceed it together.
pub const IN_FLIGHT_DEFAULT: i64 = 20_000;
/// Maximum of the queue setting `max_in_flight`.
pub const IN_FLIGHT_MAX: i64 = 1_000_000;
/// Maximum of the queue setting `max_failures`.
pub const MAX_FAILURES_MAX: i32 = 1_000;
/// Maximum delay in a retry policy or of a nack: a year.
pub const RETRY_MAX_MS: i64 = 31_536_000_000;
/// Maximum number of records of a keyed queue that are admitted and not settled yet.
pub const KEYED_WINDOW: i64 = 100_000;
/// How long the verdicts of a settlement with a request id are kept for retries.
pub const OPERATION_TTL_MS: i64 = 300_000;
/// Maximum number of cursors that a grant reports as waiting for an admission.
pub const UNADMITTED_MAX: i64 = 16;
