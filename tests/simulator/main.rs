//! The replica cores under faults, in one thread, from one seed, in virtual time: the cores that run in production, the
//! register machine that the arbiters replicate, a network that delays, cuts and clogs, processes that die and stop.
//!
//! `cargo test --test simulator` runs a batch of seeds; `SEED=n cargo test --test simulator one_seed -- --nocapture
//! --include-ignored` replays one, with its trace.
#![allow(clippy::print_stdout, reason = "a replayed seed shows its trace")]

mod tellers;
mod world;

use world::{Faults, World};

/// Seeds that once failed, with what was wrong.
const PAST_FAILURES: &[u64] = &[
    // A spare was never admitted under load: nothing waits for a spare, so it never held everything committed.
    17, 44, 48, 55, 75, 85, 129, 173, 187, 229, 235, 238, 260, 298,
    // A healthy primary was deposed under steady load: the age of its oldest output was the age of the load.
    132,
];

fn run(seed: u64, trace: bool) -> Result<world::Report, String> {
    let mut world = World::new(seed, Faults::drawn(seed), trace);
    world.storm(30_000_000)?;
    world.calm(20_000_000)?;
    world.judge()
}

#[test]
fn nothing_released_is_ever_lost() {
    let mut total = world::Report::default();
    for seed in (1..=120).chain(PAST_FAILURES.iter().copied()) {
        match run(seed, false) {
            Ok(report) => total.add(&report),
            Err(why) => panic!(
                "seed {seed}: {why}\nreplay: SEED={seed} cargo test --test simulator one_seed -- --nocapture --include-ignored"
            ),
        }
    }
    // What must happen at least once in a batch, or the batch proves nothing.
    let world::Report { cut_overs, released, unknown, transfers, deltas, told, switchovers } = total;
    assert!(cut_overs > 100, "{cut_overs} cut-overs");
    assert!(released > 10_000, "{released} operations released");
    assert!(transfers > 50 && deltas > 10, "{transfers} state transfers, {deltas} delta rejoins");
    assert!(told > 10_000 && switchovers > 10, "{told} answers to sessions, {switchovers} switchovers");
    assert!(unknown > 50, "{unknown} operations whose outcome their client never learnt");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces: Vec<_> = (0..2)
        .map(|_| {
            let mut world = World::new(7, Faults::drawn(7), false);
            world.storm(10_000_000).unwrap();
            world.digest_of_trace()
        })
        .collect();
    assert_eq!(traces[0], traces[1]);
}

#[test]
#[ignore = "replays one seed with its trace: set SEED"]
fn one_seed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    match run(seed, true) {
        Ok(report) => println!("seed {seed}: {report:?}"),
        Err(why) => panic!("seed {seed}: {why}"),
    }
}

#[test]
#[ignore = "a soak: SEEDS=n seeds from FROM"]
fn many_seeds() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (from, seeds) = (number("FROM", 1000u64), number("SEEDS", 1000u64));
    let mut failed = Vec::new();
    let mut total = world::Report::default();
    for seed in from..from + seeds {
        match run(seed, false) {
            Ok(report) => total.add(&report),
            Err(why) => {
                println!("seed {seed}: {why}");
                failed.push(seed);
            }
        }
    }
    println!("{total:?}");
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}
