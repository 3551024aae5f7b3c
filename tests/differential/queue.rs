//! Queues of two worlds: random operations, in the ids of the model and translated for Postgres, and equal
//! answers.
//!
//! The model's clock is the system's, as Postgres' is, and operations begin at different milliseconds: so
//! instants are in the same order in both worlds, and whatever is told of them differs by the length of a
//! call. Delays are whole minutes, without jitter.

mod compare;
mod lease;
mod manage;
mod pair;

use pair::Pair;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A step is a caller's want, an entry of a settlement, an ack, something admitted, or another operation:
/// most operations are of many.
const STEPS: usize = 25_000;
/// Operations between two looks at everything.
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

/// One seed a test, so that they run beside one another; one that is asked for is the first's.
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
