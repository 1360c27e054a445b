//! Rings that are filled with more than their clients have asked for, and before they ask.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;

use super::super::ahead::LOOKS;
use super::super::open::Open;
use super::super::open::notes::Walk;
use super::super::open::pace::Cause;
use super::Engine;

/// So long a wait is not answered while more than one slice is taken for it.
const MORE: Duration = Duration::from_millis(1);

impl Engine {
    /// Fills more of the ring of one who asks and will come back at once, for a moment and as long as nobody else wants anything.
    pub(super) fn fill_on(&mut self, handle: u64) {
        let began = Instant::now();
        while self.opens.get(&handle).is_some_and(Open::has_more) && began.elapsed() < MORE {
            if self.hear_sockets(EpollTimeout::ZERO) {
                return;
            }
            self.wake_sleepers();
            if self.line.iter().chain(&self.fresh).any(|other| *other != handle) {
                return;
            }
            if !self.opens.get_mut(&handle).is_some_and(Open::take_more) {
                return;
            }
        }
    }

    /// A wait is answered with a full ring: from now on it is looked at.
    pub(super) fn attend(&mut self, handle: u64) {
        self.ahead.note(Instant::now());
        let opens = &self.opens;
        self.ahead.tidy(opens.len(), |handle, number| opens.get(&handle).is_some_and(|open| open.attended == number));
        if let Some(open) = self.opens.get_mut(&handle).filter(|open| open.attended == 0) {
            open.attend(self.ahead.attend(handle));
        }
    }

    /// With nothing to do: fills a ring whose client has gone through it. How long to sleep, if not until there is something.
    pub(super) fn look_ahead(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let due = self.times.peek().map(|Reverse((due, _))| due.saturating_duration_since(now));
        if self.ahead.is_empty() {
            self.ahead.rest();
            return due;
        }
        let is_over = self.ahead.is_over(now);
        for _ in 0..self.ahead.len().min(LOOKS) {
            let Some((handle, number)) = self.ahead.pop() else { break };
            let Some(open) = self.opens.get_mut(&handle).filter(|open| open.attended == number) else {
                continue;
            };
            if open.hear_front() {
                self.ahead.note(now);
            }
            match open.walk() {
                Walk::On if !is_over => self.ahead.push((handle, number)),
                Walk::Through => {
                    self.ahead.push((handle, number));
                    self.ahead.note(now);
                    open.pump = true;
                    self.enqueue(handle, true);
                    return Some(Duration::ZERO);
                }
                Walk::On | Walk::Over => {
                    open.leave();
                    self.after(handle, Cause::Background);
                }
            }
        }
        if self.ahead.is_empty() {
            // Those who were left may have to be looked at at some time.
            return Some(Duration::ZERO);
        }
        if self.ahead.stays_awake(now) {
            // For those of this session; others are woken in its place.
            std::thread::yield_now();
            return Some(Duration::ZERO);
        }
        let nap = self.ahead.nap();
        Some(due.map_or(nap, |due| due.min(nap)))
    }
}
