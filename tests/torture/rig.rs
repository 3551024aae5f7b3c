//! The system under test: a Postgres, a store, agents on both, and a proxy on every link.

use super::agent::{Agent, BUCKET};
use super::client::{Book, Client, TOPICS};
use super::postgres::Postgres;
use millpond_tests::harness::wait::until;
use millpond_tests::proxy::{Deed, Proxy};
use millpond_tests::s3::TestS3;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// Time after the last fault within which everything must work again, in seconds.
pub const RECOVERY_WAIT_MAX_S: u64 = 60;

pub struct Rig {
    pub postgres: Postgres,
    pub s3: TestS3,
    pub agents: Vec<Agent>,
}

impl Rig {
    pub async fn start(seed: u64, agents: u64) -> Self {
        let postgres = Postgres::start().await;
        let s3 = TestS3::start(seed);
        s3.create_bucket(BUCKET);
        let mut started = Vec::new();
        for number in 0..agents {
            started.push(Agent::start(number, &postgres, &s3, seed).await);
        }
        let rig = Self { postgres, s3, agents: started };
        rig.all_ready().await;
        rig
    }

    pub async fn all_ready(&self) {
        for agent in &self.agents {
            until(RECOVERY_WAIT_MAX_S, &format!("readiness of {}", agent.name), async || {
                agent.is_ready().then_some(())
            })
            .await;
        }
    }

    /// Creates the topics, on an agent without faults yet.
    pub async fn make_topics(&self, client: &Client) {
        for topic in TOPICS {
            let body = json!({"partitions": topic.partitions, "placement": topic.placement});
            let answer = client.at(0).put(&format!("/v1/topics/{}", topic.name), body).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }

    /// Number of leases, including expired ones that were not swept yet; `None` while Postgres does not
    /// answer.
    pub async fn leases(&self) -> Option<i64> {
        let mut connection = self.postgres.connect().await?;
        let counted = sqlx::query_scalar("select count(*) from lease").fetch_one(&mut connection);
        tokio::time::timeout(Duration::from_secs(1), counted).await.ok()?.ok()
    }

    pub fn links(&self) -> impl Iterator<Item = &Arc<Proxy>> {
        self.agents.iter().flat_map(|agent| [&agent.front, &agent.database, &agent.store])
    }

    /// Sum of what all proxies did.
    pub fn deeds(&self) -> BTreeMap<Deed, u64> {
        let mut sum = BTreeMap::new();
        for (deed, count) in self.links().flat_map(|link| link.deeds()) {
            *sum.entry(deed).or_default() += count;
        }
        sum
    }

    /// Ends all faults of network and store.
    pub fn heal(&self) {
        self.s3.clear_faults();
        for link in self.links() {
            link.heal();
        }
    }

    /// Time that each agent takes from now until it acknowledges a request.
    pub async fn recovered(&self, probes: &mut [Client]) -> Vec<Duration> {
        let start = Instant::now();
        let mut waits = Vec::new();
        for (number, probe) in probes.iter_mut().enumerate() {
            waits.push(async move {
                let acknowledged = tokio::time::timeout(
                    Duration::from_secs(RECOVERY_WAIT_MAX_S),
                    probe.acknowledged_by(number),
                )
                .await;
                acknowledged.map(|()| start.elapsed()).map_err(|_| number)
            });
        }
        let mut times = Vec::new();
        for outcome in futures::future::join_all(waits).await {
            match outcome {
                Ok(time) => times.push(time),
                Err(number) => panic!(
                    "{} acknowledges nothing {RECOVERY_WAIT_MAX_S} s after the last fault",
                    self.agents[number].name
                ),
            }
        }
        times
    }

    /// Ends every process regularly; each agent must end within this number of seconds.
    pub async fn close(self, seconds: u64) {
        for agent in self.agents {
            assert!(!agent.log().contains("panicked at"), "{} panicked:\n{}", agent.name, agent.log());
            agent.close(seconds).await;
        }
        self.postgres.stop().await;
    }
}

/// One client for each agent, to find out when it works again.
pub fn probes(book: &Arc<Book>, seed: u64, agents: usize) -> Vec<Client> {
    (0..agents).map(|_| book.client(seed)).collect()
}
