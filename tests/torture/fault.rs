//! All faults of the torture test, and how each is injected.

use super::agent::Agent;
use super::rig::Rig;
use millpond_tests::harness::child::signal;
use millpond_tests::proxy::{COMMIT_CUTS, CommitCut, Deed, Proxy, Silence};
use millpond_tests::s3::{Fault as S3Fault, Op, Rule};
use rand::Rng;
use rand::rngs::StdRng;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use std::time::Duration;

/// Component that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Agents,
    Postgres,
    Network,
    Store,
}

pub const ROLES: [Role; 4] = [Role::Agents, Role::Postgres, Role::Network, Role::Store];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Between an agent and Postgres.
    Database,
    Store,
    /// Between clients and an agent.
    Front,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    Delay,
    CutWithin,
    Stall,
    Swallow,
    SwallowAnswers,
    Refuse,
    CutAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    AgentKilled,
    AgentStopped,
    AgentTold,
    PostgresKilled,
    PostgresStopped,
    /// Some sessions are terminated.
    SessionsEnded,
    /// Running statements are cancelled.
    StatementsCancelled,
    /// Another session holds row locks of partitions.
    PartitionsLocked,
    /// Tables are rewritten, under locks that block all other sessions.
    TablesRewritten,
    Link(Link, Trouble),
    Commit(CommitCut),
    StoreErrors,
    StoreResets,
    StoreSlow,
    /// Bodies of objects are truncated, corrupt or missing.
    StoreBodies,
}

impl Fault {
    /// Every fault once.
    pub fn all() -> Vec<Self> {
        use Trouble::{CutAll, CutWithin, Delay, Refuse, Stall, Swallow, SwallowAnswers};
        let mut all = vec![
            Self::AgentKilled,
            Self::AgentStopped,
            Self::AgentTold,
            Self::PostgresKilled,
            Self::PostgresStopped,
            Self::SessionsEnded,
            Self::StatementsCancelled,
            Self::PartitionsLocked,
            Self::TablesRewritten,
            Self::StoreErrors,
            Self::StoreResets,
            Self::StoreSlow,
            Self::StoreBodies,
        ];
        all.extend(COMMIT_CUTS.map(Self::Commit));
        all.extend(
            [Delay, CutWithin, Stall, Swallow, SwallowAnswers, Refuse, CutAll]
                .map(|trouble| Self::Link(Link::Database, trouble)),
        );
        all.extend(
            [CutWithin, Stall, Swallow, SwallowAnswers, Refuse]
                .map(|trouble| Self::Link(Link::Store, trouble)),
        );
        all.extend([CutWithin, Stall, CutAll].map(|trouble| Self::Link(Link::Front, trouble)));
        all
    }

    pub fn role(self) -> Role {
        match self {
            Self::AgentKilled | Self::AgentStopped | Self::AgentTold => Role::Agents,
            Self::PostgresKilled
            | Self::PostgresStopped
            | Self::SessionsEnded
            | Self::StatementsCancelled
            | Self::PartitionsLocked
            | Self::TablesRewritten => Role::Postgres,
            Self::Link(..) | Self::Commit(_) => Role::Network,
            Self::StoreErrors | Self::StoreResets | Self::StoreSlow | Self::StoreBodies => Role::Store,
        }
    }
}

/// Deeds that the proxies must have done by the end, and the fault that causes each.
pub fn wanted() -> Vec<(Deed, Fault)> {
    let mut wanted = vec![
        (Deed::Refused, Fault::Link(Link::Database, Trouble::Refuse)),
        (Deed::Delayed, Fault::Link(Link::Database, Trouble::Delay)),
        (Deed::Stalled, Fault::Link(Link::Database, Trouble::Stall)),
        (Deed::Swallowed, Fault::Link(Link::Database, Trouble::Swallow)),
        (Deed::CutWithin, Fault::Link(Link::Database, Trouble::CutWithin)),
        (Deed::CutAll, Fault::Link(Link::Database, Trouble::CutAll)),
    ];
    wanted.extend(COMMIT_CUTS.map(|cut| (Deed::CutAtCommit(cut), Fault::Commit(cut))));
    wanted
}

/// What has to be undone explicitly at the end of a fault.
pub enum Remains {
    Nothing,
    /// Stopped processes of Postgres.
    Frozen(Vec<u32>),
    /// Number and process id of a stopped agent.
    FrozenAgent(usize, u32),
    /// A session that holds locks.
    Locks(PgConnection),
}

