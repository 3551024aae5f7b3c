//! Effect of a cut at a commit on a real Postgres, and of the other faults on plain bytes.

use super::{COMMIT_CUTS, CommitCut, Deed, Protocol, Proxy, Silence, Target, Weather};
use crate::postgres::Database;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const INSERT: &str = "insert into seen (name) values ($1) returning name";
const EXISTS: &str = "select exists (select from seen where name = $1)";
const WAIT_MAX: Duration = Duration::from_secs(20);

struct Rig {
    database: Database,
    proxy: Proxy,
    options: PgConnectOptions,
}

impl Rig {
    async fn start() -> Self {
        let database = Database::new().await;
        database.connect().await.execute("create table seen (name text)").await.expect("a table");
        let commits = [INSERT.to_owned()].into();
        let proxy = Proxy::start(database.target(), Protocol::Postgres { commits }, 7).await;
        let options = database.options_at(proxy.address().port());
        Self { database, proxy, options }
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.options).await.expect("connected through the proxy")
    }

    fn commits(&self, cut: CommitCut) {
        self.proxy.set(Weather { commit_cuts: vec![(cut, 100)], ..Weather::default() });
    }

    fn cuts(&self, cut: CommitCut) -> u64 {
        self.proxy.deeds().get(&Deed::CutAtCommit(cut)).copied().unwrap_or(0)
    }

    /// Whether the row exists, by a connection that does not go through the proxy.
    async fn is_there(&self, name: &str) -> bool {
        let mut direct = self.database.connect().await;
        sqlx::query_scalar(EXISTS).bind(name).fetch_one(&mut direct).await.expect("an answer")
    }
}

async fn insert(connection: &mut PgConnection, name: &str) -> Result<String, sqlx::Error> {
    let answer =
        tokio::time::timeout(WAIT_MAX, sqlx::query_scalar(INSERT).bind(name).fetch_one(connection)).await;
    answer.expect("an answer or the end of the connection")
}

#[tokio::test]
async fn statements_pass_unharmed() {
    let rig = Rig::start().await;
    let mut connection = rig.connect().await;
    let large = "x".repeat(3 << 20);
    assert_eq!(insert(&mut connection, &large).await.expect("its answer"), large);
    assert_eq!(insert(&mut connection, "again").await.expect("its answer"), "again");
    assert!(rig.is_there(&large).await);
    assert_eq!(rig.proxy.deeds().get(&Deed::Commit), Some(&2));
    rig.database.close().await;
}

