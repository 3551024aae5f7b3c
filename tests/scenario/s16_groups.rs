//! Two groups of three members read the flights on two agents, while members die, stall beyond their session
//! and return, and join.

use millpond_tests::harness::FLIGHTS;
use millpond_tests::harness::client::Api;
use millpond_tests::harness::consumers::{Ledger, Order, Worker, moved};
use millpond_tests::harness::process::{Dev, Home};
use millpond_tests::harness::second::Second;
use millpond_tests::harness::wait::until;

const PARTITIONS: usize = 8;
const SESSION_MS: u64 = 2_000;

/// Produces a quarter of the flights, in several requests.
async fn fly(api: &Api, quarter: usize) -> usize {
    let lines: Vec<&str> = FLIGHTS.lines().collect();
    let part = &lines[quarter * lines.len() / 4..(quarter + 1) * lines.len() / 4];
    for some in part.chunks(50) {
        let body = some.join("\n");
        assert_eq!(api.lines("flights", "?key=/tailnum", body).await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    part.len()
}

#[tokio::test]
async fn every_record_reaches_each_group_whatever_becomes_of_its_members() {
    let home = Home::open();
    let dev = Dev::start(&home, &[]);
    let second = Second::beside(&dev);
    let agents = [dev.api(), second.api()];
    let api = &agents[0];
    api.topic("flights", i32::try_from(PARTITIONS).unwrap()).await;
    let (steady, troubled) =
        (Ledger::new("steady", &["flights"], SESSION_MS), Ledger::new("troubled", &["flights"], SESSION_MS));
    let watches = [steady.watch(api), troubled.watch(api)];
    let start = |ledger| -> Vec<Worker> { (0..3).map(|n| Worker::start(&agents[n % 2], ledger)).collect() };
    let (mut calm, mut busy) = (start(&steady), start(&troubled));
    let mut sent = fly(api, 0).await;
    let three = (steady.settled(api, 3).await, troubled.settled(api, 3).await);

    // A member dies without leaving: its partitions move, the others stay.
    let victim = calm.remove(1);
    let id = victim.id();
    victim.end(Order::Die).await;
    sent += fly(api, 1).await;
    let two = steady.settled(api, 2).await;
    let had: Vec<_> =
        three.0.iter().filter(|(_, owner)| **owner == id).map(|(partition, _)| partition.clone()).collect();
    assert_eq!(moved(&three.0, &two).into_iter().collect::<Vec<_>>(), had);

    // A member holds records for longer than its session: the others take over, and its commit is refused.
    let stall = busy[0].stall();
    let (_, more) = tokio::join!(stall, fly(api, 2));
    sent += more;
    let without = troubled.settled(api, 2).await;
    let (id, before) = (busy[0].id(), troubled.fenced(&busy[0].id()));
    busy[0].go_on();
    until(60, "the fence", || std::future::ready((troubled.fenced(&id) > before).then_some(()))).await;
    // The member has joined again, and takes an equal share from the others.
    let back = troubled.settled(api, 3).await;
    assert_eq!(moved(&without, &back).len(), PARTITIONS / 3);

    // A new member joins.
    calm.push(Worker::start(&agents[1], &steady));
    let again = steady.settled(api, 3).await;
    assert_eq!(moved(&two, &again).len(), PARTITIONS / 3);

    sent += fly(api, 3).await;
    for ledger in [&steady, &troubled] {
        ledger.caught_up(api, sent).await;
    }
    for worker in calm.into_iter().chain(busy) {
        worker.end(Order::Leave).await;
    }
    for ledger in [&steady, &troubled] {
        ledger.check(api).await;
        assert_eq!(ledger.delivered(), sent);
        // Only records that a member held uncommitted are delivered again.
        assert!(ledger.again() < sent / 2, "{} of {sent} came again", ledger.again());
        let described = ledger.describe(api).await.unwrap();
        assert!(described["members"].as_array().unwrap().is_empty(), "{described}");
    }
    for watch in watches {
        assert!(!watch.is_finished(), "a committed offset went back");
        watch.abort();
    }
}
