//! The model and Postgres in lock step: random operations, equal answers, equal logs, equal queues.
//!
//! `MILLPOND_TEST_SEED` repeats a run, `MILLPOND_TEST_STEPS` sets its length. Instants are not compared: they
//! are those of two clocks. Time passes in steps that are long against a run, so that both worlds see the
//! same things expire.

mod dump;
mod generate;
mod group;
mod pair;
mod queue;

use generate::Generator;
use pair::Pair;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SEEDS: [u64; 4] = [1, 2, 3, 4];
const STEPS: usize = 300;
/// Steps between two looks at everything.
const DUMP_EVERY: usize = 15;

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
        println!("{step}: {operation:?}");
        pair.apply(operation).await;
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
