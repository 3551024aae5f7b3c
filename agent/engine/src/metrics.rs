//! All metrics of an agent, defined in one place. Names follow `millpond_<area>_<thing>_<unit>`.

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use millpond_core::saturated;
use std::time::Duration;

pub const COMMITS: &str = "millpond_produce_commits_total";
/// Label `operation`: `put`, `get` or `delete`.
pub const STORE_REQUESTS: &str = "millpond_store_requests_total";
pub const GRANTS: &str = "millpond_queue_grants_total";
pub const SETTLES: &str = "millpond_queue_settles_total";

/// Histogram buckets of all metrics in seconds.
const SECONDS_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Histogram buckets of all metrics in bytes.
const BYTES_BUCKETS: [f64; 8] =
    [1024.0, 8192.0, 65536.0, 262_144.0, 1_048_576.0, 2_097_152.0, 4_194_304.0, 8_388_608.0];

/// Installs the metrics recorder of the process; `None` if one is installed already.
#[must_use]
pub fn install() -> Option<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS));
    builder.ok()?.install_recorder().ok()
}

fn count(n: usize) -> u64 {
    saturated::<u64, _>(n)
}

fn size(n: usize) -> f64 {
    f64::from(saturated::<u32, _>(n))
}

/// Records how long an append waited in the batcher before its flush.
pub fn queued(placement: &'static str, waited: Duration) {
    histogram!("millpond_produce_queue_seconds", "placement" => placement).record(waited);
}

pub fn flushed(placement: &'static str, reason: &'static str, requests: usize, bytes: usize) {
    counter!("millpond_produce_flushes_total", "placement" => placement, "reason" => reason).increment(1);
    counter!("millpond_produce_requests_total", "placement" => placement).increment(count(requests));
    histogram!("millpond_produce_flush_bytes", "placement" => placement).record(size(bytes));
}

pub fn encoded(placement: &'static str, took: Duration) {
    histogram!("millpond_produce_encode_seconds", "placement" => placement).record(took);
}

pub fn committed(took: Duration, flushes: usize, records: usize) {
    histogram!("millpond_produce_commit_seconds").record(took);
    counter!(COMMITS).increment(1);
    counter!("millpond_produce_committed_flushes_total").increment(count(flushes));
    counter!("millpond_produce_records_total").increment(count(records));
}

/// Counts a commit that failed, or whose outcome is unknown, and that is about to be sent again.
pub fn commit_resent() {
    counter!("millpond_produce_commit_resends_total").increment(1);
}

pub fn throttled() {
    counter!("millpond_http_throttled_total").increment(1);
}

pub fn store_request(operation: &'static str) {
    counter!(STORE_REQUESTS, "operation" => operation).increment(1);
}

pub fn store_put(took: Duration, bytes: usize) {
    histogram!("millpond_store_put_seconds").record(took);
    counter!("millpond_store_written_bytes_total").increment(count(bytes));
}

pub fn store_get(took: Duration, bytes: usize) {
    histogram!("millpond_store_get_seconds").record(took);
    counter!("millpond_store_read_bytes_total").increment(count(bytes));
}

pub fn cache(hit: bool) {
    counter!("millpond_fetch_cache_total", "outcome" => if hit { "hit" } else { "miss" }).increment(1);
}

pub fn fetched(plan: Duration, total: Duration, records: usize, bytes: usize) {
    histogram!("millpond_fetch_plan_seconds").record(plan);
    histogram!("millpond_fetch_read_seconds").record(total);
    counter!("millpond_fetch_records_total").increment(count(records));
    counter!("millpond_fetch_bytes_total").increment(count(bytes));
}

/// Counts a group generation that this agent created, and the partitions that changed their member with it.
pub fn regrouped(moved: usize) {
    counter!("millpond_group_generations_total").increment(1);
    counter!("millpond_group_moved_partitions_total").increment(count(moved));
}

pub fn offsets_committed(outcome: &'static str) {
    counter!("millpond_group_commits_total", "outcome" => outcome).increment(1);
}

