//! Queues in two worlds: random operations, expressed in the model's ids and translated for Postgres, and
//! equal answers.
//!
//! The model uses the system's clock, as Postgres does, and no two operations begin in the same millisecond:
//! so timestamps have the same order in both worlds, and differ by no more than the duration of a call.
//! Delays are whole minutes, without jitter.

mod compare;
mod lease;
mod manage;
mod pair;

use pair::Pair;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Length of a run. A step is a caller's want, a settlement's entry, an ack, an admitted record, or another
/// operation; most operations consist of many steps.
const STEPS: usize = 25_000;
/// Operations between two complete comparisons.
const DUMP_EVERY: usize = 12;

async fn run(seed: u64) {
    let steps = crate::setting("MILLPOND_TEST_STEPS").unwrap_or(STEPS);
    println!("MILLPOND_TEST_SEED={seed} MILLPOND_TEST_STEPS={steps}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pair = Pair::new(rng.random()).await;
    let mut done = 0;
    for operation in 0.. {
        done += pair.step(&mut rng).await;
        if operation % DUMP_EVERY == 0 {
            pair.compare().await;
        }
        if done >= steps {
            break;
        }
    }
    pair.compare().await;
    println!("{done} steps: {:?}", pair.counts);
    pair.close().await;
}

/// Runs one seed per test, so that they run in parallel. A seed from the environment is run by the first
/// test.
async fn nth(number: u64) {
    match crate::setting("MILLPOND_TEST_SEED") {
        Some(seed) if number == 1 => run(seed).await,
        Some(_) => {}
        None => run(number).await,
    }
}

#[tokio::test]
async fn the_model_and_postgres_agree_on_queues_1() {
    nth(1).await;
}

#[tokio::test]
async fn the_model_and_postgres_agree_on_queues_2() {
    nth(2).await;
}

#[tokio::test]
async fn the_model_and_postgres_agree_on_queues_3() {
    nth(3).await;
}

#[tokio::test]
async fn the_model_and_postgres_agree_on_queues_4() {
    nth(4).await;
}
