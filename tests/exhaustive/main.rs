//! Exhaustive search at small bounds: the cores that run in production, every order of a few events.
//!
//! `cargo test --test exhaustive` searches to a small depth; `cargo deep` as deep as memory and patience allow.
#![expect(clippy::print_stdout, reason = "a search tells how far it got")]

mod ghost;
#[cfg(feature = "planted")]
mod planted;
mod search;
mod tiny;
mod world;

use search::{Bounds, search};
use world::{Next, Scenario};

const SCENARIOS: &[(&str, Scenario)] = &[
    // A take-over and a removal race; a write and a read.
    ("pair", Scenario { retries: false, ..Scenario::PAIR }),
    ("retry", Scenario { reads: 0, timers: [0, 1, 0], ..Scenario::PAIR }),
    ("crash", Scenario { crashes: 1, reads: 0, ..Scenario::PAIR }),
    ("spare", Scenario { in_sync: 1, next: Next::Spare, retries: false, timers: [0, 1, 0], ..Scenario::PAIR }),
    (
        "lost",
        Scenario {
            in_sync: 1,
            next: Next::Spare,
            retries: false,
            reads: 0,
            lost_answers: 1,
            timers: [0, 1, 0],
            ..Scenario::PAIR
        },
    ),
    ("joiner", Scenario { in_sync: 1, writes: 2, reads: 0, timers: [1, 0, 0], retries: false, ..Scenario::PAIR }),
    ("break", Scenario { breaks: 1, writes: 2, reads: 0, retries: false, timers: [0, 1, 0], ..Scenario::PAIR }),
    (
        "three",
        Scenario { replicas: 3, copies: 3, in_sync: 3, retries: false, reads: 0, timers: [0, 1, 0], ..Scenario::PAIR },
    ),
    ("switch", Scenario { switchovers: 1, timers: [0; 3], ..Scenario::PAIR }),
    ("disk", Scenario { slow_disk: true, retries: false, timers: [1, 0, 0], ..Scenario::PAIR }),
    ("two", Scenario { min_in_sync: 2, retries: false, timers: [1, 0, 0], ..Scenario::PAIR }),
    ("pause", Scenario { pauses: 1, retries: false, timers: [1, 1, 0], ..Scenario::PAIR }),
];

fn limit() -> usize {
    std::env::var("STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

fn clean(name: &str, scenario: Scenario, depth: usize) -> search::Found {
    let since = std::time::Instant::now();
    let found = search(&scenario, Bounds { depth, states: limit() });
    if let Some((why, way)) = &found.violation {
        panic!("{name}: {why}\n  {}", way.join("\n  "));
    }
    println!(
        "{name}: {} states to depth {} in {:?}, seen {:?}",
        found.states,
        found.depth,
        since.elapsed(),
        found.seen
    );
    found
}

#[test]
fn all() {
    for (name, scenario) in SCENARIOS {
        clean(name, *scenario, 30);
    }
}
