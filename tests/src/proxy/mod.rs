//! A TCP proxy that fails as networks do.
//!
//! It stands on a link, for instance between an agent and Postgres, delays, stalls, swallows, cuts and
//! refuses by the [`Weather`] of the moment, and counts what it did. On a link to Postgres it reads enough of
//! the protocol to cut exactly at a commit ([`CommitCut`]). TLS must be off on such a link.

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

/// What lies behind a proxy.
#[derive(Clone, Debug)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What is spoken on the link.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// Bytes that the proxy does not look at.
    Bytes,
    /// Postgres' wire protocol. An execution of one of these statements, or `COMMIT` as a simple query, is a
    /// commit.
    Postgres { commits: Arc<[String]> },
}

/// Where a connection breaks around a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitCut {
    /// The commit does not arrive.
    Before,
    /// It arrives, and the connection is gone while the server may still be at work.
    Racing,
    /// It has taken effect, and nothing of its answer comes back.
    AnswerLost,
    /// The answer breaks off in its midst.
    AnswerTorn,
}

pub const COMMIT_CUTS: [CommitCut; 4] =
    [CommitCut::Before, CommitCut::Racing, CommitCut::AnswerLost, CommitCut::AnswerTorn];

/// What becomes of bytes that nobody cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Silence {
    #[default]
    None,
    /// They wait, and arrive once the weather is better: a network that loses packets for a while.
    Stall,
    /// They are lost, and their connection says nothing any more, ever: a peer that vanished. The other side
    /// learns of a close when the weather is better.
    Swallow,
    /// The same with what comes from the other side alone: requests arrive, and their answers are lost.
    SwallowAnswers,
}

/// The faults of a link at one time; by default there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weather {
    /// Bytes read at once wait up to this.
    pub delay: Duration,
    /// Each connection is cut after at most so many more bytes.
    pub cut_within: Option<u64>,
    pub silence: Silence,
    /// New connections are reset.
    pub refuse: bool,
    /// How many of a hundred commits are cut, and how.
    pub commit_cuts: Vec<(CommitCut, u32)>,
}

/// What a proxy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    Connected,
    Refused,
    Delayed,
    Stalled,
    Swallowed,
    /// Cut after some bytes.
    CutWithin,
    /// Cut by [`Proxy::cut_all`].
    CutAll,
    /// A commit that was seen, whatever became of it.
    Commit,
    CutAtCommit(CommitCut),
    /// A cut was drawn for the nth of the statements that are commits, or for `COMMIT`.
    AimedAt(Option<usize>),
}

struct Control {
    target: Mutex<Target>,
    protocol: Protocol,
    /// With its number, so that a connection draws anew when it changes.
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

/// A running proxy; dropped, it ends with all its connections.
pub struct Proxy {
    control: Arc<Control>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback. The same seed draws the same numbers, connection by connection.
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

    /// New connections go there from now on.
    pub fn retarget(&self, target: Target) {
        *self.control.target.lock() = target;
    }

    pub fn set(&self, weather: Weather) {
        self.change(|now| *now = weather);
    }

    /// One more fault, or one less.
    pub fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.control.weather.send_modify(|(number, now)| {
            *number += 1;
            change(now);
        });
    }

    /// No faults from now on; connections that lost bytes stay silent.
    pub fn heal(&self) {
        self.set(Weather::default());
    }

    /// Ends every connection there is, each in one of the two ways in which connections end.
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

/// The connections' tasks end with this one.
async fn accept(listener: TcpListener, control: Arc<Control>) {
    let mut links = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while links.try_join_next().is_some() {}
        links.spawn(link::run(client, Arc::clone(&control)));
    }
}
