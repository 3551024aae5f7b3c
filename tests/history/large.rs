//! Large histories: the checker must be fast enough for runs of real processes.

use crate::shop::{ack, nack};
use millpond_tests::history::{
    Call, Entry, HandOut, History, Intent, Lease, Leased, Log, Op, OpId, Outcome, QueueAnswer, QueueCall,
    QueueOptions, ReadAnswer, Rest, Seen, Settle, Spec, Status, Target, Token, Verdict, check_queues,
};
use tokio::time::Instant;

const PARTITIONS: i32 = 8;
const BATCH: usize = 50;

#[derive(Default)]
struct Run {
    now: u64,
    ops: Vec<Op>,
}

impl Run {
    fn call(&mut self, call: Call, outcome: Outcome) {
        self.now += 2;
        let id = OpId { client: 0, number: self.now };
        self.ops.push(Op { id, invoked: self.now, call, returned: Some((self.now + 1, outcome)) });
    }

    fn lease(&mut self, records: Vec<HandOut>, intent: &Intent, status: Status) {
        let queue = "q".to_owned();
        let now_ms = i64::try_from(self.now).expect("small");
        let entries = records
            .iter()
            .map(|r| Entry { target: Target::Receipt(r.receipt), intent: intent.clone() })
            .collect::<Vec<_>>();
        let verdicts = vec![Verdict::new(status); entries.len()];
        let leased = Leased { lease: Token(self.now), now_ms, deadline_ms: now_ms + 1_000, records };
        self.call(
            Call::Queue(QueueCall::Lease(Lease { queue: queue.clone(), request: None })),
            Outcome::Queue(QueueAnswer::Leased(leased)),
        );
        let settle = QueueCall::Settle(Settle { queue: Some(queue), request: None, entries });
        self.call(Call::Queue(settle), Outcome::Queue(QueueAnswer::Settled(verdicts)));
    }
}

/// A history in which each record is handed out `attempts` times and fails each time except the last.
fn history(records: i64, attempts: u32) -> History {
    let mut run = Run::default();
    let spec = Spec {
        queue: "q".into(),
        topic: "t".into(),
        keyed: true,
        max_failures: attempts + 1,
        backoff_ms: vec![],
        latest: false,
    };
    run.call(Call::Queue(QueueCall::Make(spec)), Outcome::Queue(QueueAnswer::Done));
    for from in (0..records / i64::from(PARTITIONS)).step_by(BATCH) {
        for (attempt, partition) in
            (1..=attempts).flat_map(|attempt| (0..PARTITIONS).map(move |partition| (attempt, partition)))
        {
            let offsets =
                from..(from + i64::try_from(BATCH).expect("small")).min(records / i64::from(PARTITIONS));
            let hand = |offset: i64| HandOut {
                partition,
                offset,
                seen: Seen::Foreign(offset.unsigned_abs()),
                key: Some(format!("N{}", offset % 4_000).into()),
                attempt,
                failures: attempt - 1,
                receipt: Token::of(&format!("{partition}-{offset}-{attempt}")),
            };
            let (intent, status) =
                if attempt == attempts { (ack(), Status::Acked) } else { (nack(), Status::Released) };
            run.lease(offsets.map(hand).collect(), &intent, status);
        }
    }
    for partition in 0..PARTITIONS {
        let records = (0..records / i64::from(PARTITIONS))
            .map(|offset| (offset, Seen::Foreign(offset.unsigned_abs())))
            .collect();
        let answer = ReadAnswer { log_start: Some(0), high_watermark: None, records };
        run.call(Call::Final(Log::new("t", partition)), Outcome::Records(answer));
    }
    run.call(
        Call::Queue(QueueCall::Rest { queue: "q".into() }),
        Outcome::Queue(QueueAnswer::Rest(Rest::default())),
    );
    History { ops: run.ops }
}

/// `MILLPOND_TEST_RUNS` sets the number of records; the long form uses 400000.
#[test]
fn many_records_are_checked_in_seconds() {
    let records = std::env::var("MILLPOND_TEST_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(40_000);
    let history = history(records, 3);
    let start = Instant::now();
    let violations = check_queues(&history, QueueOptions::default());
    println!("{records} records, {} hand-outs: {:?}", records * 3, start.elapsed());
    assert!(violations.is_empty(), "{}", violations[0]);
}