/// The statement is prepared both before the cut and on the cut connection.
#[tokio::test]
async fn a_cut_at_a_commit_leaves_what_it_says() {
    let rig = Rig::start().await;
    for round in 0..6 {
        for cut in COMMIT_CUTS {
            let mut connection = rig.connect().await;
            if round % 2 == 1 {
                insert(&mut connection, "prepared").await.expect("fair weather");
            }
            rig.commits(cut);
            let name = format!("{cut:?} {round}");
            assert!(
                !sqlx::query_scalar::<_, bool>(EXISTS)
                    .bind(&name)
                    .fetch_one(&mut connection)
                    .await
                    .expect("no commit, no cut")
            );
            let error = insert(&mut connection, &name).await.expect_err("no answer arrives whole");
            assert!(matches!(error, sqlx::Error::Io(_)), "{error:?}");
            assert_eq!(rig.cuts(cut), round + 1, "{cut:?}");
            rig.proxy.heal();
            match cut {
                CommitCut::Before => assert!(!rig.is_there(&name).await, "{name} did not arrive"),
                CommitCut::AnswerLost | CommitCut::AnswerTorn => {
                    assert!(rig.is_there(&name).await, "{name} has taken effect")
                }
                CommitCut::Racing => {
                    while !rig.is_there(&name).await {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        }
    }
    rig.database.close().await;
}

#[tokio::test]
async fn the_commit_of_a_transaction_is_one() {
    let rig = Rig::start().await;
    for (cut, there) in
        [(CommitCut::Before, false), (CommitCut::AnswerLost, true), (CommitCut::AnswerTorn, true)]
    {
        let mut connection = rig.connect().await;
        let name = format!("{cut:?}");
        let mut tx = connection.begin().await.expect("begun");
        sqlx::query("insert into seen (name) values ($1)")
            .bind(&name)
            .execute(&mut *tx)
            .await
            .expect("no commit by itself");
        rig.commits(cut);
        let outcome = tokio::time::timeout(WAIT_MAX, tx.commit()).await.expect("the end of the connection");
        assert!(outcome.is_err());
        assert_eq!((rig.cuts(cut), rig.is_there(&name).await), (1, there), "{cut:?}");
        rig.proxy.heal();
    }
    rig.database.close().await;
}

/// No connection breaks: the statement arrives, and its answer does not.
#[tokio::test]
async fn an_answer_that_is_swallowed_leaves_what_was_done() {
    let rig = Rig::start().await;
    let mut connection = rig.connect().await;
    rig.proxy.set(Weather { silence: Silence::SwallowAnswers, ..Weather::default() });
    let silent = tokio::time::timeout(
        Duration::from_millis(500),
        sqlx::query_scalar::<_, String>(INSERT).bind("one").fetch_one(&mut connection),
    );
    assert!(silent.await.is_err(), "an answer came through");
    assert!(!rig.is_there("one").await, "a statement is prepared first, and that is not answered");
    drop(connection);
    rig.proxy.heal();
    let mut connection = rig.connect().await;
    insert(&mut connection, "prepared").await.expect("fair weather");
    rig.proxy.set(Weather { silence: Silence::SwallowAnswers, ..Weather::default() });
    let silent = tokio::time::timeout(
        Duration::from_millis(500),
        sqlx::query_scalar::<_, String>(INSERT).bind("two").fetch_one(&mut connection),
    );
    assert!(silent.await.is_err(), "an answer came through");
    assert!(rig.is_there("two").await);
    rig.database.close().await;
}

/// A server that echoes every byte.
async fn echo() -> (Proxy, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = Target::Tcp(listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    let proxy = Proxy::start(target, Protocol::Bytes, 1).await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(answer(&mut stream, 5).await, 5);
    (proxy, stream)
}

/// Number of echoed bytes that arrive before the connection ends or falls silent.
async fn answer(stream: &mut TcpStream, bytes: usize) -> usize {
    if stream.write_all(&vec![7; bytes]).await.is_err() {
        return 0;
    }
    let (mut back, mut buffer) = (0, vec![0; 1 << 16]);
    while back < bytes {
        match tokio::time::timeout(Duration::from_millis(500), stream.read(&mut buffer)).await {
            Ok(Ok(read @ 1..)) => back += read,
            _ => break,
        }
    }
    back
}

#[tokio::test]
async fn bytes_are_delayed_stalled_and_arrive() {
    let (proxy, mut stream) = echo().await;
    proxy.set(Weather { delay: Duration::from_millis(20), ..Weather::default() });
    assert_eq!(answer(&mut stream, 1 << 20).await, 1 << 20);
    proxy.set(Weather { silence: Silence::Stall, ..Weather::default() });
    assert_eq!(answer(&mut stream, 9).await, 0);
    proxy.heal();
    let mut back = [0; 9];
    tokio::time::timeout(WAIT_MAX, stream.read_exact(&mut back))
        .await
        .expect("in time")
        .expect("the bytes that waited");
    let deeds = proxy.deeds();
    assert!(deeds[&Deed::Delayed] > 0 && deeds[&Deed::Stalled] > 0, "{deeds:?}");
}

#[tokio::test]
async fn a_connection_that_lost_bytes_stays_silent_and_others_do_not() {
    let (proxy, mut lost) = echo().await;
    let mut idle = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(answer(&mut idle, 3).await, 3);
    proxy.set(Weather { silence: Silence::Swallow, ..Weather::default() });
    assert_eq!(answer(&mut lost, 9).await, 0);
    proxy.heal();
    assert_eq!((answer(&mut lost, 9).await, answer(&mut idle, 9).await), (0, 9));
    assert_eq!(proxy.deeds()[&Deed::Swallowed], 1);
}

#[tokio::test]
async fn connections_are_cut_and_refused() {
    let (proxy, mut stream) = echo().await;
    proxy.set(Weather { cut_within: Some(1000), ..Weather::default() });
    assert!(answer(&mut stream, 4000).await <= 1000);
    proxy.set(Weather { refuse: true, ..Weather::default() });
    let mut refused = TcpStream::connect(proxy.address()).await.expect("accepted before it is refused");
    assert_eq!(answer(&mut refused, 1).await, 0);
    proxy.heal();
    let mut fresh = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(answer(&mut fresh, 1).await, 1);
    proxy.cut_all();
    assert_eq!(answer(&mut fresh, 1).await, 0);
    let deeds = proxy.deeds();
    assert!([Deed::CutWithin, Deed::Refused, Deed::CutAll].iter().all(|deed| deeds[deed] == 1), "{deeds:?}");
}
