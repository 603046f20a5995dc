//! Partitions between arbiters, and between them and their callers, by proxies on every path.

use std::sync::Arc;
use std::time::Duration;

use cutover_arbiter::client::{ArbiterClient, ClientOptions};
use cutover_arbiter::record::{Change, Epoch};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::cluster::{Cluster, PATIENCE, create, granted, group, member, proposal};

/// Everything that is dialled passes one of these; a cut one closes what is open and turns new connections away.
struct Proxy {
    address: String,
    open: Arc<watch::Sender<bool>>,
}

impl Proxy {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::new(watch::Sender::new(true));
        let gate = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let (mut gate, target) = (gate.subscribe(), target.clone());
                tokio::spawn(async move {
                    let pass = async {
                        let mut to = TcpStream::connect(&target).await?;
                        copy_bidirectional(&mut from, &mut to).await
                    };
                    tokio::select! {
                        _ = gate.wait_for(|open| !open) => {}
                        _ = pass => {}
                    }
                });
            }
        });
        Self { address, open }
    }

    fn set(&self, open: bool) {
        self.open.send_replace(open);
    }
}

/// Three arbiters with a proxy for each direction between two of them.
struct Wired {
    cluster: Cluster,
    /// (from, to, proxy)
    paths: Vec<(u64, u64, Proxy)>,
}

impl Wired {
    async fn start() -> Self {
        let mut cluster = Cluster::start(3);
        (1..=3).for_each(|id| cluster.stop(id));
        let addresses = cluster.addresses();
        let mut paths = Vec::new();
        for from in 1..=3u64 {
            for to in (1..=3u64).filter(|to| *to != from) {
                let advertised = addresses[to as usize - 1].clone();
                let proxy = Proxy::to(advertised.clone()).await;
                cluster.options[from as usize - 1].routes.push((advertised, proxy.address.clone()));
                paths.push((from, to, proxy));
            }
        }
        (1..=3).for_each(|id| cluster.restart(id));
        Self { cluster, paths }
    }

    fn isolate(&self, id: u64) {
        self.paths.iter().filter(|(from, to, _)| *from == id || *to == id).for_each(|(_, _, path)| path.set(false));
    }

    fn mute(&self, id: u64) {
        self.paths.iter().filter(|(from, _, _)| *from == id).for_each(|(_, _, path)| path.set(false));
    }

    fn heal(&self) {
        self.paths.iter().for_each(|(_, _, path)| path.set(true));
    }

    fn client_of(&self, id: u64) -> ArbiterClient {
        let arbiters = vec![self.cluster.addresses()[id as usize - 1].clone()];
        ArbiterClient::new(ClientOptions { arbiters, ..ClientOptions::default() })
    }
}

#[tokio::test]
async fn f13_an_isolated_leader_answers_nothing_and_the_others_go_on() {
    let wired = Wired::start().await;
    let client = wired.cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let leader = wired.cluster.leader(&client).await;
    let alone = wired.client_of(leader);
    alone.read(&group(), PATIENCE).await.expect("before the partition");
    wired.isolate(leader);
    // A test-and-set through the whole client is answered by the others; the isolated one must never answer it.
    let lost = proposal(2, &me, 1, Change::Resume);
    let record = granted(&client, lost.clone()).await;
    assert_eq!(record.epoch, Epoch(2));
    alone.read(&group(), Duration::from_millis(800)).await.expect_err("R10: no majority confirms its leadership");
    wired.heal();
    assert_eq!(alone.read(&group(), PATIENCE).await.unwrap(), Some(record.clone()), "never the old record");
    assert_eq!(granted(&alone, lost).await, record, "the first answer");
}

#[tokio::test]
async fn f14_a_leader_that_hears_but_is_not_heard_is_replaced() {
    let wired = Wired::start().await;
    let client = wired.cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let leader = wired.cluster.leader(&client).await;
    wired.mute(leader);
    let record = granted(&client, proposal(2, &me, 1, Change::Resume)).await;
    assert_eq!(record.epoch, Epoch(2));
    wired.heal();
    assert_eq!(wired.client_of(leader).read(&group(), PATIENCE).await.unwrap(), Some(record));
}

#[tokio::test]
async fn f32_an_arbiter_that_was_away_catches_up_by_snapshot() {
    let mut cluster = Cluster::start_with(3, |options| options.snapshot_after_entries = 5);
    let client = cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let leader = cluster.leader(&client).await;
    let away = leader % 3 + 1;
    cluster.stop(away);
    for epoch in 1..50 {
        granted(&client, proposal(100 + u128::from(epoch), &me, epoch, Change::Resume)).await;
    }
    cluster.restart(away);
    let other = (1..=3).find(|id| *id != away && *id != leader).expect("three arbiters");
    // With the third one gone its vote and its log are needed.
    cluster.stop(other);
    let record = granted(&client, proposal(1000, &me, 50, Change::Resume)).await;
    let address = cluster.addresses()[away as usize - 1].clone();
    let direct = ArbiterClient::new(ClientOptions { arbiters: vec![address.clone()], ..ClientOptions::default() });
    assert_eq!(direct.read(&group(), PATIENCE).await.unwrap(), Some(record.clone()));
    let mut watch = direct.watch(group());
    let caught_up = async { while watch.changed().await != record {} };
    tokio::time::timeout(PATIENCE, caught_up).await.expect("its own registers hold the newest record");
}

/// Clients race for every epoch while arbiters come and go: S1 seen from outside.
#[tokio::test]
async fn s1_racing_proposers_with_leaders_lost_again_and_again() {
    let mut cluster = Cluster::start_with(3, |options| options.snapshot_after_entries = 10);
    let (a, b) = (member("a", 1), member("b", 2));
    let client = cluster.client();
    granted(&client, proposal(1, &a, 0, create(&a))).await;
    granted(&client, proposal(2, &a, 1, Change::Admit { member: b.clone() })).await;
    let mut request = 10;
    for round in 0..4u64 {
        let leader = cluster.leader(&client).await;
        let record = client.read(&group(), PATIENCE).await.unwrap().expect("the group is there");
        let mut racers = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (client, epoch, me) = (cluster.client(), record.epoch.0, record.primary.clone());
            request += 1;
            racers.spawn(async move {
                client
                    .test_and_set(proposal(request, &me, epoch, Change::Resume), PATIENCE)
                    .await
                    .expect("a majority runs")
            });
        }
        cluster.stop(leader);
        let answers = racers.join_all().await;
        let wins =
            answers.iter().filter(|answer| matches!(answer, cutover_arbiter::record::Answer::Granted(_))).count();
        assert_eq!(wins, 1, "round {round}: {answers:?}");
        cluster.restart(leader);
    }
    let history = client.history(&group(), PATIENCE).await.unwrap();
    let epochs: Vec<u64> = history.iter().map(|item| item.record.epoch.0).collect();
    assert_eq!(epochs, (1..=6).collect::<Vec<_>>());
}
