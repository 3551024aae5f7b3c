use rand::SeedableRng;

use super::*;

fn patience(limit: Option<Duration>) -> Patience {
    Patience::new(limit, StdRng::seed_from_u64(1))
}

#[test]
fn pauses_grow_to_a_bound_and_end_with_the_limit() {
    let mut patience = patience(Some(Duration::from_secs(60)));
    let mut pauses = Vec::new();
    while let Some(pause) = patience.pause(Duration::ZERO, None) {
        pauses.push(pause);
    }
    assert!(pauses[0] >= PAUSE_FIRST / 2 && pauses[0] < PAUSE_FIRST);
    assert!(pauses.iter().all(|pause| *pause < PAUSE_MAX));
    let total: Duration = pauses.iter().sum();
    assert!(total >= Duration::from_secs(60) && total < Duration::from_secs(65), "{total:?}");
    assert!((15..40).contains(&pauses.len()), "{}", pauses.len());
}

#[test]
fn the_servers_wish_is_the_least_pause() {
    let wish = Duration::from_secs(9);
    let pause = patience(None).pause(Duration::ZERO, Some(wish)).expect("no limit");
    assert!(pause > wish);
}

#[test]
fn idle_time_counts_and_progress_forgets_it() {
    let mut patience = patience(Some(Duration::from_secs(60)));
    assert!(patience.pause(Duration::from_secs(50), None).is_some());
    patience.progressed();
    assert!(patience.pause(Duration::from_secs(50), None).is_some());
    assert!(patience.pause(Duration::from_secs(50), None).is_none());
}

#[test]
fn a_limit_of_zero_is_one_attempt_and_its_own_error() {
    let mut patience = patience(Some(Duration::ZERO));
    assert!(patience.pause(Duration::ZERO, None).is_none());
    assert!(matches!(patience.give_up(CliError::Truncated), CliError::Truncated));
}
