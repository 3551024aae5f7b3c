//! Real processes under torture: agents, Postgres, the network and the store fail at once and one after the
//! other, while clients continue. No acknowledged record may be lost, doubled or out of order, no record may
//! have two valid leases, and everything must recover by itself.
//!
//! `MILLPOND_TEST_SEED` repeats the schedule, but not its interleaving; `MILLPOND_TORTURE_AGENT_KILLS` and
//! `MILLPOND_TORTURE_POSTGRES_KILLS` set the length, `MILLPOND_TORTURE_AGENTS` the number of agents.

mod agent;
mod client;
mod fault;
mod fsck;
mod named;
mod nemesis;
mod postgres;
mod report;
mod rig;
mod silent;

use client::produce::{BodyFormat, spawn};
use client::work::Shift;
use client::{Book, GUARDED, LARGE, SMALL, WORK, guard, logs, read, tail};
use millpond_tests::harness::wait::within;
use nemesis::{Goal, Nemesis};
use rig::{RECOVERY_WAIT_MAX_S, Rig};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn start_clients(book: &Arc<Book>, seed: u64) -> Vec<JoinHandle<()>> {
    let mut clients = vec![
        spawn(book, seed, BodyFormat::Atomic, SMALL, true),
        spawn(book, seed, BodyFormat::Atomic, SMALL, true),
        spawn(book, seed, BodyFormat::Atomic, LARGE, true),
        spawn(book, seed, BodyFormat::Atomic, LARGE, true),
        spawn(book, seed, BodyFormat::Atomic, SMALL, false),
        spawn(book, seed, BodyFormat::Atomic, LARGE, false),
        spawn(book, seed, BodyFormat::Stream, SMALL, true),
        spawn(book, seed, BodyFormat::Stream, LARGE, true),
        spawn(book, seed, BodyFormat::Batches, SMALL, true),
        spawn(book, seed, BodyFormat::Batches, SMALL, true),
        spawn(book, seed, BodyFormat::Atomic, WORK, true),
        spawn(book, seed, BodyFormat::Atomic, WORK, true),
        guard::spawn(book, seed),
        guard::spawn(book, seed),
        read::spawn_random(book, seed),
        read::spawn_random(book, seed),
        tail::spawn(book, seed, SMALL),
        tail::spawn(book, seed, LARGE),
        tail::spawn(book, seed, GUARDED),
    ];
    clients.extend(logs().into_iter().map(|log| read::spawn_poll(book, seed, log)));
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_the_log_stays_one() {
    let seed = setting("MILLPOND_TEST_SEED", 1);
    let goal = Goal {
        agent_kills: setting("MILLPOND_TORTURE_AGENT_KILLS", 4),
        postgres_kills: setting("MILLPOND_TORTURE_POSTGRES_KILLS", 2),
    };
    println!("MILLPOND_TEST_SEED={seed} {goal:?}");
    let start = Instant::now();
    let rig = Rig::start(seed, setting("MILLPOND_TORTURE_AGENTS", 3)).await;
    let book = Book::new(rig.agents.iter().map(|agent| agent.front.address()).collect());
    let mut probes = rig::probes(&book, seed, rig.agents.len());
    rig.make_topics(&probes[0]).await;
    let shift = Shift::start(&rig, seed).await;
    let clients = start_clients(&book, seed);

    let mut nemesis = Nemesis::new(seed, goal);
    nemesis.run(&rig, &mut probes).await;

    book.stop();
    for client in clients {
        within(RECOVERY_WAIT_MAX_S, "the last answer to a client", client)
            .await
            .expect("a client that did not panic");
    }
    shift.end(&rig).await;
    // The final reads must come from the store and Postgres, not from the memory of the agent that wrote.
    rig.agents[0].end_by("KILL");
    tokio::time::sleep(tokio::time::Duration::from_millis(300)).await;
    rig.all_ready().await;
    rig.recovered(&mut probes).await;
    let mut fresh = book.client(seed);
    for agent in 0..rig.agents.len() {
        for log in logs() {
            fresh.read_all(agent, &log).await;
        }
    }
    shift.read(&rig).await;
    report::print(&rig, &book, &nemesis, start.elapsed());
    fsck::check(&rig).await;
    fsck::check_queues(&rig).await;
    shift.check(&nemesis, goal);
    report::check(&rig, &book, goal);
    rig.close(RECOVERY_WAIT_MAX_S).await;
}
