//! Fault injection: rules that say which requests fail and how, and their random draws.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

/// Kinds of requests, as S3 bills them and as fault rules distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Get,
    Head,
    Put,
    /// Deletion of one object or of many; each key counts.
    Delete,
    List,
    /// Any operation on a bucket itself.
    Bucket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// 500 `InternalError`; nothing took effect.
    Internal,
    /// 503 `SlowDown`; nothing took effect.
    SlowDown,
    /// 403 `AccessDenied`, as while a policy change propagates.
    Forbidden,
    /// 404 `NoSuchKey` for an object that exists.
    Missing,
    /// The whole answer is delayed.
    Delay,
    /// The connection ends before the request takes effect.
    ResetBefore,
    /// The request takes effect, then the connection ends without an answer.
    ResetAfter,
    /// The body has fewer bytes than `Content-Length` says, then the connection ends.
    Truncate,
    /// One bit of the body is flipped.
    Flip,
    /// The body arrives slowly, in small pieces.
    Drip,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::Internal,
        Self::SlowDown,
        Self::Forbidden,
        Self::Missing,
        Self::Delay,
        Self::ResetBefore,
        Self::ResetAfter,
        Self::Truncate,
        Self::Flip,
        Self::Drip,
    ];

    /// The name used in `--fault`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::SlowDown => "slow-down",
            Self::Forbidden => "forbidden",
            Self::Missing => "missing",
            Self::Delay => "delay",
            Self::ResetBefore => "reset-before",
            Self::ResetAfter => "reset-after",
            Self::Truncate => "truncate",
            Self::Flip => "flip",
            Self::Drip => "drip",
        }
    }

    /// Whether requests of that kind can meet this fault.
    #[must_use]
    pub fn suits(self, op: Op) -> bool {
        match self {
            Self::Truncate | Self::Flip | Self::Drip => op == Op::Get,
            Self::Missing => matches!(op, Op::Get | Op::Head),
            _ => true,
        }
    }
}

/// Which of the matching requests fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Always,
    First(u64),
    Nth(u64),
    Chance(f64),
}

/// A fault and the requests that meet it: all that can, unless narrowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    fault: Option<Fault>,
    op: Option<Op>,
    prefix: String,
    when: When,
    pause: Duration,
}

impl Rule {
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            fault: Some(fault),
            op: None,
            prefix: String::new(),
            when: When::Always,
            pause: Duration::from_millis(300),
        }
    }

    /// A rule that draws one of the faults that the request can meet.
    #[must_use]
    pub fn any_fault() -> Self {
        Self { fault: None, ..Self::new(Fault::Internal) }
    }

    #[must_use]
    pub fn on(self, op: Op) -> Self {
        Self { op: Some(op), ..self }
    }

    /// Narrows the rule to objects with this key prefix.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    #[must_use]
    pub fn chance(self, probability: f64) -> Self {
        Self { when: When::Chance(probability), ..self }
    }

    /// Narrows the rule to the first `count` requests.
    #[must_use]
    pub fn first(self, count: u64) -> Self {
        Self { when: When::First(count), ..self }
    }

    /// Narrows the rule to the nth request, counted from 1.
    #[must_use]
    pub fn nth(self, number: u64) -> Self {
        Self { when: When::Nth(number), ..self }
    }

    /// Sets how long delays and slow bodies take.
    #[must_use]
    pub fn lasting(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }
}

/// Parses a rule `[get:|put:|delete:]KIND=PROBABILITY`, where `KIND` is `all` or a fault's name.
///
/// # Errors
/// A description of what is wrong with the text.
pub fn parse_rule(text: &str) -> Result<Rule, String> {
    let (what, chance) = text.split_once('=').ok_or("as in all=0.01 or get:flip=0.1")?;
    let chance: f64 = chance.parse().map_err(|_| "a probability is a number")?;
    if !(0.0..=1.0).contains(&chance) {
        return Err("a probability lies between 0 and 1".to_owned());
    }
    let (op, kind) = match what.split_once(':') {
        None => (None, what),
        Some(("get", kind)) => (Some(Op::Get), kind),
        Some(("put", kind)) => (Some(Op::Put), kind),
        Some(("delete", kind)) => (Some(Op::Delete), kind),
        Some((other, _)) => return Err(format!("{other} is none of get, put, delete")),
    };
    let rule = match Fault::ALL.into_iter().find(|fault| fault.name() == kind) {
        Some(fault) => Rule::new(fault),
        None if kind == "all" => Rule::any_fault(),
        None => return Err(format!("{kind} is none of all, {}", Fault::ALL.map(Fault::name).join(", "))),
    };
    Ok(Rule { op, ..rule }.chance(chance))
}

/// A fault that a request is to meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Injection {
    pub fault: Fault,
    pub pause: Duration,
}

/// Active rules, the number of requests each has seen, and the number of faults injected.
pub(super) struct Faults {
    rng: StdRng,
    rules: Vec<(Rule, u64)>,
    pub injected: BTreeMap<Fault, u64>,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), rules: Vec::new(), injected: BTreeMap::new() }
    }

    pub fn add(&mut self, rule: Rule) {
        self.rules.push((rule, 0));
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    pub fn happened(&mut self, fault: Fault) {
        *self.injected.entry(fault).or_default() += 1;
    }

    /// A random number below the bound, which must be above 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// The fault that a request on these keys meets, if any; bucket requests have no keys.
    pub fn draw(&mut self, op: Op, keys: &[String]) -> Option<Injection> {
        let suits = |fault: Option<Fault>| fault.is_none_or(|fault| fault.suits(op));
        let is_under = |prefix: &str| prefix.is_empty() || keys.iter().any(|key| key.starts_with(prefix));
        for (rule, seen) in &mut self.rules {
            if !suits(rule.fault) || rule.op.is_some_and(|of| of != op) || !is_under(&rule.prefix) {
                continue;
            }
            *seen += 1;
            let fires = match rule.when {
                When::Always => true,
                When::First(count) => *seen <= count,
                When::Nth(number) => *seen == number,
                When::Chance(probability) => self.rng.random_bool(probability),
            };
            if fires {
                let choices: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| fault.suits(op)).collect();
                let fault = rule.fault.unwrap_or_else(|| choices[self.rng.random_range(0..choices.len())]);
                return Some(Injection { fault, pause: rule.pause });
            }
        }
        None
    }
}
