//! The storms against bugs planted on purpose (`tests/planted.md`): each must be found, within its budget of seeds, by
//! the same storms that know nothing of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

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
