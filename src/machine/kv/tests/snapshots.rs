//! Snapshots: equal for equal content, complete, restored equal, and proof against damage.

use proptest::prelude::*;

use super::harness::{Primary, chunks, restored};
use super::replay::random_operation;
use crate::machine::kv::value::Value;
use crate::machine::{Snapshot as _, StateMachine as _, seeded};

/// One of everything, a value longer than a piece among it.
fn furnished(seed: u64) -> Primary {
    let mut p = Primary::new(seed);
    for at in 0..300 {
        let at = at.to_string();
        p.call(&["SET", &format!("s{at}"), &at]);
        p.call(&["HSET", "h", &at, &at.repeat(40)]);
        p.call(&["SADD", "e", &at]);
        p.call(&["RPUSH", "l", &at]);
        p.call(&["ZADD", "z", &format!("{}.5", at.len()), &at]);
    }
    p.call(&["SET", "ttl", "v", "EX", "50"]);
    p.call(&["SET", "long", &"x".repeat(200_000)]);
    p.call(&["HSET", "h", "long", &"y".repeat(150_000)]);
    p.call(&["RPUSH", "l", &"z".repeat(70_000)]);
    p
}

#[test]
fn a_restored_machine_is_equal_whatever_the_size_of_chunks() {
    let p = furnished(1);
    let whole = chunks(&p.machine, usize::MAX).concat();
    for target in [1, 100, 4096, 1 << 20] {
        let parts = chunks(&p.machine, target);
        assert_eq!(parts.concat(), whole);
        assert!(parts.iter().all(|part| part.len() < target + (66 << 10)), "chunks are of about the size asked for");
        let again = restored(&parts).unwrap();
        assert_eq!(chunks(&again, usize::MAX).concat(), whole);
        assert_eq!(again.next_deadline(), p.machine.next_deadline());
        let (was, is) = (p.machine.memory() as f64, again.memory() as f64);
        assert!((was - is).abs() < was * 0.5, "memory {was} became {is}");
    }
}

#[test]
fn content_by_another_history_gives_the_same_bytes() {
    let mut one = furnished(7);
    let mut other = Primary::new(7);
    for at in (0..300).rev() {
        let at = at.to_string();
        other.call(&["ZADD", "z", "3", &at, "1", "gone"]);
        other.call(&["HSET", "h", &at, "x", "gone", ""]);
        other.call(&["HSET", "h", &at, &at.repeat(40)]);
        other.call(&["SADD", "e", &at, "gone"]);
        other.call(&["LPUSH", "l", &at]);
        other.call(&["SET", &format!("gone{at}"), &at, "EX", "5"]);
        other.call(&["APPEND", &format!("s{at}"), &at]);
        other.call(&["ZADD", "z", &format!("{}.5", at.len()), &at]);
    }
    other.call(&["ZREM", "z", "gone"]);
    other.call(&["HDEL", "h", "gone"]);
    other.call(&["SREM", "e", "gone"]);
    other.call(&["RPUSH", "l", &"z".repeat(70_000), "gone"]);
    other.call(&["RPOP", "l"]);
    other.call(&["HSET", "h", "long", &"y".repeat(150_000)]);
    other.call(&["SETRANGE", "long", "199999", "x"]);
    other.call(&["SET", "long", &"x".repeat(200_000)]);
    for at in 0..300 {
        other.call(&["DEL", &format!("gone{at}")]);
    }
    other.call(&["SET", "ttl", "v", "EX", "50"]);
    assert_eq!(chunks(&one.machine, 1000), chunks(&other.machine, 1000));
    // And the same chance gives the same choice.
    assert_eq!(one.call(&["DBSIZE"]), other.call(&["DBSIZE"]));
    one.call(&["FLUSHALL"]);
    assert_eq!(chunks(&one.machine, 1000).concat().last(), Some(&b'.'));
}

#[test]
fn a_snapshot_shows_the_moment_it_was_taken() {
    let mut p = furnished(2);
    let then = chunks(&p.machine, 500);
    let mut snapshot = p.machine.snapshot();
    let mut seen = Vec::new();
    let mut random = seeded(2);
    while let Some(chunk) = snapshot.next_chunk(500) {
        seen.push(chunk);
        for _ in 0..20 {
            p.apply(random_operation(&mut random));
        }
        p.call(&["SET", "s1", "changed"]);
        p.call(&["APPEND", "long", "changed"]);
        p.call(&["HSET", "h", "1", "changed"]);
        p.call(&["LSET", "l", "0", "changed"]);
        p.call(&["ZPOPMIN", "z"]);
        p.call(&["SPOP", "e"]);
    }
    assert!(seen == then);
}

#[test]
fn a_copy_shares_until_one_side_is_written_to() {
    let mut p = furnished(3);
    let before = p.call(&["HGETALL", "h"]);
    p.call(&["COPY", "h", "h2"]);
    p.call(&["HSET", "h2", "1", "changed"]);
    p.call(&["HDEL", "h2", "2"]);
    assert_eq!(p.call(&["HGETALL", "h"]), before);
    assert_eq!(p.call(&["HGET", "h2", "1"]), Value::Bulk(b"changed".to_vec()));
    p.call(&["COPY", "long", "long2"]);
    p.call(&["SETRANGE", "long2", "0", "y"]);
    assert_eq!(p.call(&["GETRANGE", "long", "0", "1"]), Value::Bulk(b"xx".to_vec()));
    assert_eq!(p.call(&["GETRANGE", "long2", "0", "1"]), Value::Bulk(b"yx".to_vec()));
}

#[test]
fn what_is_missing_is_said() {
    let p = furnished(4);
    let parts = chunks(&p.machine, 1000);
    let error = restored(&parts[..parts.len() - 1]).err().unwrap();
    assert!(error.contains("ends early"), "{error}");
    let mut twice = parts.clone();
    twice.insert(1, parts[1].clone());
    assert!(restored(&twice).is_err());
    assert!(restored(&[]).is_err());
    let mut newer = parts;
    newer[0][1] = 9;
    assert!(restored(&newer).err().unwrap().contains("format 9"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_an_error_or_another_state_and_never_a_panic(at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>()) {
        let mut p = Primary::new(5);
        for words in [
            &["SET", "s", "v", "EX", "9"][..], &["HSET", "h", "f", "v", "g", "w"], &["RPUSH", "l", "a", "b"],
            &["ZADD", "z", "1", "m", "2", "n"], &["SADD", "e", "a", "b"],
        ] {
            p.call(words);
        }
        let mut bytes = chunks(&p.machine, usize::MAX).concat();
        let length = bytes.len();
        bytes[at % length] = byte;
        if let Ok(machine) = restored(&[bytes.clone()]) {
            // Whatever was read is a machine that writes down what it read.
            let again = chunks(&machine, usize::MAX).concat();
            prop_assert!(restored(&[again]).is_ok());
        }
        prop_assert!(restored(&[bytes[..cut % length].to_vec()]).is_err());
    }

    #[test]
    fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(restored(&[bytes]).is_err());
    }
}
