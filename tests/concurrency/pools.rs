//! Pools of connections: no class of statements waits for another's, and a connection that lacks its
//! settings, leads to a database that is read-only, or belongs to a client that has gone, does not last.

use super::interleave::{Holder, end, stage};
use bytes::{Buf, BufMut, BytesMut};
use millpond_control_plane::postgres::{ConnectError, Refused};
use millpond_control_plane::{DatabaseOptions, PostgresControlPlane};
use millpond_core::control_plane::{Jobs, Log, Topics};
use millpond_core::{AgentId, Error, PageRequest, PartId, Scope};
use millpond_tests::harness::wait::{until, within};
use millpond_tests::postgres::Database;
use millpond_tests::proxy::Target;
use millpond_tests::stage::{PartKind, home};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use uuid::Uuid;

/// More calls than an agent has connections.
const CALLS: usize = 20;
const AGENT: AgentId = AgentId(Uuid::from_u128(9));

/// Backends that wait for a lock on a table.
async fn waiting(database: &Database, table: &str) -> i64 {
    let count = "select count(*) from pg_locks where relation = to_regclass($1) and not granted";
    let mut connection = database.connect().await;
    sqlx::query_scalar(count).bind(table).fetch_one(&mut connection).await.expect("a count")
}

#[tokio::test]
async fn commits_wait_neither_for_reads_nor_for_jobs() {
    let (stage, database) = stage().await;
    let t = stage.topic("t", 1).await;
    let groups = Holder::begin(&database, "lock table consumer_group in access exclusive mode").await;
    let jobs = Holder::begin(&database, "lock table group_member in access exclusive mode").await;
    let mut blocked = JoinSet::new();
    for n in 0..CALLS {
        let plane = Arc::clone(&stage.plane);
        blocked.spawn(async move {
            if n % 2 == 0 {
                plane.groups(&Scope::unauthenticated(), &PageRequest::all()).await.ok();
            } else {
                plane.forget(10).await.ok();
            }
        });
    }
    until(20, "reads that occupy their pool", async || {
        (waiting(&database, "consumer_group").await >= 6).then_some(())
    })
    .await;
    let commit = stage.append(PartKind::Inline, home(&t, 0), &[1]);
    assert_eq!(within(20, "a commit", commit).await, 0);
    assert!(waiting(&database, "consumer_group").await >= 6, "the reads still occupy their pool");
    blocked.shutdown().await;
    drop((groups, jobs));
    end(stage).await;
}

#[tokio::test]
async fn a_statement_whose_client_has_gone_ends() {
    let (stage, database) = stage().await;
    let holder = Holder::begin(&database, "lock table group_member in access exclusive mode").await;
    let plane = Arc::clone(&stage.plane);
    let call = tokio::spawn(async move { plane.forget(10).await });
    let waits = async || waiting(&database, "group_member").await > 0;
    until(20, "a statement that waits", async || waits().await.then_some(())).await;
    // The connection is closed when it does not answer a ping in time; the server would let the statement
    // wait for 30 s.
    call.abort();
    until(20, "its end", async || (!waits().await).then_some(())).await;
    drop(holder);
    end(stage).await;
}

/// A pooler between agents and a database, which changes the options that sessions begin with.
struct Pooler {
    address: std::net::SocketAddr,
    /// Options in place of those that were sent; `None`: leaves them as they are.
    options: Arc<Mutex<Option<&'static str>>>,
}

