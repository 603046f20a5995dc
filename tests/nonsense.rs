//! Nonsense on every port of a running group: it is refused by name, its connection ends, and nobody else notices.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use cutover::machine::kv::KeyValue;
use cutover::machine::{Identity, StateMachine as _};
use cutover::protocol::SessionId;
use cutover::protocol::client::{FromClient, Refusal, ToClient};
use cutover::protocol::peer::{self, Held, Hello, PeerControl, PeerMessage, PeerRefusal, Purpose};
use cutover_arbiter::record::{Epoch, GroupId, GroupRecord, Incarnation, Member};
use cutover_arbiter::wire::{HEAD, Port};
use support::frames::{CLOSED_WITHIN, body, frame, hear, listen};
use support::group::{get, names};
use support::{DevGroup, Options};

struct Ports {
    peer: u16,
    client: u16,
    redis: u16,
    http: u16,
    arbiter: u16,
}

fn ports(group: &DevGroup) -> Ports {
    let (primary, arbiter) = (group.process(&group.primary()), group.process("a1"));
    Ports {
        peer: primary.peer.expect("a port for replicas"),
        client: primary.client.expect("a port for clients"),
        redis: primary.redis.expect("a port for Redis"),
        http: primary.http.expect("a port for http"),
        arbiter: arbiter.peer.expect("a port of the arbiter"),
    }
}

/// Says this and gives all that is answered until the other side closes, which it must.
fn say(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    // What closes early may not want to hear it all.
    let _ = stream.write_all(bytes);
    listen(&mut stream)
}

fn changed(mut bytes: Vec<u8>, at: usize, to: &[u8]) -> Vec<u8> {
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

fn group() -> (DevGroup, GroupRecord, Vec<i32>) {
    let replica_options = ["--handshake-timeout", "500ms"].map(String::from).to_vec();
    let mut group = DevGroup::start(&Options { replica_options, ..Options::default() });
    let record = group.wait_in_sync(2);
    let pids = group.process_ids();
    (group, record, pids)
}

#[test]
fn nonsense_on_the_ports_of_frames_is_refused_by_name() {
    let (mut group, record, pids) = group();
    let ports = ports(&group);
    // Said first, because it takes its time: nothing at all, and half a frame.
    let mut silent: Vec<TcpStream> = Vec::new();
    for (port, kind) in [(ports.peer, Port::Peer), (ports.client, Port::Client), (ports.arbiter, Port::Arbiter)] {
        for said in [Vec::new(), frame(kind, &"a body")[..HEAD + 2].to_vec()] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
            stream.write_all(&said).expect("a few bytes fit");
            silent.push(stream);
        }
    }
    for said in [&b""[..], b"GET /stat"] {
        let mut stream = TcpStream::connect(("127.0.0.1", ports.http)).expect("a connection");
        stream.write_all(said).expect("a few bytes fit");
        silent.push(stream);
    }
    let others = [Port::Client, Port::Arbiter, Port::Peer];
    for ((port, kind), other) in
        [(ports.peer, Port::Peer), (ports.client, Port::Client), (ports.arbiter, Port::Arbiter)].into_iter().zip(others)
    {
        let good = frame(kind, &"this is no message of that port, however well it is framed");
        for nonsense in [
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            vec![0xff; 5000],
            changed(good.clone(), 0, &u32::MAX.to_le_bytes()),
            changed(good.clone(), 10, &[99]),
            changed(good.clone(), HEAD + 5, b"?"),
            frame(other, &"a message for another port"),
            good,
        ] {
            say(port, &nonsense);
        }
    }
    for stream in &mut silent {
        listen(stream);
    }
    for told in [
        "is another protocol talking to this port?",
        "over the limit",
        "protocol version 99, but this side speaks version",
        "it was damaged on the way",
        "a frame for the client port reached the peer port",
        "a frame for the arbiter port reached the client port",
        "a frame for the peer port reached the arbiter port",
        "is not a message this side knows",
    ] {
        group.wait_until(told, CLOSED_WITHIN, |group| {
            if group.logs().contains(told) { Ok(()) } else { Err(String::from("it is in no log")) }
        });
    }
    group.unharmed(&record, &pids);
}

