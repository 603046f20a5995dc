//! A look at speed and memory, not run by default:
//! `cargo test --release --lib kv::tests::speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::harness::restored;
use crate::machine::kv::{KeyValue, request};
use crate::machine::{Changes, Env, ReadEnv, Snapshot as _, StateMachine as _, seeded};

fn per(what: &str, took: Duration, count: usize) {
    println!(
        "{what}: {:.0} ns each, {:.2} M/s",
        took.as_nanos() as f64 / count as f64,
        count as f64 / took.as_micros() as f64
    );
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn operations(keys: usize, name: &str, value: Option<&[u8]>) -> Vec<Vec<u8>> {
    let args = |key: &str| match value {
        Some(value) => request(name, &[key.as_bytes(), value]),
        None => request(name, &[key.as_bytes()]),
    };
    // A stride that has no factor in common with the number of keys visits each once, in no order.
    (0..keys).map(|at| args(&format!("key:{:012}", at * 7919 % keys))).collect()
}

fn apply_all(machine: &mut KeyValue, operations: &[Vec<u8>]) {
    let (mut random, mut values, mut changes, mut garbage) = (seeded(1), Vec::new(), Changes::default(), Vec::new());
    let mut reply = Vec::new();
    for operation in operations {
        reply.clear();
        values.clear();
        let mut env = Env::capture_into(1, 1, &mut random, &mut values, &mut changes, &mut garbage);
        machine.apply(operation, &mut env, &mut reply);
    }
}

#[test]
#[ignore = "takes long and measures; see the module"]
fn speed_and_memory() {
    let keys: usize = std::env::var("KEYS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let mut machine = KeyValue::new();
    for (count, label) in [(100_000, "100k keys"), (keys, "all keys")] {
        let sets = operations(count, "SET", Some(&[b'v'; 64]));
        let before = resident();
        let start = Instant::now();
        apply_all(&mut machine, &sets);
        per(&format!("SET new, {label}"), start.elapsed(), count);
        let bytes = resident().saturating_sub(before);
        println!(
            "memory: {} per key resident, {} per key estimated",
            bytes / count as u64,
            machine.memory() / machine.len() as u64
        );
        let start = Instant::now();
        apply_all(&mut machine, &sets);
        per(&format!("SET over, {label}"), start.elapsed(), count);
        let gets = operations(count, "GET", None);
        let (mut random, mut reply) = (seeded(1), Vec::new());
        let start = Instant::now();
        for get in &gets {
            reply.clear();
            machine.read(get, &ReadEnv::new(1, &mut random), &mut reply);
        }
        per(&format!("GET, {label}"), start.elapsed(), count);
    }
    let start = Instant::now();
    let mut snapshot = machine.snapshot();
    let chunks: Vec<Vec<u8>> = std::iter::from_fn(|| snapshot.next_chunk(1 << 20)).collect();
    per("snapshot", start.elapsed(), keys);
    drop(snapshot);
    let start = Instant::now();
    let again = restored(&chunks).unwrap();
    per("restore", start.elapsed(), keys);
    let held = machine.snapshot();
    let sets = operations(keys, "SET", Some(&[b'w'; 64]));
    let start = Instant::now();
    apply_all(&mut machine, &sets);
    per("SET over, under a snapshot", start.elapsed(), keys);
    drop((held, again));
}
