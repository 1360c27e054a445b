//! Waits that the front has answered by itself, and when it may (`nlmmap_ring::waits`).

use std::sync::atomic::Ordering;
use std::time::Instant;

use nlmmap_ring::control::flag;
use nlmmap_ring::waits::Heard;

use super::Open;

/// How a client gets on with its ring.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// It is full, and the client has not come to its newest frame.
    On,
    /// The client has gone through it, and there is more in the socket.
    Through,
    /// It is not full, or is filled when it is asked for.
    Over,
}

impl Open {
    /// Notes the waits that the front has answered, as [`Open::note_wait`] does those that are answered here. Whether there were any.
    pub fn hear_front(&mut self) -> bool {
        let Some(control) = self.endpoint.control() else {
            return false;
        };
        match control.waits.heard(&mut self.notes) {
            Heard::Nothing => return false,
            Heard::One(seen) if !self.has_sleeper() => self.note_told(seen, Instant::now()),
            // Who was told that there is nothing, or may have been told of less than another, is told of whatever there is.
            Heard::One(_) | Heard::Several => self.note_sleeper(Instant::now()),
        }
        true
    }

    /// Whether nothing is taken from the socket but what is asked for: a dump goes on when it is waited for (`netlink_poll`), not before;
    /// and strict mode does what the kernels did when they did it.
    pub(super) fn is_asked_for(&self) -> bool {
        self.is_strict() || self.control().is_some_and(|control| control.has(flag::DUMP) || control.has(flag::DUMPING))
    }

    /// How the client gets on with a ring that was full when it was told of it.
    pub fn walk(&self) -> Walk {
        let Some(control) = self.control() else {
            return Walk::Over;
        };
        // Of a message for its `recv`, and of an error, it is the worker who tells.
        let is_alone = control.copies.load(Ordering::Relaxed) == 0 && control.error.load(Ordering::Relaxed) == 0;
        match self.endpoint.holds_newest() {
            _ if !self.is_blocked() || self.is_asked_for() => Walk::Over,
            true if is_alone => Walk::On,
            true => Walk::Over,
            false => Walk::Through,
        }
    }

    /// From now on the front may answer waits: the engine looks at the ring by itself. `number` is another one each time.
    pub fn attend(&mut self, number: u32) {
        self.attended = number;
        if let Some(control) = self.control() {
            control.waits.attend(number);
        }
    }

    /// From now on it may not. Whether it has answered any since it was last heard.
    pub fn leave(&mut self) -> bool {
        self.attended = 0;
        if let Some(control) = self.control() {
            control.waits.leave();
        }
        self.hear_front()
    }
}
