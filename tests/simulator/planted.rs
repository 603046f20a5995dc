//! The simulator against bugs planted on purpose (`tests/planted.md`): each must be found within its budget of seeds by
//! the same runs that know nothing of it. A bug is alive from the first event of a run to its last. An invariant that
//! does not hold, a core that panics, or a run that does not settle: each counts as found.

use std::sync::Mutex;

use cutover_arbiter::planted::{Row, rows, with};

use super::trace::Show;
use super::{batch, run};

/// Seeds tried for a bug of which the table knows no budget.
const SEEDS: u64 = 400;

/// What a seed finds while the bug is alive.
fn finds(row: &Row, seed: u64) -> Option<String> {
    with(row.name, || batch::run_one(seed)).err()
}

/// Does `work` for every row on two threads; a core that panics says so in what is found, not on the terminal.
fn each<T: Send>(rows: Vec<Row>, work: impl Fn(&Row) -> T + Sync) -> Vec<(Row, T)> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (queue, done) = (Mutex::new(rows.into_iter()), Mutex::new(Vec::new()));
    let next = || queue.lock().expect("nobody panics while holding it").next();
    let worker = || {
        while let Some(row) = next() {
            let result = work(&row);
            done.lock().expect("nobody panics while holding it").push((row, result));
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| _ = scope.spawn(worker)));
    std::panic::set_hook(hook);
    done.into_inner().expect("nobody panicked while holding it")
}

#[test]
fn the_seed_of_each_planted_bug_finds_it() {
    let mine = rows().into_iter().filter(|row| row.random == Some("simulator")).collect();
    let missed: Vec<_> =
        each(mine, |row| finds(row, row.seed)).into_iter().filter(|(_, found)| found.is_none()).collect();
    let missed: Vec<_> = missed.iter().map(|(row, _)| (row.name, row.seed)).collect();
    assert!(missed.is_empty(), "not found by the seeds of tests/planted.md: {missed:?}; derive them anew");
}

/// Bugs that show at once in a story of a single core.
#[test]
fn a_scenario_finds_each_planted_bug_that_needs_no_luck() {
    let mine = rows().into_iter().filter(|row| row.random == Some("scenario")).collect();
    let fails = |row: &Row, story: &fn()| with(row.name, || std::panic::catch_unwind(story)).is_err();
    let missed: Vec<_> = each(mine, |row| super::scenarios::ALL.iter().any(|story| fails(row, story)));
    let missed: Vec<_> = missed.iter().filter(|(_, found)| !found).map(|(row, _)| row.name).collect();
    assert!(missed.is_empty(), "no story fails with them: {missed:?}");
}

/// Tries seeds from 1 on for each bug of the pair, or for those in `BUG` (names with commas between) alone, up to the
/// budget of the table, or `SEEDS`.
#[test]
#[ignore = "derives the table: `cargo planted`"]
fn seeds_until_found() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (from, budget, only) = (number("FROM").unwrap_or(1), number("SEEDS"), std::env::var("BUG").ok());
    let mine = |row: &Row| match &only {
        Some(only) => only.split(',').any(|name| name == row.name),
        None => row.random == Some("simulator"),
    };
    let missed = each(rows().into_iter().filter(mine).collect(), |row| {
        let budget = budget.unwrap_or(if row.budget > 0 { row.budget } else { SEEDS });
        let found = (from..from + budget).find_map(|seed| finds(row, seed).map(|why| (seed, why)));
        match &found {
            Some((seed, why)) => println!("simulator  {:<24} {seed} of {budget}: {why:.300}", row.name),
            None => println!("simulator  {:<24} not found within {budget} seeds", row.name),
        }
        found.is_none()
    });
    let missed: Vec<_> = missed.iter().filter(|(_, missed)| *missed).map(|(row, _)| row.name).collect();
    assert!(missed.is_empty(), "a bug that is not found means a simulator that is too weak: {missed:?}");
}

/// One seed with its trace while `BUG` is alive.
#[test]
#[ignore = "shows how a planted bug is found: set BUG and SEED"]
fn one_seed_of_a_bug() {
    let text = |name: &str| std::env::var(name).expect("BUG and SEED say what to show");
    let (bug, seed) = (text("BUG"), text("SEED").parse().expect("SEED is a number"));
    let row = rows().into_iter().find(|row| row.name == bug).expect("a row of tests/planted.md");
    let result = with(row.name, || run::run(seed, Show::Lines).0);
    println!("{bug}, seed {seed}: {}", result.err().unwrap_or_else(|| "not found".to_owned()));
}
