use std::sync::Arc;

use axum::http::StatusCode;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::testing::{FakeLog, Fault, line};
use super::*;

/// Reads partition 0 of `log` up to its high watermark; returns what would be printed, and the outcome.
async fn read(log: &Arc<FakeLog>, position: ReadFrom, skip_lost: bool) -> (String, Result<(), CliError>) {
    let client = log.serve().await;
    let end = log.partitions.lock()[0].high_watermark();
    let (batches, mut printed) = mpsc::channel(100);
    let reader = PartitionReader {
        client,
        topic: "t".to_owned(),
        partition: 0,
        position,
        end: Some(end),
        max_records: u64::MAX,
        format: OutputFormat::Ndjson,
        skip_lost,
        patience: Patience::new(Some(Duration::from_secs(1)), StdRng::seed_from_u64(1)),
        batches,
    };
    let result = reader.run().await;
    let mut bytes = Vec::new();
    while let Some(batch) = printed.recv().await {
        assert_eq!(batch.ends.last(), Some(&batch.bytes.len()));
        bytes.extend(batch.bytes);
    }
    (String::from_utf8(bytes).expect("text"), result)
}

fn values(offsets: std::ops::Range<u64>) -> String {
    offsets.map(|n| format!("{{\"p\":0,\"n\":{n}}}\n")).collect()
}

#[tokio::test]
async fn faults_leave_neither_gaps_nor_repeats() {
    let log = FakeLog::filled(&[500]);
    log.faults.lock().extend([
        Fault::Problem(StatusCode::SERVICE_UNAVAILABLE, "object_store_unavailable"),
        Fault::CutAfter(0),
        Fault::CutAfter(1_000),
        Fault::CutAfter(7_777),
        Fault::Problem(StatusCode::TOO_MANY_REQUESTS, "throttled"),
    ]);
    let log = Arc::new(log);
    let (printed, result) = read(&log, ReadFrom::Offset(0), true).await;
    result.expect("read");
    assert_eq!(printed, values(0..500));
    let offsets: Vec<u64> =
        log.queries.lock().iter().map(|query| query["offset"].parse().expect("a number")).collect();
    assert_eq!(offsets.len(), 6);
    assert!(offsets.is_sorted() && offsets[3] > 0, "{offsets:?}");
}

#[tokio::test]
async fn many_answers_make_one_log() {
    let log = Arc::new(FakeLog { answer_records: 7, ..FakeLog::filled(&[50]) });
    let (printed, result) = read(&log, ReadFrom::Offset(3), true).await;
    result.expect("read");
    assert_eq!(printed, values(3..50));
    assert_eq!(log.queries.lock().len(), 7);
}

#[tokio::test]
async fn records_at_the_end_or_before_the_position_are_left_out() {
    let log = FakeLog::filled(&[10]);
    // A server may answer with whole chunks, which begin before the offset.
    log.partitions.lock()[0].lines.splice(0..0, [line(0, 0, ",\"value\":0"), line(0, 99, ",\"value\":99")]);
    let log = Arc::new(log);
    let (printed, result) = read(&log, ReadFrom::Offset(0), true).await;
    result.expect("read");
    assert!(printed.starts_with("0\n{\"p\":0,\"n\":1}\n"), "{printed}");
    assert!(!printed.contains("99"));
}

#[tokio::test]
async fn lost_records_are_passed_over_or_an_error() {
    let log = FakeLog::filled(&[0]);
    {
        let mut partitions = log.partitions.lock();
        partitions[0].log_start_offset = 20;
        partitions[0].lines = (20..25).map(|n| line(0, n, &format!(",\"value\":{n}"))).collect();
    }
    let log = Arc::new(log);
    let (printed, result) = read(&log, ReadFrom::Offset(3), true).await;
    result.expect("read");
    assert_eq!(printed, "20\n21\n22\n23\n24\n");

    let (printed, result) = read(&log, ReadFrom::Offset(3), false).await;
    assert_eq!(printed, "");
    let error = result.expect_err("out of range");
    assert_eq!(error.problem().map(|problem| problem.code.as_str()), Some("offset_out_of_range"));
}

#[tokio::test]
async fn an_instant_is_asked_for_until_a_record_is_known() {
    let log = FakeLog::filled(&[5]);
    log.faults.lock().extend([Fault::CutAfter(0), Fault::CutAfter(300)]);
    let log = Arc::new(log);
    let (printed, result) = read(&log, ReadFrom::TimestampMs(1_760_000_000_000), true).await;
    result.expect("read");
    assert_eq!(printed, values(0..5));
    let queries = log.queries.lock();
    assert_eq!(queries[1]["timestamp"], "1760000000000");
    assert!(!queries[2].contains_key("timestamp") && queries[2].contains_key("offset"));
}

#[tokio::test]
async fn patience_ends_where_nothing_more_comes() {
    let log = FakeLog::filled(&[5]);
    let fault = Fault::Problem(StatusCode::SERVICE_UNAVAILABLE, "object_store_unavailable");
    log.faults.lock().extend([Fault::CutAfter(300)].into_iter().chain(std::iter::repeat_n(fault, 30)));
    let (printed, result) = read(&Arc::new(log), ReadFrom::Offset(0), true).await;
    assert!(values(0..5).starts_with(&printed) && !printed.is_empty(), "{printed}");
    assert!(matches!(result, Err(CliError::GaveUp { .. })));
}
