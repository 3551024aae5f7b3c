//! Schedule of faults: windows with faults, and calm between them.
//!
//! A deck holds every fault. A window takes some whose roles it has drawn, and injects each at a random time.
//! After the window all faults end, and every agent must acknowledge a request before the next window begins.
//! About a quarter of the windows is calm.

use super::client::Client;
use super::fault::{self, Fault, ROLES, Remains, Role};
use super::rig::Rig;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use tokio::time::{Duration, Instant};

/// Number of agent kills after which an agent is stopped for [`LONG_STOP`].
const KILLS_PER_LONG_STOP: u64 = 30;
/// Longer than the lease of a background job, which is 30 s.
const LONG_STOP: Duration = Duration::from_secs(40);

/// Bound on extra windows, which repeat single faults that have not had their effect yet.
const EXTRA_WINDOWS_MAX: u64 = 20;

/// Required numbers of kills.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub agent_kills: u64,
    pub postgres_kills: u64,
}

pub struct Nemesis {
    rng: StdRng,
    goal: Goal,
    deck: Vec<Fault>,
    pub made: BTreeMap<Fault, u64>,
    pub windows: u64,
    pub calm: u64,
    /// Kills that happened while there were leases.
    pub kills_with_leases: u64,
    long_stops: u64,
    extra: u64,
    /// Times from the end of a window until an agent acknowledged a request, by the roles of its faults.
    pub recoveries: BTreeMap<Role, Vec<Duration>>,
}

impl Nemesis {
    pub fn new(seed: u64, goal: Goal) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self {
            rng,
            goal,
            deck: Vec::new(),
            made: BTreeMap::new(),
            windows: 0,
            calm: 0,
            kills_with_leases: 0,
            long_stops: 0,
            extra: 0,
            recoveries: BTreeMap::new(),
        }
    }

    fn count(&self, fault: Fault) -> u64 {
        self.made.get(&fault).copied().unwrap_or(0)
    }

    /// Whether every fault was injected, and processes were killed often enough.
    fn is_through(&self) -> bool {
        self.count(Fault::AgentKilled) >= self.goal.agent_kills
            && self.count(Fault::PostgresKilled) >= self.goal.postgres_kills
            && Fault::all().into_iter().all(|fault| self.count(fault) > 0)
    }

    /// Fills the deck: each fault once, and further kills as the goal requires.
    fn shuffle(&mut self) {
        let mut deck = Fault::all();
        for (fault, goal) in
            [(Fault::AgentKilled, self.goal.agent_kills), (Fault::PostgresKilled, self.goal.postgres_kills)]
        {
            let left = goal.saturating_sub(self.count(fault));
            deck.extend((1..left.min(goal.div_ceil(4).max(4))).map(|_| fault));
        }
        deck.shuffle(&mut self.rng);
        self.deck = deck;
    }

    /// Draws the faults of a window; `None` when the goal is reached.
    fn draw(&mut self, rig: &Rig) -> Option<Vec<Fault>> {
        if self.is_through() {
            // A fault that has not had its effect in combination is injected alone.
            let deeds = rig.deeds();
            let missing = fault::wanted()
                .into_iter()
                .find(|(deed, _)| !deeds.contains_key(deed) && self.extra < EXTRA_WINDOWS_MAX);
            self.extra += 1;
            return missing.map(|(_, fault)| vec![fault]);
        }
        if self.deck.is_empty() {
            self.shuffle();
        }
        let mut roles = ROLES.to_vec();
        roles.shuffle(&mut self.rng);
        roles.truncate(self.rng.random_range(1..=4));
        let most = self.rng.random_range(2..=6);
        let mut drawn = Vec::new();
        self.deck.retain(|fault| {
            let take = roles.contains(&fault.role()) && drawn.len() < most;
            if take {
                drawn.push(*fault);
            }
            !take
        });
        Some(drawn)
    }

    pub async fn run(&mut self, rig: &Rig, probes: &mut [Client]) {
        while let Some(drawn) = self.draw(rig) {
            if !drawn.is_empty() {
                self.windows += 1;
                self.window(rig, probes, drawn).await;
            }
            if self.rng.random_range(0..3) == 0 {
                self.windows += 1;
                self.calm += 1;
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(500..2_000))).await;
            }
            if self.count(Fault::AgentKilled) >= KILLS_PER_LONG_STOP
                && self.long_stops < self.count(Fault::AgentKilled) / KILLS_PER_LONG_STOP
            {
                self.stop_long(rig, probes).await;
            }
        }
    }

    /// Stops an agent for longer than the lease of its background jobs.
    async fn stop_long(&mut self, rig: &Rig, probes: &mut [Client]) {
        self.long_stops += 1;
        let number = self.rng.random_range(0..rig.agents.len());
        if let Some(pid) = rig.agents[number].freeze() {
            tokio::time::sleep(LONG_STOP).await;
            rig.agents[number].thaw(pid);
            let times = rig.recovered(probes).await;
            println!(
                "{} stood still for {} s, acknowledged again after {times:?}",
                rig.agents[number].name,
                LONG_STOP.as_secs()
            );
        }
    }

    async fn window(&mut self, rig: &Rig, probes: &mut [Client], drawn: Vec<Fault>) {
        let length = Duration::from_millis(self.rng.random_range(1_500..5_000));
        let end = Instant::now() + length;
        let mut moments: Vec<(Instant, Fault)> = Vec::new();
        for fault in &drawn {
            moments.push((Instant::now() + length.mul_f64(self.rng.random_range(0.0..0.6)), *fault));
        }
        moments.sort_by_key(|(at, _)| *at);
        let mut remains: Vec<Remains> = Vec::new();
        for (at, fault) in moments {
            tokio::time::sleep_until(at).await;
            let kills = matches!(fault, Fault::AgentKilled | Fault::PostgresKilled);
            let leases = if kills { rig.leases().await } else { None };
            match rig.make(fault, &mut self.rng).await {
                Some(left) => {
                    self.kills_with_leases += u64::from(leases > Some(0));
                    remains.push(left);
                    *self.made.entry(fault).or_default() += 1;
                }
                // Impossible now: put it back for a later window.
                None => self.deck.push(fault),
            }
        }
        tokio::time::sleep_until(end).await;
        rig.heal();
        for left in remains {
            rig.undo(left).await;
        }
        let times = rig.recovered(probes).await;
        let mut roles: Vec<Role> = drawn.iter().map(|fault| fault.role()).collect();
        roles.sort_unstable();
        roles.dedup();
        println!(
            "window {}: {drawn:?} for {} ms, acknowledged again after {times:?}",
            self.windows,
            length.as_millis()
        );
        for role in roles {
            self.recoveries.entry(role).or_default().extend(&times);
        }
    }
}
