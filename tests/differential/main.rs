//! The in-memory model and Postgres side by side: random operations, equal answers, equal logs, equal queues.
//!
//! `MILLPOND_TEST_SEED` repeats a run, `MILLPOND_TEST_STEPS` sets its length. Timestamps are not compared:
//! they come from two clocks. Time advances in steps that are long compared with a run, so that the same
//! things expire in both worlds.
//!
//! Now and then another tenant calls, with the ids of the first.

mod dump;
mod generate;
mod group;
mod pair;
mod queue;

use generate::Generator;
use millpond_core::Scope;
use pair::Pair;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SEEDS: [u64; 4] = [1, 2, 3, 4];
const STEPS: usize = 300;
/// Steps between two complete comparisons.
const DUMP_EVERY: usize = 15;

/// The tenant that has no topics and no queues.
fn them() -> Scope {
    Scope::anonymous(millpond_tests::stage::name("them"))
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

async fn run(seed: u64) {
    let steps = setting("MILLPOND_TEST_STEPS").unwrap_or(STEPS);
    println!("MILLPOND_TEST_SEED={seed} MILLPOND_TEST_STEPS={steps}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pair = Pair::new(rng.random()).await;
    let mut generator = Generator::new(rng);
    for step in 0..steps {
        let operation = generator.next(&pair);
        let theirs = generator.theirs(&operation);
        println!("{step}: {operation:?}{}", if theirs { ", by another tenant" } else { "" });
        pair.apply_as(theirs, operation).await;
        if step % DUMP_EVERY == 0 {
            dump::compare(&pair).await;
        }
    }
    dump::compare(&pair).await;
    println!("{:?}", pair.counts);
    pair.close().await;
}

#[tokio::test]
async fn the_model_and_postgres_agree() {
    match setting("MILLPOND_TEST_SEED") {
        Some(seed) => run(seed).await,
        None => {
            for seed in SEEDS {
                run(seed).await;
            }
        }
    }
}
