//! What has come, who is to be told of it, and when a full ring is looked at again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nlmmap_ring::control::flag;
use nlmmap_ring::readiness;
use nlmmap_ring::rx::Context;

use super::pace::Cause;
use super::{FIRST_NAP, MOST, Open, ready};

/// How rarely a full ring is looked at in the end.
const LAST_NAP: Duration = Duration::from_secs(2);
/// `POLLMSG`: there is something for `NLMMAP_RECV`.
const MESSAGE: u32 = 0x400;
const READABLE: i16 = libc::POLLIN | libc::POLLRDNORM;

impl Open {
    /// What `poll` answers.
    pub fn events(&self) -> u32 {
        if !self.receives() {
            // Nobody is told of what will not arrive.
            self.sifted().clear_front();
        }
        let (mask, message) = match self.control() {
            Some(control) if self.receives() => {
                (readiness::mask(&self.endpoint, control), control.copies.load(Ordering::Relaxed) > 0)
            }
            _ => {
                let seen = self.sifter.as_ref().is_some_and(|sifter| sifter.has_error());
                let mask = self.socket.events()
                    | if self.own.is_empty() { 0 } else { READABLE }
                    | if seen { READABLE | libc::POLLERR } else { 0 };
                (mask, mask & readiness::IN != 0)
            }
        };
        let message = if message || mask & readiness::ERR != 0 { MESSAGE } else { 0 };
        u32::from(mask.cast_unsigned()) | message
    }

    pub(super) fn is_ready(&self) -> bool {
        self.events() & u32::from((readiness::IN | readiness::ERR).cast_unsigned()) != 0
    }

    /// Whether a `read` would get a message or an error: VALID frames are not its business.
    fn has_for_read(&self) -> bool {
        if !self.receives() {
            self.sifted().clear_front();
        }
        match self.control() {
            Some(control) if self.receives() => {
                control.copies.load(Ordering::Relaxed) > 0 || control.error.load(Ordering::Relaxed) != 0
            }
            _ if self.sifter.as_ref().is_some_and(|sifter| sifter.has_error()) => true,
            _ => !self.own.is_empty() || self.socket.events() & (libc::POLLIN | libc::POLLERR) != 0,
        }
    }

    pub fn service(&mut self, context: Context) {
        if self.receives() {
            self.endpoint.service(&self.sifted(), self.pid, context);
            self.pump |= self.is_tired();
        } else {
            self.sifted().clear_front();
        }
    }

    /// Takes more for one who waits. Whether anything came of it.
    pub fn take_more(&mut self) -> bool {
        let before = self.moved_so_far();
        self.service(Context::Wait);
        self.moved_so_far() != before
    }

    fn moved_so_far(&self) -> u64 {
        self.control().map_or(0, |control| {
            control.counters.rx_frames.load(Ordering::Relaxed) + control.counters.rx_copies.load(Ordering::Relaxed)
        })
    }

    /// Something has happened to the socket: moves messages.
    pub fn moved(&mut self) {
        let (before, error) = (self.moved_so_far(), std::mem::take(&mut self.error));
        self.service(Context::Background);
        // It may have stopped only to let others have their turn.
        let moved = self.moved_so_far().wrapping_sub(before);
        self.pump = moved >= u64::from(MOST) || self.is_tired();
        if moved != 0 {
            // The client releases frames, though the ring may be full again.
            self.next_nap = FIRST_NAP;
        }
        if error
            && self.receives()
            && let Some(control) = self.control()
        {
            // While its ring is full the pump does not receive, and so does not see the error of a lost message.
            let error = self.socket.take_error();
            if error != 0 {
                self.endpoint.pass_on(control, nlmmap_ring::errno::Errno(error));
            }
        }
    }

    /// Of those who want to be told, who is to be told now. The pump comes first, always: nobody is told early.
    pub fn tell(&mut self, from: Cause) -> u64 {
        let mut who = 0;
        // After all that was published.
        self.hear_front();
        if from != Cause::Wait && self.watch & ready::POLL != 0 && self.is_ready() && self.is_time_to_tell(from) {
            who |= ready::POLL;
            self.told();
        }
        if self.watch & ready::READ != 0 && self.has_for_read() {
            who |= ready::READ;
        }
        self.watch &= !who;
        who
    }

    pub fn is_blocked(&self) -> bool {
        self.receives() && self.control().is_some_and(|control| control.has(flag::BLOCKED))
    }

    /// Whether there is more in the socket than was taken in one go, and room for it.
    pub fn has_more(&self) -> bool {
        let is_behind = self.control().is_some_and(|control| control.has(flag::BEHIND));
        self.receives() && is_behind && !self.is_blocked() && !self.is_asked_for() && !self.is_tired()
    }

    /// The client has shown itself: it is not kept waiting for what it may have released.
    pub fn seen(&mut self) {
        if self.is_blocked() {
            self.service(Context::Background);
            self.next_nap = FIRST_NAP;
            self.nap_until = None;
        }
    }

    /// While the ring is full nothing tells when it no longer is: when to look again, if that is not settled yet. Later and
    /// later, and then together with others.
    pub fn keep_looking(&mut self, start: Instant) -> Option<Instant> {
        if !self.is_blocked() {
            self.next_nap = FIRST_NAP;
            self.nap_until = None;
            return None;
        }
        if self.nap_until.is_some() {
            return None;
        }
        let mut due = start.elapsed() + self.next_nap;
        if self.next_nap * 8 > LAST_NAP {
            let grain = LAST_NAP.as_millis() as u64 / 4;
            due = Duration::from_millis((due.as_millis() as u64 / grain + 1) * grain);
        }
        self.next_nap = (self.next_nap * 2).min(LAST_NAP);
        self.nap_until = Some(start + due);
        self.nap_until
    }
}
