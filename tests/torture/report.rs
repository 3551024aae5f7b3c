//! Report on what was done and what came of it, and its final checks.

use super::agent::COMMITS;
use super::client::Book;
use super::nemesis::{Goal, Nemesis};
use super::rig::Rig;
use millpond_tests::history::{Call, Options, Outcome, check as violations};
use millpond_tests::proxy::Deed;
use std::collections::BTreeMap;
use std::time::Duration;

/// Required number of acknowledged requests for every kill that the goal asks for.
const ACKNOWLEDGED_PER_KILL: u64 = 20;

pub fn print(rig: &Rig, book: &Book, nemesis: &Nemesis, took: Duration) {
    println!("{} windows, {} of them calm, in {} s", nemesis.windows, nemesis.calm, took.as_secs());
    println!("faults: {:?}", nemesis.made);
    println!("links: {:?}", rig.deeds());
    println!("statements that a cut was aimed at: {:?}", aimed(rig));
    println!("store: {:?}", rig.s3.injected());
    println!("answers: {:?}", book.answers());
    for (role, times) in &nemesis.recoveries {
        let mut times = times.clone();
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_millis();
        println!(
            "acknowledged again after {role:?} failed: {} ms median, {} ms at 90 %, {} ms at most",
            at(50),
            at(90),
            at(100)
        );
    }
    for agent in &rig.agents {
        let log = agent.log();
        let said = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        println!("{}: {} starts, {} lines WARN", agent.name, said("ready address="), said(" WARN "));
        let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, error) in log.lines().filter_map(|line| line.split_once("ERROR ")) {
            *errors.entry(error.split(" error=").next().unwrap_or(error)).or_default() += 1;
        }
        for (error, times) in errors.iter().take(20) {
            println!("    {times} times ERROR {error}");
        }
    }
}

/// Number of cuts by what the cut statement does.
fn aimed(rig: &Rig) -> BTreeMap<&'static str, u64> {
    let mut aimed = BTreeMap::new();
    for (deed, times) in rig.deeds() {
        if let Deed::AimedAt(nth) = deed {
            *aimed.entry(nth.map_or("transaction", |nth| COMMITS[nth].0)).or_default() += times;
        }
    }
    aimed
}

/// Checks the history, that clients made progress, and that the faults happened.
pub fn check(rig: &Rig, book: &Book, goal: Goal) {
    let history = book.history();
    let produced = |op: &&millpond_tests::history::Op| matches!(op.outcome(), Outcome::Produced { .. });
    let acknowledged = u64::try_from(history.ops.iter().filter(produced).count()).expect("a number");
    let open = history
        .ops
        .iter()
        .filter(|op| matches!(op.call, Call::Produce(_)) && *op.outcome() == Outcome::Info)
        .count();
    println!(
        "{} operations, {acknowledged} requests acknowledged, {open} with an outcome nobody knows",
        history.ops.len()
    );
    let least = ACKNOWLEDGED_PER_KILL * (goal.agent_kills + goal.postgres_kills);
    assert!(acknowledged >= least, "only {acknowledged} requests were acknowledged, not {least}");
    let found = violations(&history, Options::default());
    for violation in &found {
        println!("{violation}");
        for op in history.ops.iter().filter(|op| violation.ops.contains(&op.id)) {
            println!(
                "    {} {}..{:?}: {:?}",
                op.id,
                op.invoked,
                op.returned.as_ref().map(|(at, _)| *at),
                op.call
            );
        }
    }
    assert!(found.is_empty(), "{} violations", found.len());

    let deeds = rig.deeds();
    let wanted = super::fault::wanted();
    let missing: Vec<&Deed> =
        wanted.iter().map(|(deed, _)| deed).filter(|deed| !deeds.contains_key(deed)).collect();
    assert!(missing.is_empty(), "no proxy did this: {missing:?}");
    let aimed = aimed(rig);
    for what in ["log", "grant", "keyed grant", "settlement"] {
        assert!(aimed.contains_key(what), "no {what} was cut: {aimed:?}");
    }
    assert!(rig.s3.injected().values().sum::<u64>() > 10, "the store hardly failed: {:?}", rig.s3.injected());
    let surprises: Vec<String> = rig.agents.iter().flat_map(super::agent::Agent::surprises).collect();
    assert!(surprises.is_empty(), "agents ended by themselves: {surprises:?}");
}
