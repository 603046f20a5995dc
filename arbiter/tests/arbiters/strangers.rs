//! What comes in from outside and is not what it should be ends its own connection, and nothing else happens.

use std::time::Duration;

use crate::cluster::{Cluster, PATIENCE, create, granted, group, member, proposal};
use bytes::BytesMut;
use cutover_arbiter::client::{ArbiterClient, ClientOptions};
use cutover_arbiter::net::receive;
use cutover_arbiter::protocol::{FromArbiter, PROTOCOL, Question, Reply, ToArbiter};
use cutover_arbiter::record::{Change, GroupRecord};
use cutover_arbiter::server::{Options, ServeError, Server};
use cutover_arbiter::wire::{DEFAULT_LIMIT, FrameDecoder, Port, encode_frame};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

fn framed(port: Port, message: &impl Serialize) -> BytesMut {
    let mut frame = BytesMut::new();
    encode_frame(&mut frame, port, message);
    frame
}

/// Sends `bytes` and reads until the arbiter closes.
async fn rejected(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let closed = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    // A reset closes it, too: unread bytes were left behind.
    drop(closed);
    answer
}

fn hello(name: &str) -> ToArbiter {
    ToArbiter::Hello { protocol: PROTOCOL, name: name.to_owned() }
}

#[tokio::test]
async fn f20_garbage_ends_its_own_connection_only() {
    let cluster = Cluster::start(3);
    let client = cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let mut cut = framed(Port::Arbiter, &hello("cut"));
    cut.truncate(14);
    let mut flipped = framed(Port::Arbiter, &hello("flipped"));
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let mut newer = framed(Port::Arbiter, &hello("newer"));
    newer[10] = 99;
    let mut huge = framed(Port::Arbiter, &hello("huge"));
    huge[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let garbage: Vec<BytesMut> = vec![
        BytesMut::from(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]),
        BytesMut::from(&b"*1\r\n$4\r\nPING\r\n"[..]),
        BytesMut::from(&[0xff; 4096][..]),
        flipped,
        newer,
        huge,
        framed(Port::Peer, &hello("a replica's peer port")),
        framed(Port::Raft, &vec![7u64; 9]),
        framed(Port::Arbiter, &ToArbiter::Watch(group())),
    ];
    for address in cluster.addresses() {
        for bytes in &garbage {
            rejected(&address, bytes).await;
        }
        // Cut in mid-frame by the caller.
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(&cut).await.unwrap();
    }
    granted(&client, proposal(2, &me, 1, Change::Resume)).await;
}

#[tokio::test]
async fn f36_another_version_is_turned_away_with_the_reason() {
    let cluster = Cluster::start(1);
    let old = ToArbiter::Hello { protocol: PROTOCOL + 1, name: String::from("newer") };
    let answer = rejected(&cluster.addresses()[0], &framed(Port::Arbiter, &old)).await;
    let mut answer = BytesMut::from(&answer[..]);
    let body = FrameDecoder::new(Port::Arbiter, DEFAULT_LIMIT).decode(&mut answer).unwrap().expect("a whole frame");
    match cutover_arbiter::wire::decode_body::<FromArbiter>(&body).unwrap() {
        FromArbiter::NotWelcome { reason } => assert!(reason.contains("upgrade"), "{reason}"),
        other => panic!("expected a reason, got {other:?}"),
    }
}

#[tokio::test]
async fn a_caller_that_never_says_who_it_is_is_closed() {
    let cluster = Cluster::start_with(1, |options| options.handshake_timeout = Duration::from_millis(50));
    assert!(rejected(&cluster.addresses()[0], b"").await.is_empty());
}

#[tokio::test]
async fn callers_over_the_limit_are_told_and_places_come_back() {
    let cluster = Cluster::start_with(1, |options| options.max_connections = 1);
    let client = cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let answer = rejected(&cluster.addresses()[0], &framed(Port::Arbiter, &hello("second"))).await;
    assert!(String::from_utf8_lossy(&answer).contains("max_connections"));
    drop(client);
    // The client pauses between its attempts until the first one's place is free.
    granted(&cluster.client(), proposal(2, &me, 1, Change::Resume)).await;
}

