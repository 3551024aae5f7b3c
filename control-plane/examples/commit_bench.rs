//! Times the commit statement alone: `cargo run --release -p millpond-control-plane --example commit_bench -- postgres://…`
//! Prints, for commits of 1, 16, 288 and 1,600 batches of distinct partitions, p50, p99 and the worst in milliseconds.

use bytes::Bytes;
use millpond_control_plane::PostgresControlPlane;
use millpond_core::control_plane::{BatchFlags, Commit, Part, PartBody, Piece, Request, RequestKey, Run};
use millpond_core::{AgentId, Clock, ControlPlane, Ids, Name, PartId, RequestId, SystemClock, TopicChange};
use std::error::Error;
use tokio::time::Instant;
use uuid::Uuid;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).ok_or("usage: commit_bench postgres://…")?;
    let options: sqlx::postgres::PgConnectOptions = url.parse()?;
    PostgresControlPlane::migrate(options.clone()).await?;
    let plane = PostgresControlPlane::connect(options).await?;
    let (ids, clock) = (Ids::from_os(), SystemClock);
    let name = Name::new(&format!("bench-{}", ids.random_u32()))?;
    let change = TopicChange { partitions: Some(1_600), ..TopicChange::default() };
    let (topic, _) = plane.put_topic(&Name::default_tenant(), &name, &change, 8).await?;
    for (size, keyed, rounds) in
        [(1, false, 500), (1, true, 500), (16, false, 300), (288, false, 100), (1_600, false, 50), (1_600, true, 50)]
    {
        let mut times = Vec::new();
        for round in 0..rounds + 5 {
            let part = PartId(ids.uuid(clock.now_ms()));
            plane.register_parts(AgentId(Uuid::from_u128(1)), &[part]).await?;
            let requests = if keyed { 16 } else { 1 };
            let commit = Commit {
                parts: vec![Part { id: part, body: PartBody::Segment { bytes: 1_000, crc: 1 } }],
                runs: (0..size)
                    .map(|n| Run {
                        part: 0,
                        partition: topic.partitions[n],
                        records: 10,
                        byte_offset: i32::try_from(n * 1_000).unwrap_or(0),
                        byte_length: 1_000,
                        raw_bytes: 3_000,
                        crc: 7,
                        max_timestamp: clock.now_ms(),
                        expires_at_ms: None,
                        flags: BatchFlags::JSON,
                    })
                    .collect(),
                pieces: (0..size).map(|n| Piece { request: n % requests, run: n, first: 0, records: 10 }).collect(),
                requests: (0..requests.min(size))
                    .map(|_| Request {
                        id: RequestId(ids.uuid(clock.now_ms())),
                        key: keyed.then(|| RequestKey { key_hash: ids.uuid(clock.now_ms()), body_hash: ids.uuid(0), ttl_ms: 3_600_000 }),
                        expect: None,
                        context: Bytes::new(),
                    })
                    .collect(),
                ..Commit::default()
            };
            let start = Instant::now();
            plane.commit(&commit).await?;
            if round >= 5 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        let (p50, p99, worst) = (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]);
        let kind = if keyed { ", 16 keys" } else { "" };
        println!("{size} batches{kind}: p50 {p50:.2} ms, p99 {p99:.2} ms, max {worst:.2} ms");
    }
    Ok(())
}
