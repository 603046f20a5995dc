//! `maxmemory`: what is counted, what is refused, and that only the primary's limit decides.

use std::time::Duration;

use super::harness::{Primary, chunks, restored};
use crate::machine::kv::command::CommandId;
use crate::machine::kv::value::Value;
use crate::machine::kv::{KeyValue, request};
use crate::machine::{Changes, Env, StateMachine as _, seeded};

const REFUSED: &str = "OOM command not allowed when used memory > 'maxmemory'.";

fn error(text: &str) -> Value {
    Value::Error(text.to_owned())
}

#[test]
fn commands_that_need_memory_are_refused_above_the_limit_and_those_that_free_some_are_not() {
    let mut primary = Primary::new(1);
    primary.call(&["SET", "a", "value"]);
    primary.call(&["RPUSH", "list", "1", "2", "3"]);
    primary.memory_limit = Some(primary.machine.memory() - 1);
    let before = chunks(&primary.machine, 1 << 20);
    for words in [
        &["SET", "a", ""][..],
        &["SET", "a"],
        &["SETRANGE", "a", "0", "b"],
        &["INCR", "n"],
        &["LPUSH", "list", "0"],
        &["HSET", "h", "f", "v"],
        &["ZADD", "z", "1", "m"],
        &["COPY", "a", "b"],
    ] {
        let expected = if words.len() == 2 && words[0] == "SET" {
            error("ERR wrong number of arguments for 'set' command")
        } else {
            error(REFUSED)
        };
        assert_eq!(primary.call(words), expected, "{words:?}");
    }
    assert_eq!(chunks(&primary.machine, 1 << 20), before, "a refusal changes nothing");
    assert_eq!(primary.call(&["GET", "a"]), Value::Bulk(b"value".to_vec()));
    assert_eq!(primary.call(&["RENAME", "a", "b"]), Value::Simple("OK".into()));
    assert_eq!(primary.call(&["EXPIRE", "b", "100"]), Value::Integer(1));
    assert_eq!(primary.call(&["LPOP", "list"]), Value::Bulk(b"1".to_vec()));
    assert_eq!(primary.call(&["DEL", "b"]), Value::Integer(1));
    assert_eq!(primary.call(&["SET", "a", "value"]), Value::Simple("OK".into()), "there is room again");
}

#[test]
fn a_limit_is_reached_exactly_and_not_before() {
    let mut primary = Primary::new(1);
    primary.call(&["SET", "a", "value"]);
    primary.memory_limit = Some(primary.machine.memory());
    assert_eq!(primary.call(&["SET", "b", "value"]), Value::Simple("OK".into()), "used memory is not above it yet");
    assert_eq!(primary.call(&["SET", "c", "value"]), error(REFUSED));
}

#[test]
fn replicas_with_other_limits_stay_equal() {
    let mut primary = Primary::new(7);
    for number in 0..200 {
        // The limit comes, goes and moves, as CONFIG SET would have it.
        primary.memory_limit = [None, Some(4000), Some(9000)][number % 3];
        primary.call(&["SET", &format!("key:{number}"), "some value"]);
        primary.call(&["SPOP", "set"]);
        primary.call(&["SADD", "set", "a", "b", "c"]);
    }
    let refused = primary.log.iter().filter(|applied| applied.reply.starts_with(b"-OOM")).count();
    assert!((1..400).contains(&refused), "{refused} were refused");
    for limit in [None, Some(0), Some(u64::MAX)] {
        let (mut backup, mut changes, mut garbage) = (KeyValue::new(), Changes::default(), Vec::new());
        for (index, applied) in primary.log.iter().enumerate() {
            let mut reply = Vec::new();
            let mut env = Env::replay(applied.now, index as u64 + 1, &applied.values, &mut changes, &mut garbage)
                .with_memory_limit(limit);
            match &applied.operation {
                Some(operation) => backup.apply(operation, &mut env, &mut reply),
                None => backup.genesis(&mut env),
            }
            env.finish().unwrap();
            assert_eq!(reply, applied.reply);
        }
        assert_eq!(changes, primary.changes);
        assert_eq!(backup.memory(), primary.machine.memory());
    }
}

#[test]
fn memory_is_a_sum_over_the_content_whatever_its_history() {
    let mut primary = Primary::new(3);
    let long = "x".repeat(1500);
    for words in [
        // A string that grew has more room than it needs; one that is renamed may fit into one piece with its key.
        &["APPEND", "grown", &long][..],
        &["APPEND", "grown", &long],
        &["SET", &"k".repeat(600), &"v".repeat(600)],
        &["RENAME", &"k".repeat(600), "short"],
        &["SETRANGE", "grown", "10", "abc"],
        &["SET", "due", "v", "PX", "100000"],
        &["PERSIST", "due"],
        &["EXPIRE", "short", "100"],
        &["RPUSH", "list", "a", &long, "b", "c", &long, "d", "e", "f"],
        &["LTRIM", "list", "0", "5"],
        &["LTRIM", "list", "4", "5"],
        &["SADD", "set", "a", "b", &long],
        &["SREM", "set", &long],
        &["HSET", "hash", "f", "1", "g", &long],
        &["HSET", "hash", "g", "2"],
        &["ZADD", "zset", "1", "a", "2", "b"],
        &["ZADD", "zset", "3", "a"],
        &["ZPOPMIN", "zset"],
    ] {
        let said = primary.call(words);
        assert!(!matches!(said, Value::Error(_)), "{words:?}: {said:?}");
        let again = restored(&chunks(&primary.machine, 100)).unwrap();
        assert_eq!(again.memory(), primary.machine.memory(), "after {words:?}");
    }
    assert!(primary.machine.memory() > 0);
    primary.call(&["FLUSHALL"]);
    assert_eq!(primary.machine.memory(), 0);
}

