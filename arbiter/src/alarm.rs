//! One timer of a loop that sleeps most of its time.
//!
//! A timer of the runtime wakes an idle loop three times for each deadline: on its way down the wheel, when it is due, and
//! when it is set anew. This one is the system's: the loop is woken when it is due and not otherwise. Deliberately not
//! here: timers of single connections, which are many and seldom due.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An alarm that was set within this time is not put off: a loop whose deadline moves with every turn then asks the
/// system a hundred times a second at most, and one that is idle is never rung for a deadline that has moved.
const SETTLED: Duration = Duration::from_millis(10);

/// Rings when it is due, once: its descriptor becomes readable. Nothing is ever read from it: its events come once each,
/// and setting it anew takes back what has expired.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    /// When it rings, and when it was set.
    set: Option<(Duration, Duration)>,
}

impl Alarm {
    /// One that is not set.
    ///
    /// # Errors
    /// The system has no timer left.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer, set: None })
    }

    /// The clock that it goes by, which counts while the machine is suspended, too.
    pub fn clock() -> Duration {
        let boot = clock_gettime(ClockId::Boottime);
        Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32)
    }

    /// It rings at `due`, or a little earlier: not later. `now` is [`Self::clock`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn set(&mut self, now: Duration, due: Duration) -> io::Result<()> {
        let stays = self.set.is_some_and(|(rings, since)| rings == due || (rings < due && now < since + SETTLED));
        if stays {
            return Ok(());
        }
        // What is past rings at once; nothing at all would turn it off.
        let at = due.max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: at.as_secs() as i64, tv_nsec: i64::from(at.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        self.set = Some((due, now));
        Ok(())
    }

    /// It has rung. It may ring once more for what it was set to before.
    pub fn rang(&mut self) {
        self.set = None;
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

/// An alarm that a task waits for.
#[derive(Debug)]
pub struct Awaited(AsyncFd<Alarm>);

impl Awaited {
    /// One that is not set; must be made inside the runtime that waits for it.
    ///
    /// # Errors
    /// The system has no timer left.
    pub fn new() -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "it is said to be unsound for a descriptor that is exchanged or closed by others; this one is owned, and what takes its place is unsafe for every one"
        )]
        let alarm = AsyncFd::with_interest(Alarm::new()?, Interest::READABLE)?;
        Ok(Self(alarm))
    }

    /// As [`Alarm::set`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn set(&mut self, now: Duration, due: Duration) -> io::Result<()> {
        self.0.get_mut().set(now, due)
    }

    /// Waits until it rings.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn rung(&mut self) -> io::Result<()> {
        self.0.readable_mut().await?.clear_ready();
        self.0.get_mut().rang();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn it_rings_once_for_each_time_it_is_set_and_never_early() {
        run(async {
            let mut alarm = Awaited::new().unwrap();
            for _ in 0..3 {
                let now = Alarm::clock();
                let due = now + Duration::from_millis(3);
                alarm.set(now, due).unwrap();
                alarm.rung().await.unwrap();
                assert!(Alarm::clock() >= due);
                assert_eq!(alarm.0.get_ref().set, None);
            }
        });
    }

    #[test]
    fn what_is_past_rings_at_once() {
        run(async {
            let mut alarm = Awaited::new().unwrap();
            for due in [Duration::ZERO, Alarm::clock()] {
                alarm.set(Alarm::clock(), due).unwrap();
                alarm.rung().await.unwrap();
            }
        });
    }

    #[test]
    fn it_is_set_earlier_at_once_and_put_off_only_when_it_has_stood_for_a_while() {
        run(async {
            let mut alarm = Awaited::new().unwrap();
            let now = Alarm::clock();
            let at = |millis| now + Duration::from_millis(millis);
            let mut rings = |moment, due| {
                alarm.set(at(moment), at(due)).unwrap();
                alarm.0.get_ref().set.map(|(rings, _)| rings.checked_sub(now).unwrap().as_millis()).unwrap()
            };
            assert_eq!(rings(0, 60_000), 60_000);
            assert_eq!(rings(0, 50_000), 50_000);
            assert_eq!(rings(9, 70_000), 50_000);
            assert_eq!(rings(10, 70_000), 70_000);
        });
    }
}