fn hello(record: &GroupRecord, change: impl FnOnce(&mut Hello)) -> Vec<u8> {
    let mut hello = Hello {
        machine: KeyValue::identity(),
        group: record.group.clone(),
        group_id: Some(record.group_id),
        from: Member {
            replica: "stranger".parse().expect("a name"),
            incarnation: Incarnation(1),
            addresses: record.primary.addresses.clone(),
        },
        epoch: record.epoch,
        record: None,
        purpose: Purpose::Follow { held: Held::default(), resume: None },
    };
    change(&mut hello);
    let mut out = BytesMut::new();
    peer::encode(&PeerMessage::Control(PeerControl::Hello(Box::new(hello))), &mut out);
    out.to_vec()
}

fn refusal(answer: &[u8]) -> PeerRefusal {
    match peer::decode(&body(Port::Peer, answer)) {
        Ok(PeerMessage::Control(PeerControl::Refuse { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

/// Whether a refusal is the one that is due.
type Expected = fn(&PeerRefusal) -> bool;

#[test]
fn replicas_that_do_not_belong_are_told_why_and_change_nothing() {
    let (group, record, pids) = group();
    let ports = ports(&group);
    let (primary, backup) = (record.primary.clone(), group.process(&group.backup()));
    let machine = Identity { name: String::from("other"), version: 7 };
    let cases: [(Vec<u8>, Expected); 4] = [
        (hello(&record, |hello| hello.group = "else".parse().expect("a name")), |why| {
            matches!(why, PeerRefusal::WrongGroup(_))
        }),
        (hello(&record, |hello| hello.group_id = Some(GroupId(7))), |why| matches!(why, PeerRefusal::WrongGroupId(_))),
        (hello(&record, |hello| hello.machine = machine), |why| matches!(why, PeerRefusal::WrongMachine(_))),
        (hello(&record, |hello| hello.from.replica = primary.replica.clone()), |why| {
            matches!(why, PeerRefusal::NameTaken)
        }),
    ];
    for (said, expected) in cases {
        let why = refusal(&say(ports.peer, &said));
        assert!(expected(&why), "{why:?}");
    }
    // A backup takes no followers.
    let why = refusal(&say(backup.peer.expect("a port for replicas"), &hello(&record, |_| ())));
    assert_eq!(why, PeerRefusal::NotPrimary);
    group.unharmed(&record, &pids);
}

#[test]
fn another_life_of_a_backup_costs_the_group_nothing_but_a_moment() {
    let (mut group, record, _) = group();
    let backup = record.in_sync.iter().find(|member| **member != record.primary).expect("a backup").clone();
    let said = hello(&record, |hello| {
        hello.from = Member { incarnation: Incarnation(1), ..backup };
    });
    // It is taken in (a replica that lost its memory says the same), given the state, and gone again.
    let mut stream = TcpStream::connect(("127.0.0.1", ports(&group).peer)).expect("a connection");
    stream.write_all(&said).expect("a few bytes fit");
    let mut some = [0; HEAD];
    stream.set_read_timeout(Some(CLOSED_WITHIN)).expect("a socket takes a time-out");
    stream.read_exact(&mut some).expect("a welcome");
    drop(stream);
    group.redis(&group.primary()).must(&["SET", "key", "value"]);
    let after = group.wait_in_sync(2);
    assert_eq!((&after.primary, names(&after)), (&record.primary, names(&record)));
    group.verify();
}

#[test]
fn clients_that_do_not_belong_are_told_why_and_change_nothing() {
    let (group, record, pids) = group();
    let ports = ports(&group);
    let hello = |group: &str, session| FromClient::Hello {
        group: group.parse().expect("a name"),
        name: "x".repeat(10_000),
        machine: None,
        session,
        oldest_unanswered: 1,
        record: None,
    };
    let operation = FromClient::Request {
        sequence: 1,
        lowest_unanswered: 1,
        write: true,
        operation: b"no operation of the machine"[..].into(),
    };
    // Another group, a request before the handshake: closed without an answer.
    assert_eq!(say(ports.client, &frame(Port::Client, &hello("else", None))), b"");
    assert_eq!(say(ports.client, &frame(Port::Client, &operation)), b"");
    let unborn = SessionId { epoch: Epoch(1), index: u64::MAX };
    for (session, expected) in [(None, Refusal::NoSession), (Some(unborn), Refusal::SessionExpired)] {
        let mut stream = TcpStream::connect(("127.0.0.1", ports.client)).expect("a connection");
        stream.write_all(&frame(Port::Client, &hello(record.group.as_str(), session))).expect("it fits");
        stream.write_all(&frame(Port::Client, &operation)).expect("it fits");
        let welcome = hear(&mut stream);
        assert!(matches!(welcome, ToClient::Welcome { .. }) || session.is_some(), "{welcome:?}");
        let answer = if session.is_some() { welcome } else { hear(&mut stream) };
        assert!(matches!(&answer, ToClient::Refused { reason, .. } if *reason == expected), "{answer:?}");
    }
    group.unharmed(&record, &pids);
}

#[test]
fn nonsense_in_redis_and_http_is_answered_as_their_clients_expect() {
    let (group, record, pids) = group();
    let ports = ports(&group);
    for nonsense in [
        &b"*1000000000\r\n"[..],
        b"*1\r\n$999999999999\r\n",
        b"*1\r\n:5\r\n",
        b"*x\r\n",
        b"SET \"unbalanced\r\n",
        &[b'x'; 100_000],
    ] {
        let answer = say(ports.redis, nonsense);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("-ERR Protocol error"), "{:?} got {answer:?}", String::from_utf8_lossy(nonsense));
    }
    let answer = say(ports.redis, b"NOSUCH command\r\nSET\r\nGET a b\r\nQUIT\r\n");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("-ERR unknown command 'NOSUCH'"), "{answer}");
    assert!(answer.matches("wrong number of arguments").count() == 2 && answer.ends_with("+OK\r\n"), "{answer}");

    let address = format!("127.0.0.1:{}", ports.http);
    for (path, expected) in [("/nowhere", "404"), ("/digest?index=x", "400"), ("/switchover", "405"), ("/livez", "200")]
    {
        let answer = get(&address, path).expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{path}: {answer}");
    }
    for nonsense in [&b"\x00\x01\x02\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", &[b'x'; 200_000]] {
        let answer = say(ports.http, nonsense);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    group.unharmed(&record, &pids);
}

#[test]
fn a_crowd_on_a_http_port_that_says_half_or_never_reads_gives_way_to_a_health_check() {
    /// More than the port has places.
    const CROWD: usize = 300;
    /// What one that holds on may take, twice: there are not places for all at once.
    const BOUND: Duration = Duration::from_secs(12);
    let (group, record, pids) = group();
    let arbiter = group.process("a1").http.expect("a port for http");
    let never_read = b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n".repeat(2000);
    for port in [ports(&group).http, arbiter] {
        for said in [&b"GET /livez HTTP/1.1\r\nhost: te"[..], &never_read] {
            let crowd: Vec<TcpStream> = (0..CROWD)
                .map(|_| {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
                    stream.write_all(said).expect("the kernel takes it");
                    stream
                })
                .collect();
            let start = Instant::now();
            let mut answer = Err(ErrorKind::NotConnected.into());
            while start.elapsed() < BOUND && answer.is_err() {
                answer = get(&format!("127.0.0.1:{port}"), "/livez");
            }
            let answer = answer.expect("an answer within the bound");
            assert!(answer.starts_with("HTTP/1.1 200"), "{port}: {answer}");
            drop(crowd);
        }
    }
    group.unharmed(&record, &pids);
}

/// A socket of this machine, as the kernel lists it.
struct Socket {
    port: u16,
    loopback: bool,
    listens: bool,
    /// Some timer runs; on an idle connection that can only be keepalive.
    timed: bool,
}

/// Every listening or connected IPv4 socket.
fn sockets() -> Vec<Socket> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of sockets");
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let listens = match *fields.get(3)? {
            "0A" => true,
            "01" => false,
            _ => return None,
        };
        let port = u16::from_str_radix(port, 16).ok()?;
        let timed = !fields.get(5)?.starts_with("00:");
        Some(Socket { port, loopback: address == "0100007F", listens, timed })
    };
    table.lines().skip(1).filter_map(socket).collect()
}

#[test]
fn ports_are_on_loopback_and_idle_connections_are_kept_alive() {
    let (mut group, record, pids) = group();
    let all = group.processes().into_iter();
    let ports: Vec<u16> =
        all.flat_map(|process| [process.peer, process.client, process.redis, process.http]).flatten().collect();
    for port in &ports {
        let listening = sockets().into_iter().filter(|socket| socket.listens && socket.port == *port);
        assert!(listening.map(|socket| socket.loopback).eq([true]), "port {port}");
    }
    // Someone at each port who then says nothing more; between replicas and arbiters there are connections already.
    let ports = self::ports(&group);
    let redis = group.redis(&group.primary());
    let mut client = TcpStream::connect(("127.0.0.1", ports.client)).expect("a connection");
    let hello = FromClient::Hello {
        group: record.group.clone(),
        name: String::from("idle"),
        machine: None,
        session: None,
        oldest_unanswered: 1,
        record: None,
    };
    client.write_all(&frame(Port::Client, &hello)).expect("it fits");
    assert!(matches!(hear(&mut client), ToClient::Welcome { .. }));
    for port in [ports.peer, ports.client, ports.redis, ports.arbiter] {
        group.wait_until("keepalive", CLOSED_WITHIN, |_| {
            let open: Vec<bool> = sockets()
                .into_iter()
                .filter(|socket| !socket.listens && socket.port == port)
                .map(|socket| socket.timed)
                .collect();
            if !open.is_empty() && open.iter().all(|timed| *timed) {
                Ok(())
            } else {
                Err(format!("port {port}: {open:?}"))
            }
        });
    }
    drop((redis, client));
    group.unharmed(&record, &pids);
}

#[test]
fn whoever_cannot_start_says_why_and_harms_nobody() {
    let (group, record, pids) = group();
    let ports = ports(&group);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let data = elsewhere.path().to_str().expect("a path of text");
    let (redis, arbiters) = (ports.redis.to_string(), group.arbiters().join(","));
    let free = [ports.peer + 9, ports.client + 9, ports.http + 9].map(|port| port.to_string());
    let free = ["--peer-port", &free[0], "--client-port", &free[1], "--http-port", &free[2]];
    let taken = ["replica", "--name", "x", "--group", "demo", "--arbiters", &arbiters, "--data", data, "--redis-port"];
    let output = group.cutover(&[&taken[..], &[redis.as_str()], &free].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&redis) && said.contains("in use"), "{output:?}");
    let address = group.arbiters()[0].clone();
    let peers = format!("1={address}");
    let output = group.cutover(&["arbiter", "--id", "1", "--peers", &peers, "--data", data]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&address) && said.contains("in use"), "{output:?}");
    let two = format!("1={address},2=127.0.0.1:1");
    let output = group.cutover(&["arbiter", "--id", "1", "--peers", &two, "--data", data]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("an even number is refused"), "{output:?}");
    group.unharmed(&record, &pids);
}
