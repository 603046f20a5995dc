//! What is wrong with each link, and the commands that change it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What is wrong with a link: with what one process sends to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Nothing passes and nothing is taken from the sender; connections stay open, new ones hang.
    Cut,
    /// Everything is taken from the sender, nothing passes until healed; then all of it does.
    Clog,
    /// Everything passes so much later.
    Delay(Duration),
    /// The next frame is passed up to its middle, then its connection is reset and the link is whole again.
    MidFrame,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::None => f.write_str("whole"),
            Fault::Cut => f.write_str("cut"),
            Fault::Clog => f.write_str("clogged"),
            Fault::Delay(by) => write!(f, "delayed by {by:?}"),
            Fault::MidFrame => f.write_str("cuts the next frame in its middle"),
        }
    }
}

/// A link as its connections see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    pub fault: Fault,
    /// One more with every change, so that what was meant for an earlier fault does not touch a later one.
    pub serial: u64,
    /// One more with every reset: connections opened before are closed.
    pub resets: u64,
}

/// What can be done to links. `from` and `to` are names of processes, or `all`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// [`Fault::Cut`] in both directions.
    Cut {
        /// One end.
        from: String,
        /// The other end.
        to: String,
    },
    /// [`Fault::Cut`] in this direction only.
    OneWay {
        /// Who is no longer heard.
        from: String,
        /// By whom.
        to: String,
    },
    /// [`Fault::Delay`] in this direction.
    Delay {
        /// Who sends.
        from: String,
        /// Who receives.
        to: String,
        /// How much later, in milliseconds.
        by_ms: u64,
    },
    /// [`Fault::Clog`] in this direction.
    Clog {
        /// Who sends.
        from: String,
        /// Who receives.
        to: String,
    },
    /// [`Fault::MidFrame`] in this direction.
    MidFrame {
        /// Who sends.
        from: String,
        /// Who receives.
        to: String,
    },
    /// Closes the connections between the two, at once; new ones are possible.
    Reset {
        /// One end.
        from: String,
        /// The other end.
        to: String,
    },
    /// Makes the links whole again, in both directions.
    Heal {
        /// One end.
        from: String,
        /// The other end.
        to: String,
    },
    /// Tells which links are not whole.
    List,
}

/// A command that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No such link.
    #[error("there is no link from '{from}' to '{to}'; the processes are {known}")]
    Unknown {
        /// As given.
        from: String,
        /// As given.
        to: String,
        /// Every name.
        known: String,
    },
}

/// A link by its ends.
pub type Ends = (String, String);

/// The state of every link.
#[derive(Debug)]
pub struct Links(BTreeMap<Ends, watch::Sender<State>>);

impl Links {
    /// Both directions of every pair.
    pub(super) fn new(pairs: impl Iterator<Item = Ends>) -> Self {
        let mut links = BTreeMap::new();
        for (from, to) in pairs {
            links.entry((to.clone(), from.clone())).or_insert_with(|| watch::Sender::new(State::default()));
            links.entry((from, to)).or_insert_with(|| watch::Sender::new(State::default()));
        }
        Self(links)
    }

    pub(super) fn link(&self, from: &str, to: &str) -> Option<&watch::Sender<State>> {
        self.0.get(&(from.to_owned(), to.to_owned()))
    }

    /// Every link that is not whole, with what is wrong with it.
    pub fn faults(&self) -> Vec<(Ends, Fault)> {
        let all = self.0.iter().map(|(ends, state)| (ends.clone(), state.borrow().fault));
        all.filter(|(_, fault)| *fault != Fault::None).collect()
    }

    /// Carries `command` out; returns the links that it changed, with the serial numbers that the change gave them.
    ///
    /// # Errors
    /// It names a link that is not there.
    pub fn apply(&self, command: &Command) -> Result<Vec<(Ends, u64)>, LinkError> {
        let one_way = |from, to, fault| self.change(from, to, Direction::There, |state| state.fault = fault);
        match command {
            Command::Cut { from, to } => self.change(from, to, Direction::Both, |state| state.fault = Fault::Cut),
            Command::Heal { from, to } => self.change(from, to, Direction::Both, |state| state.fault = Fault::None),
            Command::Reset { from, to } => self.change(from, to, Direction::Both, |state| state.resets += 1),
            Command::OneWay { from, to } => one_way(from, to, Fault::Cut),
            Command::Delay { from, to, by_ms } => one_way(from, to, Fault::Delay(Duration::from_millis(*by_ms))),
            Command::Clog { from, to } => one_way(from, to, Fault::Clog),
            Command::MidFrame { from, to } => one_way(from, to, Fault::MidFrame),
            Command::List => Ok(Vec::new()),
        }
    }

    /// Makes those of `changed` whole that nobody has changed since; returns them.
    pub fn heal_unchanged(&self, changed: &[(Ends, u64)]) -> Vec<Ends> {
        let healed = changed.iter().filter(|(ends, serial)| {
            self.0.get(ends).is_some_and(|state| {
                state.send_if_modified(|state| {
                    let same = state.serial == *serial && state.fault != Fault::None;
                    if same {
                        *state = State { fault: Fault::None, serial: state.serial + 1, ..*state };
                    }
                    same
                })
            })
        });
        healed.map(|(ends, _)| ends.clone()).collect()
    }

    fn change(
        &self,
        from: &str,
        to: &str,
        direction: Direction,
        change: impl Fn(&mut State),
    ) -> Result<Vec<(Ends, u64)>, LinkError> {
        let is = |given: &str, name: &str| given == "all" || given == name;
        let meant = |ends: &Ends| {
            let there = is(from, &ends.0) && is(to, &ends.1);
            there || (direction == Direction::Both && is(from, &ends.1) && is(to, &ends.0))
        };
        let mut changed = Vec::new();
        for (ends, link) in self.0.iter().filter(|(ends, _)| meant(ends)) {
            link.send_modify(|state| {
                change(state);
                state.serial += 1;
            });
            changed.push((ends.clone(), link.borrow().serial));
        }
        if changed.is_empty() {
            let mut known: Vec<&str> = self.0.keys().map(|(from, _)| from.as_str()).collect();
            known.dedup();
            return Err(LinkError::Unknown { from: from.into(), to: to.into(), known: known.join(", ") });
        }
        Ok(changed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    There,
    Both,
}
