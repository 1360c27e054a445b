//! Waits that the front has answered by itself, and when it may (`nlmmap_ring::waits`).

use std::sync::atomic::Ordering;
use std::time::Instant;

use nlmmap_ring::control::flag;
use nlmmap_ring::waits::Heard;

use super::Open;

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

    /// Whether the ring is full, its client has been told so, and has nothing else to be told of.
    pub fn is_walked(&self) -> bool {
        let Some(control) = self.control() else {
            return false;
        };
        // A dump goes on when it is waited for (`netlink_poll`), not before; and strict mode does what the kernels did when they did it.
        let is_asked_for = self.is_strict() || control.has(flag::DUMP) || control.has(flag::DUMPING);
        self.is_blocked()
            && !is_asked_for
            && control.copies.load(Ordering::Relaxed) == 0
            && control.error.load(Ordering::Relaxed) == 0
            && self.endpoint.holds_newest()
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
        if std::mem::take(&mut self.attended) != 0
            && let Some(control) = self.control()
        {
            control.waits.leave();
        }
        self.hear_front()
    }
}
