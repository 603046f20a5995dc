//! Random choices, and walks in an order that depends on the content alone.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::harness::Primary;
use crate::machine::StateMachine as _;
use crate::machine::kv::value::Value;
use crate::machine::kv::{KeyValue, request};

fn list(value: Value) -> Vec<String> {
    match value {
        Value::Array(values) | Value::Set(values) => values.into_iter().map(one).collect(),
        other => panic!("not a list: {other:?}"),
    }
}

fn one(value: Value) -> String {
    match value {
        Value::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("not a string: {other:?}"),
    }
}

#[test]
fn every_key_and_member_is_drawn_sooner_or_later() {
    let mut p = Primary::new(3);
    for at in 0..20 {
        p.call(&["SADD", "set", &format!("m{at}")]);
        p.call(&["SET", &format!("k{at}"), "v"]);
    }
    let keys: BTreeSet<String> = (0..1000).map(|_| one(p.call(&["RANDOMKEY"]))).collect();
    assert_eq!(keys.len(), 21);
    let members: BTreeSet<String> = (0..1000).map(|_| one(p.call(&["SRANDMEMBER", "set"]))).collect();
    assert_eq!(members.len(), 20);
    let some = list(p.call(&["SRANDMEMBER", "set", "7"]));
    assert_eq!((some.len(), some.iter().collect::<BTreeSet<_>>().len()), (7, 7));
    assert_eq!(list(p.call(&["SRANDMEMBER", "set", "-50"])).len(), 50);
    assert_eq!(list(p.call(&["SRANDMEMBER", "set", "50"])).len(), 20);
    let popped: BTreeSet<String> = list(p.call(&["SPOP", "set", "15"])).into_iter().collect();
    let left: BTreeSet<String> = list(p.call(&["SMEMBERS", "set"])).into_iter().collect();
    assert_eq!((popped.len(), left.len(), popped.union(&left).count()), (15, 5, 20));
    assert_eq!(list(p.call(&["SPOP", "set", "9"])).len(), 5);
    assert_eq!(p.call(&["EXISTS", "set"]), Value::Integer(0));
}

#[test]
fn a_scan_returns_what_is_there_throughout_whatever_else_changes() {
    let mut p = Primary::new(4);
    for at in 0..500 {
        p.call(&["SET", &format!("stays{at}"), "v"]);
    }
    let (mut cursor, mut seen, mut step) = ("0".to_owned(), BTreeSet::new(), 0);
    loop {
        let Value::Array(reply) = p.call(&["SCAN", &cursor, "COUNT", "7", "MATCH", "stays*"]) else { panic!() };
        let [next, keys] = <[Value; 2]>::try_from(reply).unwrap();
        seen.extend(list(keys));
        cursor = one(next);
        assert!(cursor.parse::<u64>().unwrap() < 1 << 53, "a client may keep the cursor in a double");
        if cursor == "0" {
            break;
        }
        for at in 0..10 {
            p.call(&["SET", &format!("new{step}-{at}"), "v"]);
            p.call(&["DEL", &format!("new{}-{at}", step / 2)]);
        }
        step += 1;
    }
    assert_eq!(seen.len(), 500);
}

#[test]
fn one_scan_call_looks_at_a_bounded_number_of_keys() {
    let mut p = Primary::new(4);
    for at in 0..3000 {
        p.call(&["SET", &format!("k{at}"), "v"]);
    }
    let Value::Array(reply) = p.call(&["SCAN", "0", "COUNT", "1000000"]) else { panic!() };
    let [next, keys] = <[Value; 2]>::try_from(reply).unwrap();
    assert_ne!(next, Value::Bulk(b"0".to_vec()));
    assert_eq!(list(keys).len(), 1000);
    assert_eq!(list(p.call(&["KEYS", "*"])).len(), 3000);
}

#[test]
fn large_answers_are_written_from_a_snapshot() {
    let mut p = Primary::new(5);
    for at in 0..11_000 {
        let at = at.to_string();
        p.call(&["RPUSH", "l", &at]);
        p.call(&["ZADD", "z", &at, &at]);
        p.call(&["HSET", "h", &at, &at]);
    }
    let operations =
        [request("LRANGE", &[b"l", b"0", b"-1"]), request("ZRANGE", &[b"z", b"0", b"-1"]), request("HGETALL", &[b"h"])];
    let mut random = crate::machine::seeded(1);
    let deferred: Vec<_> = operations
        .iter()
        .map(|operation| {
            let env = crate::machine::ReadEnv::new(p.now, &mut random);
            match p.machine.read(operation, &env, &mut Vec::new()) {
                crate::machine::ReadOutcome::Deferred(write) => write,
                crate::machine::ReadOutcome::Done => panic!("should be written elsewhere"),
            }
        })
        .collect();
    p.call(&["LTRIM", "l", "5", "6"]);
    p.call(&["DEL", "z"]);
    p.call(&["FLUSHALL"]);
    for write in deferred {
        let mut reply = Vec::new();
        std::thread::spawn(move || {
            write(&mut reply);
            match crate::machine::kv::value::parse(&reply).unwrap() {
                Value::Array(values) => assert_eq!(values.len(), 11_000),
                Value::Map(pairs) => assert_eq!(pairs.len(), 11_000),
                other => panic!("{other:?}"),
            }
        })
        .join()
        .unwrap();
    }
    assert!(p.garbage.len() >= 3, "what is large is dropped elsewhere");
    assert_eq!(p.machine.memory(), 0);
}