#[tokio::test]
async fn l6_a_watcher_that_does_not_read_is_owed_the_latest_record_only() {
    let cluster = Cluster::start(1);
    let client = cluster.client();
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let mut slow = TcpStream::connect(&cluster.addresses()[0]).await.unwrap();
    slow.write_all(&framed(Port::Arbiter, &hello("slow"))).await.unwrap();
    slow.write_all(&framed(Port::Arbiter, &ToArbiter::Watch(group()))).await.unwrap();
    let mut last: Option<GroupRecord> = None;
    for epoch in 1..300 {
        last = Some(granted(&client, proposal(10 + u128::from(epoch), &me, epoch, Change::Resume)).await);
    }
    let decoder = FrameDecoder::new(Port::Arbiter, DEFAULT_LIMIT);
    let (mut input, mut epochs) = (BytesMut::new(), Vec::new());
    let newest = async {
        loop {
            match receive(&mut slow, &mut input, &decoder).await.expect("it is still served") {
                FromArbiter::Record(record) if Some(&record) == last.as_ref() => return,
                FromArbiter::Record(record) => epochs.push(record.epoch),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, newest).await.expect("the newest record arrives");
    assert!(epochs.is_sorted(), "{epochs:?}");
}

#[tokio::test]
async fn a_caller_that_asks_without_end_is_told_to_retry() {
    let cluster = Cluster::start_with(3, |options| options.http = None);
    let client = cluster.client();
    cluster.leader(&client).await;
    let mut greedy = TcpStream::connect(&cluster.addresses()[0]).await.unwrap();
    let mut out = framed(Port::Arbiter, &hello("greedy"));
    let asked = 2_000u64;
    for id in 0..asked {
        out.unsplit(framed(Port::Arbiter, &ToArbiter::Ask { id, question: Question::Groups }));
    }
    greedy.write_all(&out).await.unwrap();
    let decoder = FrameDecoder::new(Port::Arbiter, DEFAULT_LIMIT);
    let mut input = BytesMut::new();
    let mut replied = 0;
    while replied < asked {
        let message =
            timeout(PATIENCE, receive(&mut greedy, &mut input, &decoder)).await.expect("every question is replied to");
        if let FromArbiter::Reply { reply: Reply::Groups(_) | Reply::Retry { .. }, .. } = message.expect("served") {
            replied += 1;
        }
    }
    client.groups(PATIENCE).await.expect("nobody else is affected");
}

#[tokio::test]
async fn a_silent_or_absent_arbiter_costs_one_hedge_and_no_more() {
    let cluster = Cluster::start(1);
    // Accepts in the kernel and never says a word, as a stopped process does; and one that is not there at all.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let absent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let arbiters = vec![absent.to_string(), silent.local_addr().unwrap().to_string(), cluster.addresses()[0].clone()];
    cluster.leader(&cluster.client()).await;
    let client = ArbiterClient::new(ClientOptions { arbiters, ..ClientOptions::default() });
    let me = member("a", 1);
    let began = std::time::Instant::now();
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let took = began.elapsed();
    assert!(took < Duration::from_millis(900), "{took:?}: less than the silent one's attempt timeout");
}

#[tokio::test]
async fn routes_are_dialled_instead_of_what_is_advertised() {
    let cluster = Cluster::start(1);
    let advertised = String::from("arbiter-1.example:7000");
    let client = ArbiterClient::new(ClientOptions {
        arbiters: vec![advertised.clone()],
        routes: vec![(advertised, cluster.addresses()[0].clone())],
        ..ClientOptions::default()
    });
    assert_eq!(client.groups(PATIENCE).await.unwrap(), vec![]);
}

#[tokio::test]
async fn the_http_port_tells_health_status_and_metrics() {
    let cluster = Cluster::start(3);
    let client = cluster.client();
    let leader = cluster.leader(&client).await;
    let me = member("a", 1);
    granted(&client, proposal(1, &me, 0, create(&me))).await;
    let http = cluster.running[leader as usize - 1].as_ref().unwrap().http.expect("an http port");
    for (path, expected) in [
        ("/livez", "200 OK"),
        ("/readyz", "leads"),
        ("/status", "\"role\": \"leader\""),
        ("/metrics", "cutover_arbiter_leading 1"),
        ("/metrics", "answer=\"granted\""),
        ("/other", "404"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: arbiter\r\n\r\n");
        let answer = String::from_utf8(rejected(&http.to_string(), request.as_bytes()).await).unwrap();
        assert!(answer.contains(expected), "{path}: {answer}");
    }
}

fn single() -> (tempfile::TempDir, Options) {
    let directory = tempfile::TempDir::new().unwrap();
    let options = Options {
        id: 1,
        listen: String::from("127.0.0.1:0"),
        peers: vec![(1, String::from("127.0.0.1:7000"))],
        data_dir: directory.path().join("data"),
        ..Options::default()
    };
    (directory, options)
}

#[tokio::test]
async fn what_cannot_start_says_what_to_do() {
    let (_directory, options) = single();
    let even = Options { peers: vec![(1, String::from("a:1")), (2, String::from("b:1"))], ..options.clone() };
    let error = Server::bind(even).await.expect_err("an even number");
    assert!(error.to_string().contains("survives no more failures"), "{error}");
    let error = Server::bind(Options { peers: vec![(1, String::from("nowhere"))], ..options.clone() }).await;
    assert!(error.expect_err("no port").to_string().contains("host:port"));
    let running = Server::bind(options.clone()).await.unwrap();
    let taken = Options { listen: running.address().unwrap().to_string(), ..options.clone() };
    let error = Server::bind(taken).await.expect_err("the address is taken");
    assert!(matches!(error, ServeError::Listen { .. }) && error.to_string().contains("another process"), "{error}");
    let error = Server::bind(options.clone()).await.expect_err("the store is in use");
    assert!(matches!(error, ServeError::Store(_)) && error.to_string().contains("open in another process"), "{error}");
    drop(running);
    let renamed = Options { id: 2, peers: vec![(2, String::from("127.0.0.1:7000"))], ..options.clone() };
    let error = Server::bind(renamed).await.expect_err("another arbiter's store");
    assert!(error.to_string().contains("belongs to arbiter 1"), "{error}");
}

#[tokio::test]
async fn d4_a_damaged_store_is_not_started_from() {
    let (_directory, options) = single();
    drop(Server::bind(options.clone()).await.unwrap());
    let store = options.data_dir.join("arbiter.redb");
    let length = std::fs::metadata(&store).unwrap().len() as usize;
    std::fs::write(&store, vec![0x5a; length]).unwrap();
    let error = match Server::bind(options).await {
        Ok(server) => server.run(std::future::pending()).await.expect_err("damaged"),
        Err(error) => error,
    };
    assert!(error.to_string().contains("damaged"), "{error}");
}
