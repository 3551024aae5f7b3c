//! A TCP proxy that injects network faults.
//!
//! It stands on a link, for instance between an agent and Postgres. It delays, stalls, swallows, cuts and
//! refuses as the current [`Weather`] says, and counts the faults it injected. On a link to Postgres it reads
//! enough of the protocol to cut exactly at a commit ([`CommitCut`]). TLS must be off on such a link.

mod link;
pub mod postgres;
#[cfg(test)]
mod tests;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Address to which a proxy forwards.
#[derive(Clone, Debug)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Protocol on the link.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// Opaque bytes.
    Bytes,
    /// Postgres' wire protocol. A commit is an execution of one of the statements `commits`, or `COMMIT` as a
    /// simple query.
    Postgres { commits: Arc<[String]> },
}

/// Point at which a connection breaks around a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitCut {
    /// Before the commit arrives at the server.
    Before,
    /// After the commit has arrived, perhaps while the server still works on it.
    Racing,
    /// After the commit has taken effect, before any of its answer comes back.
    AnswerLost,
    /// In the middle of the answer.
    AnswerTorn,
}

pub const COMMIT_CUTS: [CommitCut; 4] =
    [CommitCut::Before, CommitCut::Racing, CommitCut::AnswerLost, CommitCut::AnswerTorn];

/// How a link withholds bytes without closing the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Silence {
    #[default]
    None,
    /// Bytes wait, and arrive once the weather is better: a network that loses packets for a while.
    Stall,
    /// Bytes are lost, and the connection stays silent for good: a peer that vanished. The other side learns
    /// of a close when the weather is better.
    Swallow,
    /// The same for the server's bytes alone: requests arrive, and their answers are lost.
    SwallowAnswers,
}

/// Current faults of a link; none by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weather {
    /// Upper bound of the random delay of each chunk of bytes.
    pub delay: Duration,
    /// Each connection is cut after a random number of further bytes, at most this many.
    pub cut_within: Option<u64>,
    pub silence: Silence,
    /// Whether new connections are reset.
    pub refuse: bool,
    /// Percentage of commits that are cut, by kind of cut.
    pub commit_cuts: Vec<(CommitCut, u32)>,
}

/// What a proxy did, for its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    Connected,
    Refused,
    Delayed,
    Stalled,
    Swallowed,
    /// A connection was cut by [`Weather::cut_within`].
    CutWithin,
    /// A connection was cut by [`Proxy::cut_all`].
    CutAll,
    /// A commit passed or was cut.
    Commit,
    CutAtCommit(CommitCut),
    /// A cut was drawn for a commit: the nth of the configured statements, or `COMMIT` (`None`).
    AimedAt(Option<usize>),
}

struct Control {
    target: Mutex<Target>,
    protocol: Protocol,
    /// The weather and its number; a connection draws its cut anew when the number changes.
    weather: watch::Sender<(u64, Weather)>,
    cut_all: watch::Sender<u64>,
    deeds: Mutex<BTreeMap<Deed, u64>>,
    rng: Mutex<StdRng>,
}

impl Control {
    fn count(&self, deed: Deed) {
        *self.deeds.lock().entry(deed).or_default() += 1;
    }

    fn draw_seed(&self) -> u64 {
        self.rng.lock().random()
    }
}

/// A running proxy; on drop it ends with all its connections.
pub struct Proxy {
    control: Arc<Control>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free loopback port. Random draws depend on the seed and the connection's number only.
    pub async fn start(target: Target, protocol: Protocol, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let control = Arc::new(Control {
            target: Mutex::new(target),
            protocol,
            weather: watch::Sender::new((0, Weather::default())),
            cut_all: watch::Sender::new(0),
            deeds: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&control)));
        Self { control, address, accepting }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards new connections to this target from now on.
    pub fn retarget(&self, target: Target) {
        *self.control.target.lock() = target;
    }

    pub fn set(&self, weather: Weather) {
        self.change(|now| *now = weather);
    }

    /// Changes the current faults.
    pub fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.control.weather.send_modify(|(number, now)| {
            *number += 1;
            change(now);
        });
    }

    /// Removes all faults; connections that lost bytes stay silent.
    pub fn heal(&self) {
        self.set(Weather::default());
    }

    /// Ends every open connection, at random in one of the two ways in which connections end.
    pub fn cut_all(&self) {
        self.control.cut_all.send_modify(|number| *number += 1);
    }

    #[must_use]
    pub fn deeds(&self) -> BTreeMap<Deed, u64> {
        self.control.deeds.lock().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts connections; their tasks end with this one.
async fn accept(listener: TcpListener, control: Arc<Control>) {
    let mut links = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while links.try_join_next().is_some() {}
        links.spawn(link::run(client, Arc::clone(&control)));
    }
}