#[test]
fn the_commands_denied_are_those_of_redis() {
    let denied: Vec<&str> =
        CommandId::ALL.iter().map(|id| id.spec()).filter(|spec| spec.denied_without_memory).map(|s| s.name).collect();
    // From `COMMAND INFO` of Redis 7.0: those with the flag `denyoom` among the machine's commands.
    let redis = "APPEND COPY DECR DECRBY GETSET HMSET HSET INCR INCRBY INCRBYFLOAT LPUSH LSET MSET MSETNX PSETEX RPUSH \
                 SADD SET SETEX SETNX SETRANGE ZADD";
    assert_eq!(denied.join(" "), redis);
}

#[test]
fn garbage_in_a_captured_refusal_is_named() {
    // An entry that says it was refused, for a command that is never asked: the value is left over.
    let (mut machine, mut changes, mut garbage) = (KeyValue::new(), Changes::default(), Vec::new());
    let mut reply = Vec::new();
    let mut env = Env::replay(1, 1, b"M", &mut changes, &mut garbage);
    machine.apply(&request("DEL", &[b"k"]), &mut env, &mut reply);
    assert!(env.finish().is_err());
    let (mut random, mut values) = (seeded(1), Vec::new());
    let mut env = Env::capture_into(1, 1, &mut random, &mut values, &mut changes, &mut garbage);
    machine.apply(&request("SET", &[b"k", b"v"]), &mut env, &mut reply);
    env.finish().unwrap();
    assert!(values.is_empty(), "a machine without a limit captures nothing for it");
}

#[test]
fn what_lrem_leaves_of_a_list_is_the_same_however_many_it_takes_away() {
    for (length, every) in [(40, 2), (1_000, 100), (1_000, 8), (1_000, 7), (1_000, 2), (20_000, 1), (20_000, 3)] {
        let word = |at: usize| if at.is_multiple_of(every) { String::from("gone") } else { at.to_string() };
        let filled = |words: &[String]| {
            let mut primary = Primary::new(1);
            for part in words.chunks(5_000) {
                let words: Vec<&[u8]> = part.iter().map(String::as_bytes).collect();
                primary.call_bytes("RPUSH", &[&[&b"list"[..]], &words[..]].concat());
            }
            primary
        };
        let words: Vec<String> = (0..length).map(word).collect();
        let stay: Vec<String> = words.iter().filter(|word| *word != "gone").cloned().collect();
        let (mut primary, mut expected) = (filled(&words), filled(&stay));
        let gone = (length - stay.len()) as i64;
        assert_eq!(primary.call(&["LREM", "list", "0", "gone"]), Value::Integer(gone));
        assert_eq!(primary.call(&["LRANGE", "list", "0", "-1"]), expected.call(&["LRANGE", "list", "0", "-1"]));
        assert_eq!(primary.machine.memory(), expected.machine.memory());
        let again = restored(&chunks(&primary.machine, 1 << 20)).unwrap();
        assert_eq!(again.memory(), expected.machine.memory());
    }
}

#[test]
fn a_string_that_begins_far_out_costs_what_is_written_and_not_what_lies_before() {
    let busy = || {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Duration::from_nanos(stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
    };
    let end = 512 << 20;
    let mut primary = Primary::new(1);
    for before in [0, 5, 2 << 20] {
        primary.call_bytes("SET", &[b"far", &vec![b'a'; before]]);
        let start = busy();
        let reply = primary.call(&["SETRANGE", "far", &(end - 1).to_string(), "z"]);
        let took = busy() - start;
        assert_eq!(reply, Value::Integer(end));
        assert!(took < Duration::from_millis(60), "{took:?} beside {before} bytes");
        assert_eq!(primary.call(&["GETRANGE", "far", "536870909", "-1"]), Value::Bulk(b"\0\0z".to_vec()));
        let start = primary.call(&["GETRANGE", "far", "0", "4"]);
        assert_eq!(start, Value::Bulk(vec![if before > 0 { b'a' } else { 0 }; 5]));
    }
    assert_eq!(primary.call(&["SETRANGE", "near", "3", "ab"]), Value::Integer(5));
    assert_eq!(primary.call(&["SETRANGE", "near", "6", "c"]), Value::Integer(7));
    assert_eq!(primary.call(&["GET", "near"]), Value::Bulk(b"\0\0\0ab\0c".to_vec()));
}