impl Rig {
    /// Injects a fault, on a random agent where there is a choice. `None` if that is impossible now.
    pub async fn make(&self, fault: Fault, rng: &mut StdRng) -> Option<Remains> {
        let number = rng.random_range(0..self.agents.len());
        let agent = &self.agents[number];
        match fault {
            Fault::AgentKilled => agent.end_by("KILL").then_some(Remains::Nothing),
            Fault::AgentTold => agent.end_by("TERM").then_some(Remains::Nothing),
            Fault::AgentStopped => agent.freeze().map(|pid| Remains::FrozenAgent(number, pid)),
            Fault::PostgresKilled => self.postgres.kill().then_some(Remains::Nothing),
            Fault::PostgresStopped => Some(self.postgres.freeze()).filter(|pids| !pids.is_empty()).map(Remains::Frozen),
            Fault::SessionsEnded => {
                self.sessions(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'millpond' and random() < 0.5",
                    1,
                )
                .await
            }
            Fault::StatementsCancelled => {
                self.sessions(
                    "select pg_cancel_backend(pid) from pg_stat_activity where application_name = 'millpond' and state = 'active'",
                    40,
                )
                .await
            }
            Fault::TablesRewritten => {
                let log = self.sessions("vacuum full batch, topic_partition, segment, inline_payload, request_key", 1).await;
                let queues =
                    "vacuum full lease, waiting, admitted, queue_key, queue_cursor, queue_agent, queue_flow, queue_operation, dead";
                self.sessions(queues, 1).await.and(log)
            }
            Fault::PartitionsLocked => {
                let mut connection = self.postgres.connect().await?;
                connection
                    .execute("begin; select from topic_partition where number % 2 = 0 order by partition_id for update")
                    .await
                    .ok()?;
                Some(Remains::Locks(connection))
            }
            Fault::Link(link, trouble) => {
                trouble.on(link.of(agent), rng);
                Some(Remains::Nothing)
            }
            Fault::Commit(cut) => {
                for agent in &self.agents {
                    agent.database.change(|weather| weather.commit_cuts.push((cut, 20)));
                }
                Some(Remains::Nothing)
            }
            Fault::StoreErrors | Fault::StoreResets | Fault::StoreSlow | Fault::StoreBodies => {
                for rule in rules(fault) {
                    self.s3.add_fault(rule);
                }
                Some(Remains::Nothing)
            }
        }
    }

    /// Executes a statement that affects other sessions several times, with pauses.
    async fn sessions(&self, statement: &'static str, times: u32) -> Option<Remains> {
        let mut connection = self.postgres.connect().await?;
        for _ in 0..times {
            tokio::time::timeout(Duration::from_secs(2), connection.execute(statement)).await.ok()?.ok()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(Remains::Nothing)
    }

    pub async fn undo(&self, remains: Remains) {
        match remains {
            Remains::Nothing => {}
            Remains::Frozen(pids) => signal("CONT", &pids),
            Remains::FrozenAgent(number, pid) => self.agents[number].thaw(pid),
            // Closing the session releases its locks; it may have ended already.
            Remains::Locks(connection) => {
                tokio::time::timeout(Duration::from_secs(2), connection.close()).await.ok();
            }
        }
    }
}

impl Link {
    fn of(self, agent: &Agent) -> &Proxy {
        match self {
            Self::Database => &agent.database,
            Self::Store => &agent.store,
            Self::Front => &agent.front,
        }
    }
}

impl Trouble {
    fn on(self, link: &Proxy, rng: &mut StdRng) {
        match self {
            Self::Delay => {
                let most = Duration::from_millis(rng.random_range(5..120));
                link.change(|weather| weather.delay = most);
            }
            Self::CutWithin => {
                let within = rng.random_range(500..30_000);
                link.change(|weather| weather.cut_within = Some(within));
            }
            Self::Stall => link.change(|weather| weather.silence = Silence::Stall),
            Self::Swallow => link.change(|weather| weather.silence = Silence::Swallow),
            Self::SwallowAnswers => link.change(|weather| weather.silence = Silence::SwallowAnswers),
            Self::Refuse => {
                link.change(|weather| weather.refuse = true);
                link.cut_all();
            }
            Self::CutAll => link.cut_all(),
        }
    }
}

fn rules(fault: Fault) -> Vec<Rule> {
    let rule = |kind: S3Fault, chance: f64| Rule::new(kind).chance(chance);
    match fault {
        Fault::StoreErrors => {
            vec![rule(S3Fault::Internal, 0.15), rule(S3Fault::SlowDown, 0.15), rule(S3Fault::Forbidden, 0.03)]
        }
        Fault::StoreResets => vec![rule(S3Fault::ResetBefore, 0.15), rule(S3Fault::ResetAfter, 0.25)],
        Fault::StoreSlow => vec![rule(S3Fault::Delay, 0.5).lasting(Duration::from_millis(800))],
        _ => vec![
            rule(S3Fault::Truncate, 0.2).on(Op::Get),
            rule(S3Fault::Flip, 0.2).on(Op::Get),
            rule(S3Fault::Missing, 0.1).on(Op::Get),
            rule(S3Fault::Drip, 0.1).on(Op::Get),
        ],
    }
}
