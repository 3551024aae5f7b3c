//! Random decisions of a run, all drawn from its seed: the quality of the network, sizes, and the fate of
//! each call.

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;
use tokio::time::Instant;

/// Name of a kind of call that may fail.
pub type Step = &'static str;

/// What happens to a call, and what its caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Never applied, and the caller knows.
    LostCall,
    /// Never applied, but the caller does not know.
    LostSilently,
    /// Applied; the answer was lost.
    LostAnswer,
    /// Applied twice, the second time some time later.
    Twice,
    /// The caller is told that the outcome is unknown; the call is applied later, perhaps after it was
    /// resent.
    Late,
    /// Never answered, and never applied.
    Hang,
    /// Never answered, though applied.
    HangApplied,
    /// The calling agent died while the call was under way.
    Crash,
    /// An object is missing, truncated or has a flipped bit, in this one read.
    Missing,
    Truncated,
    Flipped,
}

#[derive(Clone, Copy, Debug)]
pub struct Fate {
    pub fault: Option<Fault>,
    pub before: Duration,
    pub after: Duration,
    /// Delay of a late or second application.
    pub later: Duration,
}

/// Probabilities of faults, in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub plane: u32,
    pub store: u32,
    /// Probability that an agent crashes, in each second.
    pub crash: u32,
    /// Probability that a client gives up before its answer.
    pub leave: u32,
    /// Probability that a call is slow.
    pub slow: u32,
}

impl Weather {
    pub const CALM: Self = Self { plane: 0, store: 0, crash: 0, leave: 0, slow: 0 };

    /// A quarter of the runs have no faults; the others have a random set of them.
    pub fn draw(rng: &mut StdRng) -> Self {
        if rng.random_ratio(1, 4) {
            return Self::CALM;
        }
        let mut some = |most: u32| if rng.random_ratio(2, 3) { rng.random_range(0..=most) } else { 0 };
        Self { plane: some(250), store: some(250), crash: some(200), leave: some(150), slow: some(100) }
    }
}

#[derive(Default)]
struct Records {
    trace: DefaultHasher,
    lines: Option<Vec<String>>,
    cells: BTreeMap<(Step, Fault), u64>,
    calls: BTreeMap<Step, u64>,
    in_flight: BTreeMap<(usize, Step), usize>,
}

/// Draws the fate of every call of a run, and keeps a trace.
pub struct Fates {
    rng: Mutex<StdRng>,
    weather: Mutex<Weather>,
    records: Mutex<Records>,
    start: Instant,
}

const PLANE_FAULTS: [Fault; 7] = [
    Fault::LostCall,
    Fault::LostSilently,
    Fault::LostAnswer,
    Fault::Twice,
    Fault::Late,
    Fault::Hang,
    Fault::HangApplied,
];
const PUT_FAULTS: [Fault; 6] =
    [Fault::LostCall, Fault::LostAnswer, Fault::Twice, Fault::Late, Fault::Hang, Fault::HangApplied];
const GET_FAULTS: [Fault; 5] =
    [Fault::LostCall, Fault::Hang, Fault::Missing, Fault::Truncated, Fault::Flipped];

impl Fates {
    pub fn new(seed: u64, weather: Weather, keep_lines: bool) -> Self {
        let records = Records { lines: keep_lines.then(Vec::new), ..Records::default() };
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        Self { rng, weather: Mutex::new(weather), records: Mutex::new(records), start: Instant::now() }
    }

    pub fn heal(&self) {
        *self.weather.lock() = Weather::CALM;
    }

    pub fn weather(&self) -> Weather {
        *self.weather.lock()
    }

    pub fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Adds an event to the trace: two runs of a seed are equal if their traces are.
    pub fn note(&self, what: impl Hash + std::fmt::Debug) {
        let at = self.elapsed_ms();
        let mut records = self.records.lock();
        at.hash(&mut records.trace);
        what.hash(&mut records.trace);
        if let Some(lines) = &mut records.lines {
            lines.push(format!("{at} {what:?}"));
        }
    }

    pub fn plane(&self, agent: usize, step: Step) -> Fate {
        let weather = self.weather();
        self.draw(agent, step, weather.plane, weather.slow, &PLANE_FAULTS)
    }

    pub fn put(&self, agent: usize, step: Step) -> Fate {
        let weather = self.weather();
        self.draw(agent, step, weather.store, weather.slow, &PUT_FAULTS)
    }

    pub fn get(&self, agent: usize) -> Fate {
        let weather = self.weather();
        self.draw(agent, "get", weather.store, weather.slow, &GET_FAULTS)
    }

    fn draw(&self, agent: usize, step: Step, permille: u32, slow: u32, faults: &[Fault]) -> Fate {
        let fate = {
            let mut rng = self.rng.lock();
            let fault = rng.random_ratio(permille, 1_000).then(|| faults[rng.random_range(0..faults.len())]);
            let mut delay = |most: u64| match rng.random_range(0..1_000) {
                n if n < slow => Duration::from_millis(rng.random_range(0..4_000)),
                n if n < 300 => Duration::ZERO,
                _ => Duration::from_millis(rng.random_range(0..most)),
            };
            let (before, after) = (delay(6), delay(6));
            // A late call must arrive before the connection's time-outs would have ended it.
            let later = Duration::from_millis(match rng.random_range(0..3) {
                0 => rng.random_range(0..20),
                1 => rng.random_range(0..2_000),
                _ => rng.random_range(0..34_000),
            });
            Fate { fault, before, after, later }
        };
        *self.records.lock().calls.entry(step).or_default() += 1;
        if let Some(fault) = fate.fault {
            self.hit(step, fault);
        }
        self.note((agent, step, fate.fault));
        fate
    }

    fn hit(&self, step: Step, fault: Fault) {
        *self.records.lock().cells.entry((step, fault)).or_default() += 1;
    }

    pub fn chance(&self, permille: u32) -> bool {
        permille > 0 && self.rng.lock().random_ratio(permille.min(1_000), 1_000)
    }

    pub fn below(&self, most: u64) -> u64 {
        self.rng.lock().random_range(0..most.max(1))
    }

    /// Notes which calls a dying agent has under way.
    pub fn crash(&self, agent: usize) {
        self.note(("crash", agent));
        let steps: Vec<Step> =
            self.records.lock().in_flight.keys().filter(|k| k.0 == agent).map(|k| k.1).collect();
        for step in steps {
            self.hit(step, Fault::Crash);
        }
        self.hit("agent", Fault::Crash);
    }

    pub fn enter(&self, agent: usize, step: Step) {
        *self.records.lock().in_flight.entry((agent, step)).or_default() += 1;
    }

    pub fn leave(&self, agent: usize, step: Step) {
        let mut records = self.records.lock();
        if let Some(count) = records.in_flight.get_mut(&(agent, step)) {
            *count -= 1;
            if *count == 0 {
                records.in_flight.remove(&(agent, step));
            }
        }
    }

    pub fn trace(&self) -> u64 {
        self.records.lock().trace.finish()
    }

    pub fn take_lines(&self) -> Vec<String> {
        self.records.lock().lines.take().unwrap_or_default()
    }

    pub fn cells(&self) -> BTreeMap<(Step, Fault), u64> {
        self.records.lock().cells.clone()
    }

    pub fn calls(&self) -> u64 {
        self.records.lock().calls.values().sum()
    }
}
