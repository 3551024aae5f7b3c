use super::*;
use proptest::prelude::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_lone_small_request_is_flushed_at_once_and_idle_asks_for_nothing() {
    let now = Instant::now();
    let mut batcher = Batcher::new(BatcherConfig::default(), now);
    assert_eq!(batcher.decide(now), Decision::Idle);
    let lane = batcher.lane(1_000, Placement::Auto, now);
    assert_eq!(lane, Lane::Small);
    batcher.offer(lane, 1_000, now);
    assert_eq!(batcher.decide(now), Decision::Flush(Lane::Small, Reason::Ready));
    batcher.flushed(Lane::Small, 1_000, None, now);
    batcher.offer(Lane::Small, 1_000, now);
    assert_eq!(batcher.decide(now), Decision::Idle, "one inline commit at a time");
    batcher.inline_done();
    assert_eq!(batcher.decide(now), Decision::Flush(Lane::Small, Reason::Ready));
}

#[test]
fn object_binds_and_a_spent_budget_spills() {
    let now = Instant::now();
    let mut batcher = Batcher::new(BatcherConfig::default(), now);
    assert_eq!(batcher.lane(10, Placement::Object, now), Lane::Bulk);
    assert_eq!(batcher.lane(20_000, Placement::Auto, now), Lane::Bulk);
    assert_eq!(batcher.lane(20_000, Placement::Inline, now), Lane::Small);
    for _ in 0..300 {
        batcher.offer(Lane::Small, 16_384, now);
    }
    assert_eq!(batcher.lane(10, Placement::Auto, now), Lane::Bulk);
    assert_eq!(batcher.lane(10, Placement::Auto, now + ms(1_000)), Lane::Small);
    batcher.inline_full = true;
    assert_eq!(batcher.lane(10, Placement::Inline, now + ms(1_000)), Lane::Bulk);
}

#[test]
fn bulk_flushes_early_while_tokens_last_then_at_the_linger() {
    let mut now = Instant::now();
    let mut batcher = Batcher::new(BatcherConfig::default(), now);
    for _ in 0..8 {
        batcher.offer(Lane::Bulk, 20_000, now);
        assert_eq!(batcher.decide(now), Decision::Flush(Lane::Bulk, Reason::Ready));
        batcher.flushed(Lane::Bulk, 20_000, None, now);
        batcher.put_done();
    }
    batcher.offer(Lane::Bulk, 20_000, now);
    let Decision::Wait(until) = batcher.decide(now) else { panic!("no token is left") };
    assert!(until <= now + ms(250));
    batcher.offer(Lane::Bulk, limits::SEGMENT_MAX_BYTES, now);
    assert_eq!(
        batcher.decide(now),
        Decision::Flush(Lane::Bulk, Reason::Size),
        "size takes its token on credit"
    );
    batcher.flushed(Lane::Bulk, limits::SEGMENT_MAX_BYTES, Some(now), now);
    now += ms(250);
    assert_eq!(batcher.decide(now), Decision::Flush(Lane::Bulk, Reason::Linger));
}

#[test]
fn an_append_alone_takes_its_tokens() {
    let now = Instant::now();
    let mut batcher = Batcher::new(BatcherConfig::default(), now);
    for _ in 0..8 {
        assert_eq!(batcher.offer_alone(Lane::Bulk, 20_000, now), now);
    }
    let later = batcher.offer_alone(Lane::Bulk, 20_000, now);
    assert!(later > now && later <= now + ms(250), "no PUT token is left");
    batcher.offer(Lane::Bulk, 20_000, now);
    assert!(matches!(batcher.decide(now), Decision::Wait(_)), "nor is one for others");
    for _ in 0..1_000 {
        assert_eq!(batcher.lane(10, Placement::Auto, now), Lane::Small);
        assert_eq!(batcher.offer_alone(Lane::Small, 10, now), now);
    }
    assert_eq!(batcher.lane(10, Placement::Auto, now), Lane::Bulk, "no inline commit is left");
}

proptest! {
    /// For any arrivals, no append waits longer than the linger time, and the rate of PUTs stays below
    /// max(rate, 1/linger) + bytes/s ÷ segment size.
    #[test]
    fn linger_and_put_rate_hold(
        arrivals in prop::collection::vec((0_u64..400, 1_usize..4_000_000), 1..200),
        put_ms in 0_u64..600,
    ) {
            let start = Instant::now();
            let config = BatcherConfig { inline: false, ..BatcherConfig::default() };
            let mut batcher = Batcher::new(config, start);
            let (mut now, mut puts, mut bytes, mut waiting) = (start, 0_u32, 0_usize, 0_usize);
            let mut ends: Vec<Instant> = Vec::new();
            let mut oldest: Option<Instant> = None;
            let mut arrivals = arrivals.into_iter();
            let mut next = arrivals.next().map(|(gap, size)| (now + ms(gap), size));
            while next.is_some() || oldest.is_some() {
                match batcher.decide(now) {
                    Decision::Flush(lane, _) => {
                        assert_eq!(lane, Lane::Bulk);
                        assert!(oldest.is_some_and(|o| now <= o + config.linger));
                        batcher.flushed(lane, std::mem::take(&mut waiting), None, now);
                        ends.push(now + ms(put_ms));
                        puts += 1;
                        oldest = None;
                    }
                    decision => {
                        let mut wake = vec![];
                        if let Decision::Wait(at) = decision { wake.push(at); }
                        wake.extend(next.map(|n| n.0));
                        wake.extend(ends.iter().copied());
                        let Some(at) = wake.into_iter().min() else { break };
                        now = now.max(at);
                        ends.retain(|e| { if *e <= now { batcher.put_done(); false } else { true } });
                        if let Some((when, size)) = next.filter(|n| n.0 <= now) {
                            batcher.offer(Lane::Bulk, size, when.max(now));
                            oldest.get_or_insert(now);
                            bytes += size;
                            waiting += size;
                            next = arrivals.next().map(|(gap, size)| (now + ms(gap), size));
                        }
                    }
                }
            }
            let seconds = (now - start).as_secs_f64();
            let by_size = bytes / config.segment_max_bytes;
            let by_size = f64::from(u32::try_from(by_size).expect("small"));
            let allowed = 4.0 * seconds + config.put_burst + 1.0 + by_size;
            assert!(f64::from(puts) <= allowed, "{puts} PUTs in {seconds} s of {bytes} bytes");
    }
}
