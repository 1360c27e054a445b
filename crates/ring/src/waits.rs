//! Waits that a daemon's front answers, while a worker attends to the ring.
//!
//! A worker *attends* to a ring whose client is at work: it looks at it every so often and fills it unasked. As long as it does, the
//! front may answer a wait with "ready" by itself, where it sees that the newest frame is `VALID`, which saves two processes
//! being woken. The worker has to hear of each such wait, since whoever was told may be edge-triggered, and sleep next. It does so
//! here: the front notes what the waiter is about to be told of, and looks once more whether that is all; the worker publishes, and
//! then looks at the notes. Between its own two steps each has a fence, so one of them sees the other: either the front sees the new
//! frame, and asks the worker as ever, or the worker sees the note, and gives word of the frame. The same for the end of attendance.
//! docs/device.md, "Waiting"; the model is `tests/loom/notes.rs`.

use crate::atomic::{AtomicU32, Ordering, fence};
use Ordering::{Acquire, Relaxed, Release, SeqCst};

/// What was in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Position of the newest frame.
    pub newest: u32,
    /// Frames published by then.
    pub published: u32,
    /// Errors told by then.
    pub errors: u32,
}

/// What the worker hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nobody was answered since it last looked.
    Nothing,
    /// A wait was, or is about to be, and this is what it has seen.
    One(Seen),
    /// Several, or what the last has seen cannot be told at this moment.
    Several,
}

/// All zeroes is a ring that nobody attends to.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Waits {
    /// Not 0 while a worker attends to the ring, and another number each time. Written by the worker.
    attended: AtomicU32,
    /// Twice the notes, and one while one is written. Written, with the rest, by the front.
    count: AtomicU32,
    newest: AtomicU32,
    published: AtomicU32,
    errors: AtomicU32,
}

impl Waits {
    /// The front: whether a wait is to be answered with "ready". `look` tells what there is, if that is all that could be told,
    /// `is_valid` whether the newest frame is. One thread at a time.
    pub fn answers(&self, look: impl Fn() -> Option<Seen>, is_valid: impl FnOnce(&Seen) -> bool) -> bool {
        let attended = self.attended.load(Acquire);
        if attended == 0 {
            return false;
        }
        let Some(seen) = look() else { return false };
        let count = self.count.load(Relaxed) | 1;
        self.count.store(count, Relaxed);
        fence(Release);
        self.newest.store(seen.newest, Relaxed);
        self.published.store(seen.published, Relaxed);
        self.errors.store(seen.errors, Relaxed);
        self.count.store(count.wrapping_add(1), Release);
        // Between the note and the second look.
        fence(SeqCst);
        self.attended.load(Acquire) == attended
            && look() == Some(seen)
            && is_valid(&seen)
            // The rings are still those that were looked at.
            && self.attended.load(Acquire) == attended
    }

    /// The worker: from now on it looks at the ring by itself. `number` is not 0, and another one each time.
    pub fn attend(&self, number: u32) {
        self.attended.store(number, Release);
    }

    /// The worker: from now on it does not. What was answered until then is heard by the next [`Self::heard`].
    pub fn leave(&self) {
        self.attended.store(0, Release);
    }

    /// Whether it does.
    pub fn is_attended(&self) -> bool {
        self.attended.load(Relaxed) != 0
    }

    /// The worker: who was answered since `known`, which is its own. Whatever it has published before is seen by everybody who is not
    /// heard of here.
    pub fn heard(&self, known: &mut u32) -> Heard {
        // Between the frame, or the end of attendance, and this look.
        fence(SeqCst);
        let count = self.count.load(Acquire);
        let news = count.wrapping_sub(*known);
        if news == 0 {
            return Heard::Nothing;
        }
        *known = count;
        let seen = Seen {
            newest: self.newest.load(Relaxed),
            published: self.published.load(Relaxed),
            errors: self.errors.load(Relaxed),
        };
        fence(Acquire);
        let is_whole = count & 1 == 0 && self.count.load(Relaxed) == count;
        if is_whole && news <= 2 { Heard::One(seen) } else { Heard::Several }
    }
}
