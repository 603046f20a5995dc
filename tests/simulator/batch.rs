//! Many seeds on several threads; each run is in one thread and knows of no other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::counters::Report;
use super::run;
use super::trace::Show;

/// Seeds between two progress lines.
const PROGRESS: usize = 200;
/// A batch gives up after so many failures.
const ENOUGH: usize = 20;
/// A batch with fewer seeds need not have seen everything.
const WHOLE: u64 = 500;
/// Of so many histories one may stay undecided, and a few of a small batch.
const DECIDED: u64 = 50;
const A_FEW: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Silent,
    Lines,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub report: Report,
    pub failed: Vec<(u64, String)>,
}

impl Outcome {
    /// Fails with every seed that failed, and how to replay it.
    fn settle(&self) {
        let told: Vec<String> = self
            .failed
            .iter()
            .map(|(seed, why)| format!("seed {seed}: {why}\n  replay: SEED={seed} cargo seed"))
            .collect();
        assert!(told.is_empty(), "{} seeds failed\n{}", told.len(), told.join("\n"));
    }

    /// The judge of every batch: no seed failed, the checker could decide nearly every history, and what must happen did.
    pub fn judge(&self) {
        println!("{}", self.report.table());
        let (seeds, undecided) = (self.report.seeds, self.report.undecided);
        println!("{undecided} of {seeds} histories undecided, {} seeds failed", self.failed.len());
        self.settle();
        // The canon has judged those answer by answer. Eight times the steps decide three of eight, and take half as long as
        // the batch.
        let most = (seeds / DECIDED).max(A_FEW);
        assert!(undecided <= most, "the checker could not decide {undecided} of {seeds} histories, {most} may be");
        let missing = self.report.missing();
        assert!(seeds < WHOLE || missing.is_empty(), "the batch has never seen: {missing:?}");
    }
}

/// Runs a seed; a panic is a failure like any other.
pub fn run_one(seed: u64) -> Result<Report, String> {
    match catch_unwind(AssertUnwindSafe(|| run::run(seed, Show::Nothing).0)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panicked: {}", text.unwrap_or_default()))
        }
    }
}

pub fn run(seeds: &[u64], threads: usize, progress: Progress) -> Outcome {
    let (next, outcome, started) = (AtomicUsize::new(0), Mutex::new(Outcome::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run_one(*seed);
                    let mut outcome = outcome.lock().expect("no thread panics with it");
                    match result {
                        Ok(report) => outcome.report.add(&report),
                        Err(why) => {
                            if progress == Progress::Lines {
                                println!("seed {seed}: {why}");
                            }
                            outcome.failed.push((*seed, why));
                        }
                    }
                    let done = outcome.report.seeds as usize + outcome.failed.len();
                    if progress == Progress::Lines && done.is_multiple_of(PROGRESS) {
                        println!("{}", line(&outcome, done, seeds.len(), started));
                    }
                    if outcome.failed.len() >= ENOUGH {
                        return;
                    }
                }
            });
        }
    });
    outcome.into_inner().expect("no thread panics with it")
}

fn line(outcome: &Outcome, done: usize, all: usize, started: Instant) -> String {
    let seconds = started.elapsed().as_secs_f64();
    let hours = outcome.report.simulated as f64 / 3.6e9;
    format!(
        "{done} of {all} seeds, {} failed; {hours:.1} simulated hours at {:.0} per hour; {} faults, {} operations",
        outcome.failed.len(),
        hours / seconds * 3600.0,
        outcome.report.faults(),
        outcome.report.answered,
    )
}