/// Counts a read that failed because a referenced object is missing or corrupt. A person must act.
pub fn corrupt() {
    counter!("millpond_fetch_corrupt_total").increment(1);
}

pub fn control_plane_call(call: &'static str, took: Duration, failed: bool) {
    histogram!("millpond_control_plane_call_seconds", "call" => call).record(took);
    if failed {
        counter!("millpond_control_plane_failures_total", "call" => call).increment(1);
    }
}

pub fn job_succeeded(job: &'static str, now_ms: i64, done: usize) {
    #[expect(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "present-day Unix seconds fit a double exactly"
    )]
    gauge!("millpond_job_last_success_timestamp_seconds", "job" => job).set((now_ms / 1_000) as f64);
    counter!("millpond_job_done_total", "job" => job).increment(count(done));
}

/// Records the duration of a run of a background job, successful or not.
pub fn job_ran(job: &'static str, took: Duration) {
    histogram!("millpond_job_run_seconds", "job" => job).record(took);
}

pub fn job_failed(job: &'static str) {
    counter!("millpond_job_failures_total", "job" => job).increment(1);
}

/// How long the oldest work of a job has been due, in the whole cluster.
pub fn job_lag(job: &'static str, ms: i64) {
    gauge!("millpond_job_lag_seconds", "job" => job)
        .set(Duration::from_millis(saturated::<u64, _>(ms)).as_secs_f64());
}

/// Counts inline payloads that the drain could not read. A person must act.
pub fn payloads_set_aside(payloads: usize) {
    counter!("millpond_job_set_aside_payloads_total").increment(count(payloads));
}

/// Inline payload of the cluster that is set aside.
pub fn set_aside(bytes: i64) {
    gauge!("millpond_job_set_aside_bytes").set(size(saturated::<usize, _>(bytes)));
}

/// Counts objects whose deletion failed.
pub fn deletes_failed(objects: usize) {
    counter!("millpond_store_failed_deletes_total").increment(count(objects));
}

/// Counts a sweep that deleted nothing because database and store do not belong together.
pub fn deletions_refused() {
    counter!("millpond_job_refused_sweeps_total").increment(1);
}

pub fn http_answered(route: String, status: u16, took: Duration) {
    histogram!("millpond_http_request_seconds", "route" => route.clone()).record(took);
    counter!("millpond_http_requests_total", "route" => route, "status" => status.to_string()).increment(1);
}

pub fn memory(admitted_bytes: usize, read_bytes: usize, cached_bytes: u64) {
    gauge!("millpond_agent_admitted_bytes").set(size(admitted_bytes));
    gauge!("millpond_agent_read_bytes").set(size(read_bytes));
    gauge!("millpond_agent_cached_bytes").set(size(saturated::<usize, _>(cached_bytes)));
}

/// Records one grant statement: its duration, the lease calls in it and the records that it leased.
pub fn grant_statement(took: Duration, calls: usize, records: i64) {
    histogram!("millpond_queue_grant_seconds").record(took);
    counter!(GRANTS).increment(1);
    counter!("millpond_queue_granted_calls_total").increment(count(calls));
    counter!("millpond_queue_leased_records_total").increment(saturated::<u64, _>(records));
}

pub fn settle_statement(took: Duration, calls: usize) {
    histogram!("millpond_queue_settle_seconds").record(took);
    counter!(SETTLES).increment(1);
    counter!("millpond_queue_settled_calls_total").increment(count(calls));
}

pub fn settled(outcome: &'static str, records: usize) {
    counter!("millpond_queue_settled_records_total", "outcome" => outcome).increment(count(records));
}

/// Counts lease parts that were ended because their deadline had passed.
pub fn leases_expired(parts: i64) {
    counter!("millpond_queue_expired_leases_total").increment(saturated::<u64, _>(parts));
}

/// Records the milliseconds between the timestamp of a record and its first lease.
pub fn waited_in_queue(ms: impl Iterator<Item = i64>) {
    let waited = histogram!("millpond_queue_wait_seconds");
    ms.for_each(|ms| waited.record(Duration::from_millis(saturated::<u64, _>(ms))));
}
