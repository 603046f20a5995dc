//! Three real arbiters over loopback: what callers may count on while arbiters come and go.

use std::time::Duration;

use crate::cluster::{Cluster, PATIENCE, create, granted, group, member, proposal};
use cutover_arbiter::record::{Answer, Change, Epoch, RefusalReason};
use tokio::time::timeout;

#[tokio::test]
async fn of_concurrent_proposals_exactly_one_wins() {
    let cluster = Cluster::start(3);
    let mut contenders = tokio::task::JoinSet::new();
    for life in 1..=9 {
        let client = cluster.client();
        let name = format!("r{life}");
        contenders.spawn(async move {
            let me = member(&name, life);
            client.test_and_set(proposal(life, &me, 0, create(&me)), PATIENCE).await.expect("a majority runs")
        });
    }
    let answers = contenders.join_all().await;
    let winners: Vec<_> = answers.iter().filter(|answer| matches!(answer, Answer::Granted(_))).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    let Answer::Granted(won) = winners[0] else { unreachable!("just filtered") };
    for answer in &answers {
        if let Answer::Refused { record, reason } = answer {
            assert_eq!((record.as_ref(), reason), (Some(won), &RefusalReason::Exists));
        }
    }
    let client = cluster.client();
    assert_eq!(client.read(&group(), PATIENCE).await.unwrap().as_ref(), Some(won));
    assert_eq!(client.groups(PATIENCE).await.unwrap(), vec![won.clone()]);
    let history = client.history(&group(), PATIENCE).await.unwrap();
    assert_eq!(history.len(), 1);
    assert!(history[0].at_ms > 0);
}

#[tokio::test]
async fn r_n_a_repeated_request_gets_its_first_answer_after_a_leader_change_and_a_restart_from_a_snapshot() {
    let mut cluster = Cluster::start_with(3, |options| options.snapshot_after_entries = 8);
    let client = cluster.client();
    let me = member("a", 1);
    let first = proposal(1, &me, 0, create(&me));
    let answer = granted(&client, first.clone()).await;
    for epoch in 1..40 {
        granted(&client, proposal(100 + u128::from(epoch), &me, epoch, Change::Resume)).await;
    }
    let leader = cluster.leader(&client).await;
    cluster.stop(leader);
    assert_eq!(granted(&client, first.clone()).await, answer, "after a leader change");
    cluster.restart(leader);
    for id in 1..=3 {
        cluster.stop(id);
    }
    for id in 1..=3 {
        cluster.restart(id);
    }
    assert_eq!(granted(&client, first).await, answer, "after a restart of all");
    let record = client.read(&group(), PATIENCE).await.unwrap().expect("the group is there");
    assert_eq!(record.epoch, Epoch(40));
}

#[tokio::test]
async fn f31_the_client_goes_on_when_the_leader_is_lost_and_f34_records_survive_a_restart_of_all() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let leader = cluster.leader(&client).await;
    cluster.stop(leader);
    let record = granted(&client, proposal(2, &me, 1, Change::Resume)).await;
    assert_eq!(record.epoch, Epoch(2));
    cluster.restart(leader);
    for id in 1..=3 {
        cluster.stop(id);
    }
    let unanswered = client.read(&group(), Duration::from_millis(200)).await.expect_err("nobody runs");
    assert!(unanswered.to_string().contains("majority"), "{unanswered}");
    for id in 1..=3 {
        cluster.restart(id);
    }
    assert_eq!(client.read(&group(), PATIENCE).await.unwrap(), Some(record));
}

#[tokio::test]
async fn one_of_three_alone_answers_nothing() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    cluster.stop(1);
    cluster.stop(2);
    let resume = proposal(2, &me, 1, Change::Resume);
    client.test_and_set(resume.clone(), Duration::from_millis(700)).await.expect_err("no majority");
    client.read(&group(), Duration::from_millis(700)).await.expect_err("no majority");
    // It timed out and may be granted later: it stays unknown, then consistent.
    cluster.restart(1);
    let record = granted(&client, resume).await;
    assert_eq!(record.epoch, Epoch(2));
    assert_eq!(client.read(&group(), PATIENCE).await.unwrap(), Some(record));
}

#[tokio::test]
async fn a_watch_hears_of_every_change_and_outlives_arbiters() {
    let mut cluster = Cluster::start(3);
    let (client, watcher) = (cluster.client(), cluster.client());
    let mut watch = watcher.watch(group());
    assert_eq!(watch.latest(), None);
    let me = member("a", 1);
    let record = granted(&client, proposal(1, &me, 0, create(&me))).await;
    assert_eq!(timeout(PATIENCE, watch.changed()).await.expect("told of the group"), record);
    let leader = cluster.leader(&client).await;
    cluster.stop(leader);
    let record = granted(&client, proposal(2, &me, 1, Change::Resume)).await;
    assert_eq!(timeout(PATIENCE, watch.changed()).await.expect("told without the old leader"), record);
    let mut late = watcher.watch(group());
    assert_eq!(timeout(PATIENCE, late.changed()).await.expect("told at once"), record);
    cluster.restart(leader);
    for id in 1..=3 {
        cluster.stop(id);
    }
    for id in 1..=3 {
        cluster.restart(id);
    }
    let record = granted(&client, proposal(3, &me, 2, Change::Resume)).await;
    assert_eq!(timeout(PATIENCE, watch.changed()).await.expect("connected again by itself"), record);
    assert_eq!(watch.latest(), Some(record));
}

#[tokio::test]
async fn a_test_and_set_through_any_arbiter_alone_is_forwarded() {
    let cluster = Cluster::start(3);
    let me = member("a", 1);
    granted(&cluster.client(), proposal(1, &me, 0, create(&me))).await;
    for (epoch, address) in (1..).zip(cluster.addresses()) {
        let client = cutover_arbiter::client::ArbiterClient::new(cutover_arbiter::client::ClientOptions {
            arbiters: vec![address],
            ..Default::default()
        });
        let record = granted(&client, proposal(10 + u128::from(epoch), &me, epoch, Change::Resume)).await;
        assert_eq!(record.epoch, Epoch(epoch + 1));
        assert_eq!(client.read(&group(), PATIENCE).await.unwrap(), Some(record));
    }
}

#[tokio::test]
async fn answers_come_within_milliseconds() {
    let cluster = Cluster::start(3);
    let client = cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let mut times = Vec::new();
    for epoch in 1..30 {
        let began = std::time::Instant::now();
        granted(&client, proposal(10 + u128::from(epoch), &me, epoch, Change::Resume)).await;
        times.push(began.elapsed());
    }
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_millis(250), "{times:?}");
}
