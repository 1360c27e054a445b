//! When a parked reply has waited long enough: a timer for the earliest of them.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::channel::lock;

pub(crate) struct Deadlines {
    due: Mutex<BTreeSet<(Instant, u64)>>,
    timer: OwnedFd,
}

impl Deadlines {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { due: Mutex::default(), timer })
    }

    /// Readable once something may be due.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    pub(crate) fn add(&self, at: Instant, unique: u64) {
        let mut due = lock(&self.due);
        due.insert((at, unique));
        if due.first() == Some(&(at, unique)) {
            self.arm(Some(at));
        }
    }

    /// The timer stays as it is: at worst it fires for nothing.
    pub(crate) fn remove(&self, at: Instant, unique: u64) {
        lock(&self.due).remove(&(at, unique));
    }

    /// Takes out what is due, and sets the timer for the rest.
    pub(crate) fn take_due(&self) -> Vec<u64> {
        let mut due = lock(&self.due);
        let later = due.split_off(&(Instant::now(), u64::MAX));
        let taken = std::mem::replace(&mut *due, later);
        self.arm(due.first().map(|(at, _)| *at));
        taken.into_iter().map(|(_, unique)| unique).collect()
    }

    /// Sets the timer, which also makes it unreadable; `None` turns it off.
    fn arm(&self, at: Option<Instant>) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = at.map_or(zero, |at| {
            // Zero would turn it off.
            let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        let spec = Itimerspec { it_interval: zero, it_value: value };
        // The fd is a timer and the time is in range: nothing to fail with.
        let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires_within(deadlines: &Deadlines, patience: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
        poll(&mut [PollFd::new(&deadlines.as_fd(), PollFlags::IN)], Some(&timeout)).unwrap() == 1
    }

    #[test]
    fn the_earliest_is_due_first_and_what_was_removed_never() {
        let deadlines = Deadlines::new().unwrap();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        deadlines.add(at(3_600_000), 1);
        assert!(!fires_within(&deadlines, Duration::ZERO));
        deadlines.add(at(20), 2);
        deadlines.add(at(10), 3);
        deadlines.add(at(15), 4);
        deadlines.remove(at(15), 4);
        let mut taken = Vec::new();
        while taken.len() < 2 {
            assert!(fires_within(&deadlines, Duration::from_secs(60)));
            taken.extend(deadlines.take_due());
        }
        assert_eq!(taken, [3, 2]);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(!fires_within(&deadlines, Duration::ZERO));
    }
}
