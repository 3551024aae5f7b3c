//! A second door needs engine verbs only: it produces, reads, tails, leases and settles without anything from
//! the HTTP door.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod line;

use millpond_core::queue::QueueChange;
use millpond_core::{MemoryControlPlane, Name, RandomSource, Scope, SystemClock, TopicChange};
use millpond_engine::config::Config;
use millpond_engine::store::Store;
use millpond_engine::{Engine, Parts};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Client {
    async fn say(&mut self, line: &str) {
        self.writer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> String {
        let line = tokio::time::timeout(ANSWER_WAIT_MAX, self.lines.next_line()).await;
        line.expect("an answer in time").unwrap().expect("the connection stays open")
    }

    async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.hear().await
    }
}

async fn engine() -> Arc<Engine> {
    let clock = Arc::new(SystemClock);
    let parts = Parts {
        plane: Arc::new(MemoryControlPlane::new(clock.clone())),
        store: Store::open("memory:").unwrap(),
        clock,
        random: Arc::new(RandomSource::seeded(1)),
        cluster: "door".to_owned(),
        epoch: 1,
        prometheus: None,
    };
    Engine::start(parts, &Config::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_protocol_needs_nothing_but_verbs() {
    let (engine, scope) = (engine().await, Scope::unauthenticated());
    let topic = Name::new("lines").unwrap();
    let one = TopicChange { partitions: Some(1), ..TopicChange::default() };
    engine.topics.put(&scope, &topic, &one).await.unwrap();
    engine.queues.put(&scope, &topic, QueueChange::default()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = tokio::spawn(line::serve(Arc::clone(&engine), listener));
    let client = || async {
        let (reader, writer) = TcpStream::connect(address).await.unwrap().into_split();
        Client { lines: BufReader::new(reader).lines(), writer }
    };

    let mut producer = client().await;
    assert_eq!(producer.ask("PUT lines one").await, "OK 0 0");
    assert_eq!(producer.ask("PUT lines two words").await, "OK 0 1");
    assert_eq!(producer.ask("GET lines 0 1").await, "RECORD 0 1 two words");
    assert_eq!(producer.ask("GET lines 0 2").await, "NONE");
    assert_eq!(producer.ask("GET lines 0 3").await, "ERROR offset 3 is outside 0 to 2");
    assert_eq!(producer.ask("GET lines 1 0").await, "ERROR lines has partitions 0 to 0");
    assert_eq!(producer.ask("GET nothing 0 0").await, "ERROR there is no topic nothing");
    assert_eq!(producer.ask("DROP lines").await, "ERROR there is no verb DROP");

    let mut tail = client().await;
    assert_eq!(tail.ask("TAIL lines").await, "RECORD 0 0 one");
    assert_eq!(tail.hear().await, "RECORD 0 1 two words");
    assert_eq!(producer.ask("PUT lines three").await, "OK 0 2");
    assert_eq!(tail.hear().await, "RECORD 0 2 three", "the tail goes on");

    let mut worker = client().await;
    for value in ["one", "two words", "three"] {
        let leased = worker.ask("LEASE lines").await;
        let [ok, receipt, rest] = leased.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("no lease: {leased}");
        };
        assert_eq!((ok, rest), ("OK", value));
        assert_eq!(worker.ask(&format!("ACK {receipt}")).await, "OK acked");
        assert_eq!(worker.ask(&format!("ACK {receipt}")).await, "OK lost", "it was settled");
    }
    assert_eq!(worker.ask("ACK mp1.nothing").await, "OK lost");
    let counts = engine.queues.describe(&scope, &topic).await.unwrap().counts;
    assert_eq!((counts.ready, counts.in_flight), (0, 0));

    door.abort();
    engine.stop_waiting();
    engine.close().await;
}