#[test]
fn what_takes_long_is_left_for_another_thread_and_what_does_not_is_not() {
    let mut p = Primary::new(7);
    let numbers: Vec<String> = (0..10_001).map(|at| at.to_string()).collect();
    let words: Vec<&[u8]> = numbers.iter().map(String::as_bytes).collect();
    p.call_bytes("SADD", &[&[&b"s"[..]], &words[..]].concat());
    let large = "x".repeat(20_000);
    for at in 0..100 {
        let at = at.to_string();
        p.call(&["SET", &at, &large]);
        p.call(&["HSET", "h", &at, &large]);
        p.call(&["RPUSH", "l", &large]);
        p.call(&["ZADD", "z", &at, &format!("{large}{at}")]);
    }
    // One byte more than is copied on the loop.
    let long = "x".repeat((1 << 20) + 1);
    p.call(&["SET", "long", &long]);
    p.call(&["HSET", "longs", "long", &long, "short", "x"]);
    p.call(&["RPUSH", "elements", "x", &long]);
    let hundred = &words[..100];
    let longest = "*a".repeat(10_000);
    p.call(&["SET", &"a".repeat(10_000), ""]);
    let cases: Vec<(bool, Vec<u8>)> = vec![
        (true, request("SRANDMEMBER", &[b"s", b"10001"])),
        (true, request("SRANDMEMBER", &[b"s", b"-1000000"])),
        (false, request("SRANDMEMBER", &[b"s", b"100"])),
        (true, request("MGET", &words)),
        (true, request("MGET", hundred)),
        (false, request("MGET", &hundred[..10])),
        (true, request("EXISTS", &words)),
        (true, request("HMGET", &[&[&b"h"[..]], hundred].concat())),
        (true, request("HGETALL", &[b"h"])),
        (true, request("LRANGE", &[b"l", b"0", b"-1"])),
        (false, request("LRANGE", &[b"l", b"0", b"9"])),
        (true, request("ZRANGE", &[b"z", b"0", b"-1"])),
        (true, request("KEYS", &[b"nothing"])),
        (true, request("SCAN", &[b"0", b"COUNT", b"1000", b"MATCH", longest.as_bytes()])),
        (false, request("SCAN", &[b"0", b"COUNT", b"1000", b"MATCH", b"*a*"])),
        (true, request("GET", &[b"long"])),
        (false, request("STRLEN", &[b"long"])),
        (true, request("MGET", &[b"0", b"long"])),
        (true, request("GETRANGE", &[b"long", b"0", b"-1"])),
        (false, request("GETRANGE", &[b"long", b"0", b"9"])),
        (true, request("HGET", &[b"longs", b"long"])),
        (true, request("HMGET", &[b"longs", b"long"])),
        (false, request("HGET", &[b"longs", b"short"])),
        (true, request("LINDEX", &[b"elements", b"1"])),
        (false, request("LINDEX", &[b"elements", b"0"])),
    ];
    let mut random = crate::machine::seeded(1);
    for (elsewhere, operation) in cases {
        let name = KeyValue::name(&operation);
        let mut reply = Vec::new();
        let env = crate::machine::ReadEnv::new(p.now, &mut random);
        match p.machine.read(&operation, &env, &mut reply) {
            crate::machine::ReadOutcome::Done => assert!(!elsewhere, "{name} was answered at once"),
            crate::machine::ReadOutcome::Deferred(write) => {
                assert!(elsewhere && reply.is_empty(), "{name} was left");
                write(&mut reply);
            }
        }
        assert!(!matches!(crate::machine::kv::value::parse(&reply).unwrap(), Value::Error(_)), "{name}");
    }
}

#[test]
fn more_than_the_loop_can_take_away_at_once_is_refused_and_changes_nothing() {
    let mut p = Primary::new(8);
    let numbers: Vec<String> = (0..132_000).map(|at| at.to_string()).collect();
    for part in numbers.chunks(10_000) {
        let words: Vec<&[u8]> = part.iter().map(String::as_bytes).collect();
        p.call_bytes("RPUSH", &[&[&b"l"[..]], &words[..]].concat());
        p.call_bytes("SADD", &[&[&b"s"[..]], &words[..]].concat());
    }
    let before = p.changes.state();
    for command in ["LPOP", "RPOP"] {
        assert!(matches!(p.call(&[command, "l", "10000000"]), Value::Error(_)));
    }
    assert!(matches!(p.call(&["SPOP", "s", "10000000"]), Value::Error(_)));
    assert_eq!(p.changes.state(), before);
    assert_eq!(list(p.call(&["SPOP", "s", "131072"])).len(), 131_072);
    assert_eq!(list(p.call(&["SPOP", "s", "10000000"])).len(), 132_000 - 131_072, "as many as there are");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_answered_with_one_reply_and_never_panics(
        number in 0..90u16,
        bytes in prop::collection::vec(prop_oneof![0..8u8, any::<u8>()], 0..60),
    ) {
        let mut p = Primary::new(6);
        p.call(&["SET", "", "v"]);
        let mut operation = number.to_le_bytes().to_vec();
        operation.extend(bytes);
        let _ = KeyValue::name(&operation);
        for reply in [p.apply(operation.clone()), p.read(&operation)] {
            prop_assert!(crate::machine::kv::value::parse(&reply).is_ok(), "{:?}", reply);
        }
    }
}
