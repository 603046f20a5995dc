//! Deadlines under a group clock that the test moves.

use super::harness::{Primary, chunks, restored};
use crate::machine::StateMachine as _;
use crate::machine::kv::value::Value;

const SECOND: u64 = 1_000_000;

fn text(text: &str) -> Value {
    Value::Bulk(text.into())
}

#[test]
fn a_key_is_hidden_when_its_deadline_is_past_and_removed_by_an_expire_entry_only() {
    let mut p = Primary::new(1);
    p.call(&["SET", "k", "v", "PX", "1500"]);
    p.now += 1500 * 1000;
    assert_eq!(p.call(&["GET", "k"]), text("v"));
    assert_eq!(p.call(&["PTTL", "k"]), Value::Integer(0));
    assert_eq!(p.machine.next_deadline(), Some(p.now + 1000));
    p.expire(10);
    assert_eq!(p.call(&["DBSIZE"]), Value::Integer(1), "a budget removes nothing that is not due");
    p.now += 1000;
    let before = chunks(&p.machine, 1 << 20);
    for (words, hidden) in [
        (&["GET", "k"][..], Value::Null),
        (&["TYPE", "k"], Value::Simple("none".into())),
        (&["TTL", "k"], Value::Integer(-2)),
        (&["EXISTS", "k"], Value::Integer(0)),
        (&["KEYS", "*"], Value::Array(vec![])),
        (&["SCAN", "0"], Value::Array(vec![text("0"), Value::Array(vec![])])),
        (&["RANDOMKEY"], Value::Null),
    ] {
        assert_eq!(p.call(words), hidden, "{words:?}");
    }
    assert_eq!(chunks(&p.machine, 1 << 20), before, "reads change nothing");
    p.expire(10);
    assert_eq!(p.call(&["DBSIZE"]), Value::Integer(0));
    assert_eq!(p.machine.next_deadline(), None);
    assert_eq!(p.machine.memory(), 0);
}

#[test]
fn a_write_takes_what_is_past_for_absent() {
    let mut p = Primary::new(1);
    p.call(&["RPUSH", "k", "old"]);
    p.call(&["PEXPIRE", "k", "10"]);
    p.now += SECOND;
    assert_eq!(p.call(&["SADD", "k", "new"]), Value::Integer(1), "the old type is gone with the old value");
    assert_eq!(p.call(&["TTL", "k"]), Value::Integer(-1));
    p.call(&["SET", "s", "5", "PX", "10"]);
    p.now += SECOND;
    assert_eq!(p.call(&["INCR", "s"]), Value::Integer(1));
    assert_eq!(p.call(&["RENAME", "gone", "s"]), Value::Error("ERR no such key".into()));
}

#[test]
fn expire_keeps_to_its_budget_and_to_the_order_of_deadlines() {
    let mut p = Primary::new(1);
    for key in 0..100 {
        p.call(&["SET", &format!("k{key}"), "v", "PX", &(1000 - key).to_string()]);
    }
    p.now += 10 * SECOND;
    p.expire(30);
    assert_eq!(p.machine.len(), 70);
    // The earliest deadlines go first.
    p.now -= 10 * SECOND;
    assert_eq!(p.call(&["EXISTS", "k99", "k70", "k69", "k0"]), Value::Integer(2));
    p.now += 10 * SECOND;
    p.expire(1000);
    assert_eq!((p.machine.len(), p.machine.next_deadline()), (0, None));
}

#[test]
fn a_deadline_moves_with_its_key_and_survives_a_snapshot() {
    let mut p = Primary::new(1);
    p.call(&["SET", "a", "v", "EX", "100"]);
    p.call(&["RENAME", "a", "b"]);
    p.call(&["COPY", "b", "c"]);
    p.call(&["APPEND", "c", "w"]);
    p.call(&["SETRANGE", "c", "5000", "w"]);
    p.machine = restored(&chunks(&p.machine, 10)).unwrap();
    assert_eq!(p.call(&["TTL", "b"]), Value::Integer(100));
    assert_eq!(p.call(&["TTL", "c"]), Value::Integer(100));
    assert_eq!(p.call(&["SET", "c", "x", "KEEPTTL"]), Value::Simple("OK".into()));
    assert_eq!(p.call(&["TTL", "c"]), Value::Integer(100));
    p.call(&["SET", "c", "x"]);
    p.call(&["PERSIST", "b"]);
    assert_eq!(p.machine.next_deadline(), None);
}

#[test]
fn the_time_is_the_group_clock() {
    let mut p = Primary::new(1);
    p.now = 1_234_567_890_123_456;
    assert_eq!(p.call(&["TIME"]), Value::Array(vec![text("1234567890"), text("123456")]));
}
