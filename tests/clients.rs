//! Clients of a running group: the client library, the `redis` crate, redis-cli and redis-benchmark.
//!
//! The last two are skipped, with a word on stderr, where they are not installed.

mod support;

use std::process::{Command, Output};
use std::time::Duration;

use cutover::client::{Client, ClientOptions, OperationError, Outcome, RequestOptions};
use cutover::machine::kv::request;
use cutover::machine::kv::value::{Value, parse};
use nix::sys::signal::Signal;
use support::group::SOON;
use support::{DevGroup, Options, runtime};

/// Operations on their way while a primary dies.
const IN_FLIGHT: usize = 64;

fn connect(group: &DevGroup, runtime: &tokio::runtime::Handle) -> Client {
    let options = ClientOptions { deadline: Duration::from_secs(60), ..ClientOptions::default() };
    runtime.block_on(Client::connect_with(group.arbiters(), &group.name(), options)).expect("a client")
}

#[test]
fn increments_under_way_while_primaries_die_are_each_executed_once() {
    let mut group = DevGroup::start(&Options { spares: 1, ..Options::default() });
    let runtime = runtime();
    let client = connect(&group, &runtime);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let before = group.wait_in_sync(2);
        let mut pending = runtime.block_on(submit(&client, IN_FLIGHT));
        // In flight before, during and after: the first answers must not be the last.
        group.kill(before.primary.replica.as_str(), Signal::SIGKILL);
        pending.extend(runtime.block_on(submit(&client, IN_FLIGHT)));
        answers.extend(runtime.block_on(async {
            let mut answers = Vec::new();
            for answer in pending {
                answers.push(answer.await.expect("every increment is answered, across the cut-over"));
            }
            answers
        }));
        group.wait_for_record("another primary", |record| record.primary.replica != before.primary.replica);
    }
    let counted: Vec<Value> = answers.iter().map(|reply| parse(&reply.bytes).expect("a reply")).collect();
    // Each exactly once and in the order of submission: the answers are 1, 2, 3, …
    let expected: Vec<Value> = (1..=4 * IN_FLIGHT as i64).map(Value::Integer).collect();
    assert_eq!(counted, expected);
    let value = runtime.block_on(client.read(request("GET", &[b"counter"]))).expect("a value");
    assert_eq!(parse(&value.bytes), Ok(Value::Bulk((4 * IN_FLIGHT).to_string().into_bytes())));
}

async fn submit(client: &Client, count: usize) -> Vec<cutover::client::Pending> {
    let mut pending = Vec::new();
    for _ in 0..count {
        let submitted = client.submit(request("INCR", &[b"counter"]), RequestOptions::default()).await;
        pending.push(submitted.expect("the window has room"));
    }
    pending
}

#[test]
fn the_outcome_of_an_operation_that_nobody_answered_can_be_asked_and_is_final() {
    let mut group = DevGroup::start(&Options::default());
    group.wait_in_sync(2);
    let runtime = runtime();
    let client = connect(&group, &runtime);
    runtime.block_on(client.execute(request("SET", &[b"key", b"before"]))).expect("an answer");
    let (primary, backup) = (group.primary(), group.backup());
    // Nobody can decide anything, so the operation stays without an answer.
    group.kill_arbiters(Signal::SIGSTOP);
    group.kill(&backup, Signal::SIGSTOP);
    let patient = RequestOptions { deadline: Some(Duration::from_millis(500)), ..RequestOptions::default() };
    let error = runtime.block_on(client.execute_with(request("SET", &[b"key", b"during"]), patient)).unwrap_err();
    let OperationError::Unknown { request: unknown, .. } = error else { panic!("{error}") };
    group.kill_arbiters(Signal::SIGCONT);
    group.kill(&backup, Signal::SIGCONT);
    let outcome = runtime.block_on(client.outcome(unknown)).expect("an outcome");
    let value = runtime.block_on(client.read(request("GET", &[b"key"]))).expect("a value");
    let is = match &outcome {
        Outcome::Executed { .. } => "during",
        Outcome::NotExecuted => "before",
        Outcome::Expired => panic!("the session is alive"),
    };
    assert_eq!(parse(&value.bytes), Ok(Value::Bulk(is.as_bytes().to_vec())), "{outcome:?} on {primary}");
    let again = runtime.block_on(client.outcome(unknown)).expect("an outcome");
    assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&outcome), "{outcome:?}, then {again:?}");
}

