//! S11 and S13 as clients see them.
//!
//! The canon is a witness of a linearisation: every answer names the index that it stands at or was computed from, so
//! it is enough that indexes follow real time and that each answer is what the canon says there. The complete history
//! is kept as well, for a checker that trusts no witness.

use cutover::machine::kv::value::Value;
use cutover_arbiter::record::{Epoch, Index};

use crate::canon::{Core, Group};
use crate::workload::{Action, Recorded, told_clock};
use crate::world::Verdict;

/// Whether an answer names the very index that it was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exact {
    Yes,
    No,
}

impl Group {
    /// S13: what was asked after another answer had come stands behind it, and reads as the canon reads there.
    /// A read of the library may have been carried by a later entry of its session, whose index it then names.
    pub fn s13_real_time(&mut self, asked: &Recorded, index: Index, reply: &[u8], exact: Exact) -> Verdict {
        let behind = if asked.action.writes() { index > asked.floor } else { index >= asked.floor };
        if !behind {
            return Err(format!(
                "S13: {:?} of client {} stands at {index}; something at {} had been answered before it was asked",
                asked.action, asked.client, asked.floor
            ));
        }
        self.answered = self.answered.max(index);
        match asked.key {
            Some(key) if asked.action == Action::Read => {
                let expected = self.version(key, index);
                let carried = exact == Exact::No && self.stood(key, asked.floor..=index, reply);
                if expected != reply && !carried {
                    return Err(format!(
                        "S13: {key:?} at {index} reads {:?}, the canon says {:?}",
                        String::from_utf8_lossy(reply),
                        String::from_utf8_lossy(&expected)
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// S11, across cut-over: a new primary begins no lower than what anybody was told. One that hears of its epoch when
    /// a later one has been granted tells nobody anything.
    pub fn s11_clock_of_a_new_primary(&self, core: &Core, epoch: Epoch) -> Verdict {
        let status = core.status();
        if epoch.0 == self.newest_epoch() && status.clock < self.clock_told {
            return Err(format!(
                "S11: the clock of {} begins at {}, {} was told",
                status.name, status.clock, self.clock_told
            ));
        }
        Ok(())
    }

    /// S11: the clock never goes back for any client.
    pub fn s11_clock(&mut self, asked: &Recorded, answer: &Value) -> Verdict {
        let Some(told) = told_clock(answer) else { return Err("TIME was not answered with two numbers".to_owned()) };
        if told < asked.clock_floor {
            return Err(format!("S11: a client was told {told} after somebody had been told {}", asked.clock_floor));
        }
        self.clock_told = self.clock_told.max(told);
        Ok(())
    }
}
