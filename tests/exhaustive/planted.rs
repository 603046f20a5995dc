//! The searches against bugs planted on purpose (`tests/planted.md`).

use std::sync::Mutex;

use cutover_arbiter::planted::{Row, rows, with};

use super::search::{Bounds, Found, Model, search_from};
use super::{CASES, Case};

fn finds(row: &Row, case: &Case, bounds: Bounds) -> Found {
    // The way to the beginning is walked without it.
    let initial = case.scenario.initial();
    with(row.name, || search_from(&case.scenario, initial, bounds))
}

#[test]
fn the_search_of_its_case_finds_each_planted_bug() {
    let mut missed = Vec::new();
    for row in rows() {
        let Some(case) = CASES.iter().find(|case| row.search == Some(case.name)) else { continue };
        if finds(&row, case, Bounds { depth: case.depth, states: usize::MAX }).violation.is_none() {
            missed.push(row.name);
        }
    }
    assert!(missed.is_empty(), "not found by the case that tests/planted.md names: {missed:?}");
}

/// Tries every case for each bug of the replica, or for `BUG` alone, up to `STATES` states.
#[test]
#[ignore = "derives the table: `cargo planted`"]
fn depth_until_found() {
    let states = std::env::var("STATES").map_or(20_000, |text| text.parse().expect("STATES is a number"));
    let only = std::env::var("BUG").ok();
    let wanted = |row: &Row| match &only {
        Some(only) => only == row.name,
        None => !row.name.starts_with("R-") && !row.name.starts_with('D'),
    };
    let queue = Mutex::new(rows().into_iter().filter(wanted));
    let work = || {
        while let Some(row) = next(&queue) {
            println!("{}", search_all(&row, states));
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| _ = scope.spawn(work)));
}

fn next(queue: &Mutex<impl Iterator<Item = Row>>) -> Option<Row> {
    queue.lock().expect("nobody panics while holding it").next()
}

/// The case that finds it soonest.
fn search_all(row: &Row, states: usize) -> String {
    let mut best: Option<(&str, usize, String)> = None;
    for case in CASES {
        let most = best.as_ref().map_or(states, |(_, states, _)| *states);
        let found = finds(row, case, Bounds { depth: usize::MAX, states: most });
        if let Some((why, way)) = found.violation.filter(|_| best.as_ref().is_none_or(|best| found.states < best.1)) {
            best = Some((case.name, found.states, format!("{why}\n{:>12}{}", "", way.join("; "))));
        }
    }
    match best {
        Some((case, states, how)) => format!("search     {:<24} {case} after {states} states: {how}", row.name),
        None => format!("search     {:<24} not found within {states} states of any case", row.name),
    }
}