#[test]
fn the_redis_crate_finds_what_it_wrote_on_the_next_primary() {
    let mut group = DevGroup::start(&Options { restart_after: None, ..Options::default() });
    group.wait_in_sync(2);
    let (primary, backup) = (group.primary(), group.backup());
    let url = |name: &str| format!("redis://127.0.0.1:{}/", group.process(name).redis.expect("a port for Redis"));
    let (first, second) = (url(&primary), url(&backup));
    let runtime = runtime();
    runtime.block_on(async {
        let mut redis = connection(&first).await;
        let () = query(&mut redis, redis::cmd("SET").arg("key").arg("value")).await;
        let (counter, length): (i64, i64) = redis::pipe()
            .cmd("INCR")
            .arg("counter")
            .cmd("RPUSH")
            .arg("list")
            .arg(&["a", "b", "c"])
            .query_async(&mut redis)
            .await
            .expect("two answers");
        assert_eq!((counter, length), (1, 3));
        let missing: Option<String> = query(&mut redis, redis::cmd("GET").arg("missing")).await;
        assert_eq!(missing, None);
        let wrong: Result<i64, _> = redis::cmd("INCR").arg("list").query_async(&mut redis).await;
        assert!(wrong.is_err_and(|error| error.code() == Some("WRONGTYPE")));
        let mut other = connection(&second).await;
        let refused: Result<String, _> = redis::cmd("GET").arg("key").query_async(&mut other).await;
        assert!(refused.is_err_and(|error| error.code() == Some("READONLY")));
    });
    group.kill(&primary, Signal::SIGKILL);
    group.wait_in_sync(1);
    runtime.block_on(async {
        let mut redis = connection(&second).await;
        let value: String = query(&mut redis, redis::cmd("GET").arg("key")).await;
        let list: Vec<String> = query(&mut redis, redis::cmd("LRANGE").arg("list").arg(0).arg(-1)).await;
        assert_eq!((value.as_str(), list.concat().as_str()), ("value", "abc"));
    });
}

async fn connection(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).expect("an address");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

async fn query<T: redis::FromRedisValue>(redis: &mut redis::aio::MultiplexedConnection, command: &redis::Cmd) -> T {
    command.query_async(redis).await.expect("an answer")
}

/// Runs one of Redis' own programs; `None` where it is not installed.
fn run(program: &str, port: u16, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(["-p", &port.to_string()]).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn redis_own_programs_run_without_an_error() {
    let mut group = DevGroup::start(&Options::default());
    group.wait_in_sync(2);
    let port = group.process(&group.primary()).redis.expect("a port for Redis");
    let before = group.record().expect("a record");
    for (arguments, expected) in [
        (&["SET", "key", "value"][..], "OK\n"),
        (&["--no-raw", "GET", "key"], "\"value\"\n"),
        (&["-3", "--no-raw", "HSET", "hash", "a", "1", "b", "2"], "(integer) 2\n"),
        (&["PING"], "PONG\n"),
    ] {
        let Some(output) = run("redis-cli", port, arguments) else {
            eprintln!("skipped: redis-cli is not installed");
            break;
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}: {output:?}");
    }
    match run("redis-benchmark", port, &["-n", "2000", "-c", "20", "-P", "4", "-q"]) {
        None => eprintln!("skipped: redis-benchmark is not installed"),
        Some(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            assert!(!said.contains("ERR") && !said.to_lowercase().contains("error"), "{said}");
            assert!(said.contains("MSET") && said.contains("LRANGE_600"), "all default tests ran: {said}");
        }
    }
    group.verify();
    let healthy = group.wait_until("the same record", SOON, |group| group.record());
    assert_eq!(healthy.epoch, before.epoch, "load is no reason for a change");
}
