//! Long work on threads of its own that gives way to everything else on the machine, and still comes to its end.
//!
//! Encoding and decoding a state, or writing one to disk, takes seconds of a processor. A thread of ordinary priority
//! would keep a loop or a client that wakes meanwhile waiting for the end of its time slice, some milliseconds, and a
//! low priority (nice) changes only how often that happens. The scheduling policy `SCHED_IDLE` is for this: whoever
//! else wakes runs at once. It also gets next to nothing where every processor is busy, and a joiner must be in sync one
//! day: a step that took far too long lends the thread its ordinary policy for a moment.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// A step is well under a millisecond of work: one that took this long was kept from its processor, or its disk.
const STARVED: Duration = Duration::from_millis(20);
/// For so long it then runs as others do: a fifth of a processor or so, in the worst case.
const LENT: Duration = Duration::from_millis(5);

/// The calling thread, as long as it does such work.
#[derive(Debug)]
pub struct Background {
    /// When the step at hand began.
    since: Instant,
    /// It runs as others do, until then.
    lent: Option<Instant>,
}

impl Background {
    /// The calling thread gives way from now on.
    pub fn begin() -> Self {
        if may_yield() {
            yields(true);
        }
        Self { since: Instant::now(), lent: None }
    }

    /// After a wait for something else than a processor: the next step begins now.
    pub fn resume(&mut self) {
        self.since = Instant::now();
    }

    /// Between two small steps.
    pub fn give_way(&mut self) {
        let now = Instant::now();
        match self.lent {
            None if now.duration_since(self.since) > STARVED && may_yield() => {
                yields(false);
                self.lent = Some(now + LENT);
            }
            Some(until) if until <= now => {
                yields(true);
                self.lent = None;
            }
            _ => {}
        }
        thread::yield_now();
        self.since = Instant::now();
    }
}

/// Whether a thread may give way and come back. Without the privilege (CAP_SYS_NICE, or RLIMIT_NICE as our unit sets it)
/// the way back is closed: then such threads stay ordinary ones, since one that starves for good is worse than one that
/// costs others a time slice.
fn may_yield() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let may = thread::spawn(|| yields(true) && yields(false)).join().unwrap_or(false);
        if !may {
            tracing::info!("background.ordinary threads of long work may not run under SCHED_IDLE (see LimitNICE)");
        }
        may
    })
}

/// Sets the calling thread's policy; false where the system refuses, and all stays as it is.
fn yields(idle: bool) -> bool {
    let policy = if idle { NormalThreadSchedulePolicy::Idle } else { NormalThreadSchedulePolicy::Other };
    let ordinary = ThreadPriority::Os(Default::default());
    set_thread_priority_and_policy(thread_native_id(), ordinary, ThreadSchedulePolicy::Normal(policy)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use thread_priority::thread_schedule_policy;

    fn policy() -> ThreadSchedulePolicy {
        thread_schedule_policy().expect("a thread has one")
    }

    #[test]
    fn a_thread_gives_way_and_one_that_starves_is_lent_a_turn() {
        let idle = NormalThreadSchedulePolicy::Idle;
        let idle = ThreadSchedulePolicy::Normal(if may_yield() { idle } else { NormalThreadSchedulePolicy::Other });
        let other = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
        thread::spawn(move || {
            let mut background = Background::begin();
            assert_eq!(policy(), idle);
            background.since -= STARVED * 2;
            background.give_way();
            assert_eq!(policy(), other);
            background.lent = Some(Instant::now());
            background.give_way();
            assert_eq!(policy(), idle);
        })
        .join()
        .expect("it ends");
    }
}
