//! Where somebody may look at the real socket unseen, its queue is not left empty beside a frame: once a frame is `VALID`, the socket
//! is readable until the client has released it (readiness.md, "What a raw look sees").
//!
//! So nothing is taken out of the queue unless something stays behind it:
//! - of a queue without a doorbell the first message is looked at, not taken; it goes when its frame is there and the bell behind it;
//! - in front of a doorbell so many are taken as are sure to be there, by what the kernel charges to the queue;
//! - whatever was published after the last bell has another one rung behind it, which is news for edge-triggered waiters.

use super::{End, Pump, Step};
use crate::control::flag;
use crate::endpoint::{Scratch, VLEN};
use crate::errno::Errno;
use crate::ring;
use crate::socket::Socket;
use crate::sys::{MMsgHdr, MSG_DONTWAIT, MSG_PEEK};
use core::sync::atomic::Ordering::Relaxed;

/// A message of `len` bytes is charged this much at most beside twice its length and what a doorbell is: a buffer is at most twice as
/// large as what is in it, or is made smaller (`netlink_trim`, `kmalloc_size_roundup`).
const OVERHEAD: u32 = 384;

/// A receive that fails so often is left to the next run.
const FAILURES: u32 = 64;

impl<S: Socket> Pump<'_, S> {
    /// Whether this run has to see to it.
    #[inline]
    pub(super) fn keeps_level(&self) -> bool {
        self.endpoint.unseen.load(Relaxed)
            && !self.drains.get()
            && self.control.flags.load(Relaxed) & (flag::NO_BELL | flag::PLUG) == 0
    }

    /// Receives into up to `most` frames from `start` on, the first of which is free.
    #[cold]
    pub(super) fn level(&self, start: u32, most: u32) -> Step {
        if !self.control.has(flag::BELL) {
            return self.first(start);
        }
        let Some(others) = self.others() else {
            self.drains.set(true);
            return Step::Moved;
        };
        if others == 0 {
            return self.emptied();
        }
        let bells = self.control.bells.load(Relaxed);
        if self.old_bells.get() > 0 {
            // By itself, since it is likely to be a doorbell, which must not leave a gap in the ring.
            if bells == 1 && others >= 2 * self.control.bell_bytes.load(Relaxed) {
                self.ring_or_drain();
            }
            self.past_first.set(true);
            let before = self.control.bells.load(Relaxed);
            let step = self.one_private();
            let took_bell = self.control.bells.load(Relaxed) < before;
            self.old_bells.set(if took_bell { self.old_bells.get() - 1 } else { 0 });
            return step;
        }
        // One bell stays.
        let sure = others.div_ceil(self.most_charged()) + bells.saturating_sub(1);
        let most = ring::unused_run(self.ring, start, sure.min(most)) as usize;
        match self.receive(start, most, MSG_DONTWAIT) {
            Ok(received) => self.have(start, received),
            Err(error) => self.failed(error),
        }
    }

    /// Nothing may be behind the first message: it stays in the queue until its frame is there, and a doorbell.
    fn first(&self, start: u32) -> Step {
        if let Err(error) = self.receive(start, 1, MSG_PEEK | MSG_DONTWAIT) {
            return self.failed(error);
        }
        // From here on a process that dies has it lost, and not twice.
        self.control.set(flag::PLACED, true);
        let step = self.have(start, 1);
        if self.readable() {
            self.ring_or_drain();
        }
        if self.drop_placed() == Step::Stop { Step::Stop } else { step }
    }

    /// Takes in what has been received.
    fn have(&self, start: u32, received: usize) -> Step {
        self.note_lengths(received);
        self.take_in(start, received);
        self.received.set(self.received.get() + received as u32);
        if self.end.get() == End::Answered { Step::Stop } else { Step::Moved }
    }

    /// Receives the message that has its frame.
    pub(super) fn drop_placed(&self) -> Step {
        for _ in 0..FAILURES {
            let error = match self.receive_private(0, 0) {
                Ok(_) => Errno::AGAIN,
                Err(error) => error,
            };
            if error == Errno::AGAIN {
                self.control.set(flag::PLACED, false);
                return Step::Moved;
            }
            if self.failed(error) == Step::Stop {
                return Step::Stop;
            }
        }
        Step::Stop
    }

    /// Before one message is taken: something has to be behind it.
    #[cold]
    pub(super) fn guard(&self) -> Step {
        if !self.keeps_level() {
            return Step::Moved;
        }
        if self.control.has(flag::BELL) {
            return if self.others() == Some(0) { self.emptied() } else { Step::Moved };
        }
        match self.receive_private(0, MSG_PEEK) {
            Ok(_) => self.ring_behind(),
            Err(error) => return self.failed(error),
        }
        Step::Moved
    }

    /// A message is in the queue and about to be taken: rings behind it, unless there is a bell.
    pub(super) fn ring_behind(&self) {
        if self.keeps_level() && !self.control.has(flag::BELL) {
            self.ring_or_drain();
        }
    }

    fn ring_or_drain(&self) {
        if !self.ring_one() {
            self.drains.set(true);
        }
    }

    /// What the kernel charges for a message at most, if it is no longer than those of late.
    fn most_charged(&self) -> u32 {
        let longest = self.control.rx_longest.load(Relaxed);
        longest.saturating_mul(2).saturating_add(self.control.bell_bytes.load(Relaxed) + OVERHEAD)
    }

    /// Notes how long the messages are that were just received.
    fn note_lengths(&self, received: usize) {
        let scratch: *mut Scratch = self.endpoint.scratch();
        let len = |i: usize| {
            // SAFETY: below VLEN, as many as were received; written by the receive, which is over, and the lock's holder's.
            unsafe { (&raw const (*scratch).msgs).cast::<MMsgHdr>().add(i).read().len }
        };
        let longest = (0..received.min(VLEN)).map(len).max().unwrap_or(0);
        let before = self.control.rx_longest.load(Relaxed);
        self.control.rx_longest.store(longest.max(before - before / 16), Relaxed);
    }
}
