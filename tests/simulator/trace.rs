//! What happened, in simulated time: a digest of every step always, and lines that a person can read when asked for.

use cutover::machine::Changes;

use super::world::Time;

/// Where the lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Nowhere: only the digest is kept.
    Nothing,
    /// To the terminal, as they come.
    Lines,
    /// Into memory, to be compared.
    Kept,
}

pub struct Trace {
    show: Show,
    digest: Changes,
    pub kept: Vec<String>,
}

impl Trace {
    pub fn new(show: Show) -> Self {
        Self { show, digest: Changes::default(), kept: Vec::new() }
    }

    /// Every step goes into the digest, so that two runs of a seed can be compared however little they print.
    pub fn step(&mut self, now: Time, what: u64) {
        self.digest.word(now);
        self.digest.word(what);
    }

    /// A line; made only when somebody reads it.
    pub fn line(&mut self, now: Time, text: impl FnOnce() -> String) {
        match self.show {
            Show::Nothing => {}
            Show::Lines => println!("{:>12.6} {}", now as f64 / 1e6, text()),
            Show::Kept => self.kept.push(format!("{now} {}", text())),
        }
    }

    pub fn digest(&self) -> u64 {
        self.digest.state()
    }
}
