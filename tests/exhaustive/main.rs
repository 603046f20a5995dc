//! Exhaustive search at small bounds: the cores that run in production, every order of a few events, up to a depth.
//!
//! `cargo test --test exhaustive` searches as deep as the cases below say; `STATES=5000000 cargo deep` goes on until so
//! many states were visited. Raft is searched in the same way by `arbiter/src/raft/tests/exhaustive.rs`.
#![expect(clippy::print_stdout, reason = "a search tells how far it got")]

mod disk;
mod ghost;
mod oath;
#[cfg(feature = "planted")]
mod planted;
mod scenario;
mod search;
mod tiny;
mod world;

use cutover_arbiter::record::Mode;
use scenario::{Next, Scenario};
use search::{Bounds, Found, search};

/// A search, and what it must have come to.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    scenario: Scenario,
    /// Steps from the beginning that `cargo test` searches.
    depth: usize,
    /// States that it visits at least.
    states: usize,
    /// What it must have seen happen.
    sometimes: &'static [&'static str],
}

/// A pair in sync, asked once each, without any fault.
const PAIR: Scenario = Scenario {
    replicas: 2,
    copies: 2,
    in_sync: 2,
    next: Next::Started,
    min_in_sync: 1,
    writes: 1,
    retries: false,
    reads: 1,
    crashes: 0,
    breaks: 0,
    pauses: 0,
    timers: [0; 3],
    lost_answers: 0,
    switchovers: 0,
    mode: Mode::Memory,
    slow_disk: false,
    journal: false,
    succeeded: false,
};

/// One primary, and a spare that it is about to admit.
const SPARE: Scenario = Scenario { in_sync: 1, next: Next::Spare, timers: [0, 1, 0], ..PAIR };

const CASES: &[Case] = &[
    // Each suspects the other: a take-over and a removal race.
    Case {
        name: "race",
        scenario: Scenario { timers: [1, 1, 0], ..PAIR },
        depth: 11,
        states: 18_000,
        sometimes: &[
            "take_over",
            "remove",
            "refused",
            "cut-over with a tail to drain",
            "deposed",
            "a read is answered",
        ],
    },
    Case {
        name: "retry",
        scenario: Scenario { retries: true, reads: 0, timers: [0, 1, 0], ..PAIR },
        depth: 40,
        states: 11_000,
        sometimes: &["a write is asked again", "a retry is answered from the table", "delta rejoin", "admit"],
    },
    Case {
        name: "crash",
        scenario: Scenario { crashes: 1, retries: true, reads: 0, timers: [1, 1, 0], ..PAIR },
        depth: 8,
        states: 10_000,
        sometimes: &["transfer done", "remove", "take_over", "a write is asked again"],
    },
    Case {
        name: "spare",
        scenario: SPARE,
        depth: 13,
        states: 12_000,
        sometimes: &["admit", "take_over", "a read is answered"],
    },
    // The `Admit` is given up, and granted all the same.
    Case {
        name: "lost",
        scenario: Scenario { reads: 0, lost_answers: 1, ..SPARE },
        depth: 16,
        states: 12_000,
        sometimes: &["admit", "granted after it was given up"],
    },
    Case {
        name: "joiner",
        scenario: Scenario { in_sync: 1, writes: 2, reads: 0, timers: [1, 0, 0], ..PAIR },
        depth: 24,
        states: 12_000,
        sometimes: &["transfer done", "admit", "a write is answered"],
    },
    Case {
        name: "break",
        scenario: Scenario { breaks: 1, writes: 2, reads: 0, timers: [0, 1, 0], ..PAIR },
        depth: 12,
        states: 12_000,
        sometimes: &["delta rejoin", "take_over", "suspected"],
    },
    Case {
        name: "three",
        scenario: Scenario { replicas: 3, copies: 3, in_sync: 3, reads: 0, timers: [0, 1, 0], ..PAIR },
        depth: 10,
        states: 8_000,
        sometimes: &["take_over", "delta rejoin", "cut-over with a tail to drain"],
    },
    Case {
        name: "switch",
        scenario: Scenario { switchovers: 1, retries: true, ..PAIR },
        depth: 16,
        states: 12_000,
        sometimes: &["hand_over", "resume"],
    },
    Case {
        name: "disk",
        scenario: Scenario { mode: Mode::Buffered, slow_disk: true, timers: [1, 0, 0], ..PAIR },
        depth: 13,
        states: 10_000,
        sometimes: &["a write is answered", "remove"],
    },
    // A life that goes on after a crash: what it promised is on its disk.
    Case {
        name: "journal",
        scenario: Scenario { mode: Mode::Buffered, journal: true, crashes: 1, timers: [1, 1, 0], ..PAIR },
        depth: 7,
        states: 8_000,
        sometimes: &["resume", "take_over", "delta rejoin"],
    },
    Case {
        name: "two",
        scenario: Scenario { min_in_sync: 2, timers: [1, 0, 0], ..PAIR },
        depth: 40,
        states: 2_000,
        sometimes: &["remove", "a write is answered"],
    },
    // Another life of a process comes back to what it promised in a younger epoch than its log has.
    Case {
        name: "promise",
        scenario: Scenario {
            mode: Mode::Buffered,
            journal: true,
            crashes: 1,
            reads: 0,
            writes: 0,
            timers: [0; 3],
            ..SPARE
        },
        depth: 16,
        states: 4_000,
        sometimes: &["admit", "resume"],
    },
    // A new primary answers from what it drained, which another in sync has not got yet.
    Case {
        name: "drained",
        scenario: Scenario {
            replicas: 3,
            copies: 3,
            in_sync: 3,
            retries: true,
            reads: 0,
            mode: Mode::Buffered,
            slow_disk: true,
            succeeded: true,
            ..PAIR
        },
        depth: 12,
        states: 8_000,
        sometimes: &["a write is asked again", "a retry is answered from the table", "delta rejoin"],
    },
    // One is stopped for so long that it is sure that it was.
    Case {
        name: "pause",
        scenario: Scenario { pauses: 1, timers: [1, 1, 0], ..PAIR },
        depth: 7,
        states: 8_000,
        sometimes: &["suspected", "deposed"],
    },
];

fn clean(case: &Case, bounds: Bounds) -> Found {
    let since = std::time::Instant::now();
    let found = search(&case.scenario, bounds);
    let Case { name, .. } = case;
    if let Some((why, way)) = &found.violation {
        panic!("{name}: {why}\n  {}", way.join("\n  "));
    }
    let took = since.elapsed();
    println!("{name}: {} states to depth {} in {took:.1?}, seen {:?}", found.states, found.depth, found.seen);
    found
}

/// Searches one in two cases as deep as they say; two tests, so that two cores are used.
fn to_its_depth(half: usize) {
    for case in CASES.iter().skip(half).step_by(2) {
        let found = clean(case, Bounds { depth: case.depth, states: usize::MAX });
        assert!(found.states >= case.states, "{} visits only {} states", case.name, found.states);
        let missing = found.seen.missing(case.sometimes);
        assert!(missing.is_empty(), "{} never sees {missing:?} in {} states", case.name, found.states);
    }
}

#[test]
fn every_order_of_a_few_events_in_one_half_of_the_cases() {
    to_its_depth(0);
}

#[test]
fn every_order_of_a_few_events_in_the_other_half() {
    to_its_depth(1);
}

#[test]
#[ignore = "deep: `STATES=5000000 cargo deep`"]
fn deep() {
    let states = std::env::var("STATES").map_or(1_000_000, |text| text.parse().expect("STATES is a number"));
    for case in CASES {
        clean(case, Bounds { depth: usize::MAX, states });
    }
}
