//! The storms against bugs planted on purpose (`tests/planted.md`): each must be found, within its budget of seeds, by
//! the same storms that know nothing of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::exhaustive::{CASES, Case};
use super::search::{Bounds, Found, Model, search_from};
use super::storm::storm;
use crate::planted::{Row, rows, with};

fn finds(row: &Row, seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| with(row.name, || storm(seed)))).is_err()
}

fn mine() -> impl Iterator<Item = Row> {
    rows().into_iter().filter(|row| row.random == Some("storm"))
}

#[test]
fn the_storm_of_its_seed_finds_each_planted_bug() {
    let missed: Vec<_> = mine().filter(|row| !finds(row, row.seed)).map(|row| row.name).collect();
    assert!(missed.is_empty(), "not found by the seeds of tests/planted.md: {missed:?}; derive them anew");
}

fn search_with(row: &Row, case: &Case, bounds: Bounds) -> Found {
    // The way to the beginning is walked without it.
    let initial = case.scenario.initial();
    with(row.name, || search_from(&case.scenario, initial, bounds))
}

/// The first case that finds it, of those that search so many states.
fn searched(row: &Row, states: usize) -> Option<(&'static str, usize, String)> {
    CASES.iter().find_map(|case| {
        let found = search_with(row, case, Bounds { depth: usize::MAX, states });
        found.violation.map(|(why, way)| (case.name, found.states, format!("{why}: {}", way.join("; "))))
    })
}

#[test]
fn the_search_of_its_case_finds_each_planted_bug() {
    let mut missed = Vec::new();
    for row in mine() {
        let Some(case) = CASES.iter().find(|case| row.search == Some(case.name)) else { continue };
        let bounds = Bounds { depth: case.depth, states: usize::MAX };
        if search_with(&row, case, bounds).violation.is_none() {
            missed.push(row.name);
        }
    }
    assert!(missed.is_empty(), "not found by the case that tests/planted.md names: {missed:?}");
}

#[test]
#[ignore = "derives the table: `cargo planted`"]
fn depth_until_found() {
    for row in mine() {
        match searched(&row, 15_000) {
            Some((case, states, how)) => println!("search     {:<24} {case} after {states} states: {how}", row.name),
            None => println!("search     {:<24} not found within 15000 states of any case", row.name),
        }
    }
}

#[test]
#[ignore = "derives the table: `cargo planted`"]
fn seeds_until_found() {
    let found: Vec<_> = std::thread::scope(|scope| {
        let searches: Vec<_> =
            mine().map(|row| scope.spawn(move || (row, (1..=row.budget).find(|seed| finds(&row, *seed))))).collect();
        searches.into_iter().map(|search| search.join().expect("a search ends")).collect()
    });
    for (row, seed) in &found {
        let seed = seed.map_or_else(|| "not found".to_owned(), |seed| seed.to_string());
        println!("storm      {:<20} {seed} of {}", row.name, row.budget);
    }
    assert!(found.iter().all(|(_, seed)| seed.is_some()), "a bug that is not found means storms that are too weak");
}
