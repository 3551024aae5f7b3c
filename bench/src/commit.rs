//! Measures the control plane alone: its commit statement, and single-row inserts for comparison.

use super::TargetArgs;
use super::cluster::Cluster;
use super::report::{Latencies, Report};
use crate::Outcome;
use crate::bare::BareInserts;
use bytes::Bytes;
use millpond_control_plane::PostgresControlPlane;
use millpond_core::control_plane::{
    BatchFlags, Commit, Log, Part, PartBody, Piece, Request, RequestKey, Run, Topics,
};
use millpond_core::{
    AgentId, Clock, Name, PartId, RandomSource, RequestId, Scope, SystemClock, Topic, TopicChange,
};
use tokio::time::Instant;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
pub struct CommitArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Sizes of commits, in batches, each of a different partition
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 288, 1_600])]
    batches: Vec<usize>,
    /// Measure also commits with this number of idempotency keys
    #[arg(long, default_value_t = 16)]
    keys: usize,
    /// Sizes of commits, in requests of one record with an idempotency key each, all of one partition
    #[arg(long, value_delimiter = ',', default_values_t = [500, 4_000])]
    keyed_requests: Vec<usize>,
    /// Number of commits of each kind in a measurement
    #[arg(long, default_value_t = 60)]
    rounds: u32,
}

pub async fn run(args: CommitArgs) -> Outcome<()> {
    if args.target.url.is_some() {
        return Err("commit needs a database of its own: leave --url out".into());
    }
    let cluster = Cluster::database().await?;
    let options = cluster.database_options().ok_or("no database")?;
    let plane = PostgresControlPlane::connect(options.clone()).await?;
    let bare = BareInserts::connect(options).await?;
    let name = Name::new("bench")?;
    let widest = args.batches.iter().copied().max().unwrap_or(1);
    let change = TopicChange { partitions: Some(i32::try_from(widest)?), ..TopicChange::default() };
    let (topic, _) = plane.put_topic(&Scope::unauthenticated(), &name, &change, 1).await?;
    let random = RandomSource::from_os();
    let mut report = Report::default();
    for _ in 0..args.target.repeats {
        let mut latencies = Latencies::new()?;
        let row = vec![b'x'; 1_024];
        for _ in 0..args.rounds * 5 {
            let start = Instant::now();
            bare.insert(&row).await?;
            latencies.record(start.elapsed());
        }
        report.add_latencies("bare INSERT of 1 KiB", &latencies);
        for size in &args.batches {
            for keys in [0, args.keys.min(*size)] {
                let shape = Shape { runs: *size, pieces: *size, keys };
                let latencies = commits(&plane, &topic, &random, shape, args.rounds).await?;
                let kind = if keys == 0 {
                    format!("{size} batches")
                } else {
                    format!("{size} batches, {keys} keys")
                };
                report.add_latencies(&kind, &latencies);
            }
        }
        for requests in &args.keyed_requests {
            let shape = Shape { runs: 1, pieces: *requests, keys: *requests };
            let latencies = commits(&plane, &topic, &random, shape, args.rounds.min(20)).await?;
            report.add_latencies(&format!("{requests} requests with a key, 1 batch"), &latencies);
        }
    }
    report.print(args.target.json);
    plane.close().await;
    bare.close().await;
    cluster.stop().await
}

/// What one commit of a measurement consists of.
#[derive(Clone, Copy)]
struct Shape {
    /// Batches, each of a partition of its own.
    runs: usize,
    /// Pieces, dealt out to the batches and to the requests.
    pieces: usize,
    /// Requests, each with an idempotency key; 0: one request without.
    keys: usize,
}

/// Latencies of `rounds` commits, one after the other, each of one segment.
async fn commits(
    plane: &PostgresControlPlane,
    topic: &Topic,
    random: &RandomSource,
    shape: Shape,
    rounds: u32,
) -> Outcome<Latencies> {
    let mut latencies = Latencies::new()?;
    for _ in 0..rounds {
        let part = PartId(random.uuid(SystemClock.now_ms()));
        plane.register_parts(AgentId(Uuid::from_u128(1)), &[part]).await?;
        let commit = commit_of(part, topic, random, shape)?;
        let start = Instant::now();
        plane.commit(&commit).await?;
        latencies.record(start.elapsed());
    }
    Ok(latencies)
}

/// One record in a piece where pieces share a batch, else ten.
fn commit_of(part: PartId, topic: &Topic, random: &RandomSource, shape: Shape) -> Outcome<Commit> {
    let now = SystemClock.now_ms();
    let requests = shape.keys.max(1);
    let in_run = shape.pieces / shape.runs;
    let records = if in_run == 1 { 10 } else { 1 };
    let run = |n: usize| -> Outcome<Run> {
        Ok(Run {
            part: 0,
            partition: topic.partitions[n],
            records: records * i32::try_from(in_run)?,
            byte_offset: i32::try_from(n * 1_000)?,
            byte_length: 1_000,
            raw_bytes: 3_000,
            crc: 7,
            max_timestamp: now,
            expires_at_ms: None,
            flags: BatchFlags::JSON,
        })
    };
    let request = |_| Request {
        scope: Scope::anonymous(topic.tenant.clone()),
        id: RequestId(random.uuid(now)),
        key: (shape.keys > 0).then(|| RequestKey {
            key_hash: random.uuid(now),
            body_hash: random.uuid(0),
            ttl_ms: 3_600_000,
        }),
        expect: None,
        context: Bytes::new(),
    };
    Ok(Commit {
        parts: vec![Part { id: part, body: PartBody::Segment { bytes: 1_000, crc: 1 } }],
        runs: (0..shape.runs).map(run).collect::<Outcome<_>>()?,
        pieces: (0..shape.pieces)
            .map(|n| {
                let first = records * i32::try_from(n / shape.runs)?;
                Ok(Piece { request: n % requests, run: n % shape.runs, first, records })
            })
            .collect::<Outcome<_>>()?,
        requests: (0..requests).map(request).collect(),
        ..Commit::default()
    })
}