impl Pooler {
    async fn before(database: &Database, options: Option<&'static str>) -> Self {
        let Target::Unix(socket) = database.target() else { panic!("a socket is expected") };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let options = Arc::new(Mutex::new(options));
        let changed = Arc::clone(&options);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let options = *changed.lock();
                tokio::spawn(Self::connect(client, socket.clone(), options));
            }
        });
        Self { address, options }
    }

    async fn connect(mut client: TcpStream, socket: PathBuf, options: Option<&'static str>) {
        let mut server = UnixStream::connect(socket).await.expect("the server");
        let length = client.read_u32().await.expect("a length");
        let mut body = BytesMut::zeroed(usize::try_from(length - 4).expect("short"));
        client.read_exact(&mut body).await.expect("a start-up message");
        let version = body.get_u32();
        let words: Vec<&[u8]> = body[..].split(|byte| *byte == 0).collect();
        let mut changed = BytesMut::new();
        changed.put_u32(version);
        for pair in words.chunks(2).filter(|pair| pair.len() == 2 && !pair[0].is_empty()) {
            let value = match options {
                Some(options) if pair[0] == b"options" => options.as_bytes(),
                _ => pair[1],
            };
            changed.extend_from_slice(pair[0]);
            changed.put_u8(0);
            changed.extend_from_slice(value);
            changed.put_u8(0);
        }
        changed.put_u8(0);
        server.write_u32(u32::try_from(changed.len() + 4).expect("short")).await.expect("sent");
        server.write_all(&changed).await.expect("sent");
        tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
    }

    fn options(&self, database: &Database) -> DatabaseOptions {
        database.options_at(self.address.port())
    }
}

#[tokio::test]
async fn a_pooler_that_drops_settings_is_named() {
    let database = Database::new().await;
    let pooler = Pooler::before(&database, Some("-c jit=off")).await;
    let refused = PostgresControlPlane::connect(pooler.options(&database)).await.err().expect("refused");
    assert!(matches!(refused, ConnectError::Refused(Refused::Pooler { .. })), "{refused:?}");
    assert!(refused.to_string().contains("pooler"), "{refused}");

    // A connection that is opened later is looked at as well.
    *pooler.options.lock() = None;
    let plane = PostgresControlPlane::connect(pooler.options(&database)).await.expect("a good connection");
    *pooler.options.lock() = Some("-c jit=off");
    let refused = plane.register_parts(AGENT, &[PartId(Uuid::from_u128(1))]).await;
    let Err(Error::NotApplied(refused)) = refused else { panic!("{refused:?}") };
    assert!(matches!(refused.downcast_ref(), Some(Refused::Pooler { .. })), "{refused:?}");
    plane.close().await;
    database.close().await;
}

/// Settings of an agent's sessions, and of one that begins on a primary that was demoted.
const DEMOTED: &str = "-c plan_cache_mode=force_generic_plan -c jit=off -c enable_seqscan=off \
    -c enable_mergejoin=off -c synchronous_commit=on -c default_transaction_isolation=read\\ committed \
    -c idle_in_transaction_session_timeout=10s -c TimeZone=UTC -c statement_timeout=10s \
    -c default_transaction_read_only=on";

#[tokio::test]
async fn connections_to_a_demoted_primary_are_not_used_again() {
    let database = Database::new().await;
    let pooler = Pooler::before(&database, Some(DEMOTED)).await;
    let plane = PostgresControlPlane::connect(pooler.options(&database)).await.expect("connected");
    // Several reads at once open several connections.
    let holder = Holder::begin(&database, "lock table topic in access exclusive mode").await;
    let mut reads = JoinSet::new();
    for _ in 0..4 {
        let plane = plane.clone();
        reads.spawn(async move { plane.topics(&Scope::unauthenticated(), &PageRequest::all()).await });
    }
    until(20, "reads that wait", async || (waiting(&database, "topic").await >= 4).then_some(())).await;
    drop(holder);
    within(20, "the reads", async { while reads.join_next().await.is_some() {} }).await;
    // They return to the pool by and by.
    tokio::time::sleep(Duration::from_millis(200)).await;

    let refused = plane.beat(AGENT, &[]).await;
    assert!(matches!(refused, Err(Error::NotApplied(_))), "{refused:?}");
    *pooler.options.lock() = None;
    for _ in 0..4 {
        plane.beat(AGENT, &[]).await.expect("a connection to the new primary");
    }
    plane.close().await;
    database.close().await;
}
