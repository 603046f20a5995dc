//! A client that asks and does not read is disconnected once more than `max-output` waits for it: by name in the log,
//! with its memory given back, and nobody else notices. What it costs until then is bounded, however much it asks for.

mod support;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread;

use cutover::machine::kv::request;
use cutover::machine::kv::value::Value;
use cutover::protocol::client::{FromClient, ToClient};
use cutover_arbiter::record::GroupRecord;
use cutover_arbiter::wire::Port;
use support::frames::{CLOSED_WITHIN, frame, hear, listen};
use support::redis::{command, text};
use support::{DevGroup, Options};

const MAX_OUTPUT: usize = 4 << 20;
const MAX_IN_FLIGHT: usize = 1 << 20;
/// Of a client that does not read, asked at once: a gigabyte of the smaller value. A session may ask no more.
const QUESTIONS: u64 = 4000;
/// Answered by the loop itself, and by another thread, which is a way of its own to the same output.
const VALUES: [(&str, usize); 2] = [("answered at once", 256 << 10), ("answered elsewhere", 2 << 20)];
/// What the process may take besides those limits, in bytes: the reply in the making, what a session's reads keep, what
/// its allocator does not give back.
const BESIDES: usize = 40 << 20;

/// A group whose clients may leave little unread, with its values.
fn group() -> (DevGroup, GroupRecord, Vec<i32>) {
    let limits = ["--max-output", "4MiB", "--max-in-flight", "1MiB"];
    let replica_options = limits.map(String::from).to_vec();
    let mut group = DevGroup::start(&Options { replica_options, ..Options::default() });
    let record = group.wait_in_sync(2);
    let mut redis = group.redis(&group.primary());
    for (key, length) in VALUES {
        redis.must(&["SET", key, &"x".repeat(length)]);
    }
    let pids = group.process_ids();
    (group, record, pids)
}

/// The most memory that a process ever had, in bytes.
fn peak(pid: i32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of ours");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// Has a connection ask for a value again and again and read nothing, beside a client that reads.
fn leave_unread(group: &mut DevGroup, (key, length): (&str, usize), mut stream: TcpStream, questions: Vec<u8>) {
    let primary = group.primary();
    let pid = group.process(&primary).pid;
    let (before, address) = (peak(pid), stream.local_addr().expect("it is connected").to_string());
    let mut other = group.redis(&primary);
    let counter = format!("asked beside {address}");
    let mut asked = 0;

    let mut writer = stream.try_clone().expect("a second handle on a socket");
    // It is closed before it has said everything.
    let writing = thread::spawn(move || writer.write_all(&questions).is_ok());
    let closed = group.wait_until("the end of a client that does not read", CLOSED_WITHIN, |group| {
        asked += 1;
        assert_eq!(other.must(&["INCR", &counter]), Value::Integer(asked));
        assert!(other.must(&["GET", key]) == text(&"x".repeat(length)));
        let closed = group.told("client.slow").into_iter().find(|line| line["client"] == *address);
        closed.ok_or_else(|| format!("{} bytes at most", peak(pid)))
    });
    let unread = closed["bytes"].as_u64().expect("how much it left") as usize;
    assert!(unread > MAX_OUTPUT && unread <= MAX_OUTPUT + 2 * (MAX_IN_FLIGHT + length), "{closed}");
    assert_eq!(closed["level"], "WARN");
    let took = peak(pid) - before;
    assert!(took < MAX_OUTPUT + MAX_IN_FLIGHT + BESIDES, "{key}: {took} bytes for one that does not read");
    let heard = listen(&mut stream).len();
    assert!(heard < QUESTIONS as usize * length, "{heard} bytes are everything that it asked for");
    writing.join().expect("no panic");

    // Who reads is never closed, however much that is in the course of time.
    for _ in 0..MAX_OUTPUT / length + 1 {
        assert!(other.must(&["GET", key]) == text(&"x".repeat(length)));
    }
    assert_eq!(other.must(&["GET", &counter]), text(&asked.to_string()));
    group.wait_until("its memory back", CLOSED_WITHIN, |group| match group.status(&primary)? {
        status if status.client_bytes == 0 => Ok(()),
        status => Err(format!("{status:#?}")),
    });
}

/// It reads as fast as it can, and yet there is more than that to read at first.
#[test]
fn a_client_is_told_what_is_longer_than_it_may_leave_unread() {
    let (group, record, pids) = group();
    let mut redis = group.redis(&group.primary());
    let (part, parts) = ("x".repeat(MAX_OUTPUT), 4);
    for length in (1..=parts).map(|parts| parts * MAX_OUTPUT) {
        assert_eq!(redis.must(&["APPEND", "long", &part]), Value::Integer(length as i64));
    }
    for _ in 0..2 {
        assert!(redis.must(&["GET", "long"]) == text(&part.repeat(parts)));
    }
    group.unharmed(&record, &pids);
}

#[test]
fn a_redis_client_that_does_not_read_is_closed_and_nobody_else_notices() {
    let (mut group, record, pids) = group();
    let port = group.process(&group.primary()).redis.expect("a port for Redis");
    for value in VALUES {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        leave_unread(&mut group, value, stream, command(&["GET", value.0]).repeat(QUESTIONS as usize));
    }
    group.unharmed(&record, &pids);
}

#[test]
fn a_client_of_the_library_that_does_not_read_is_closed_and_nobody_else_notices() {
    let (mut group, record, pids) = group();
    let port = group.process(&group.primary()).client.expect("a port for clients");
    for value in VALUES {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let hello = FromClient::Hello {
            group: record.group.clone(),
            name: String::from("does not read"),
            machine: None,
            session: None,
            oldest_unanswered: 1,
            record: None,
        };
        stream.write_all(&frame(Port::Client, &hello)).expect("it fits");
        assert!(matches!(hear(&mut stream), ToClient::Welcome { .. }));
        stream.write_all(&frame(Port::Client, &FromClient::Open { timeout_ms: 60_000 })).expect("it fits");
        assert!(matches!(hear(&mut stream), ToClient::Opened { .. }));
        let question = |sequence| FromClient::Request {
            sequence,
            lowest_unanswered: 1,
            write: false,
            operation: request("GET", &[value.0.as_bytes()]).into(),
        };
        let questions = (1..=QUESTIONS).flat_map(|sequence| frame(Port::Client, &question(sequence))).collect();
        leave_unread(&mut group, value, stream, questions);
    }
    group.unharmed(&record, &pids);
}
