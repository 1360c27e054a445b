//! The sockets that one wait has announced itself to, and takes its announcements back from: whatever has become of their
//! numbers meanwhile, and also when the thread is cancelled in the sleep or jumps out of it.

use super::signals::Own;
use super::wait;
use crate::cancel;
use crate::local::Local;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;

/// So many are noted: what a wait does with its list must cost little where it has one. From the others the announcement is
/// taken back by the way it was made, the descriptors.
const MOST: usize = 8;

/// Each with the cookie it had: its memory may stand for another socket by the end of the sleep.
pub(super) struct Announced {
    list: MaybeUninit<[(&'static Local, u64); MOST]>,
    nr: usize,
    /// A bit for each on the list: most that are not on it have another, and need no search.
    bits: u64,
    /// Whether there were more.
    has_more: bool,
}

/// Each has a page of its own.
fn bit(local: &Local) -> u64 {
    1 << (core::ptr::from_ref(local).addr() >> 12 & 63)
}

impl Announced {
    /// In place: the list is neither filled nor copied.
    #[inline(always)]
    pub(super) fn new() -> Announced {
        Announced { list: MaybeUninit::uninit(), nr: 0, bits: 0, has_more: false }
    }

    /// Announces the sleep to one more.
    pub(super) fn to(&mut self, local: &'static Local) {
        wait::announce(local);
        if self.nr == MOST {
            self.has_more = true;
            return;
        }
        // SAFETY: below MOST.
        let free = unsafe { self.list.as_mut_ptr().cast::<(&'static Local, u64)>().add(self.nr) };
        // SAFETY: inside the list, of which nobody else knows.
        unsafe { free.write((local, local.cookie.load(Relaxed))) };
        self.nr += 1;
        self.bits |= bit(local);
    }

    /// Whether the list was too short.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    fn entry(&self, at: usize) -> (&'static Local, u64) {
        // SAFETY: below MOST; the first `nr` have been written, and no other is asked for.
        unsafe { self.list.as_ptr().cast::<(&'static Local, u64)>().add(at).read() }
    }

    /// Takes it back from one that is not on the list.
    pub(super) fn withdraw_from(&self, local: &'static Local) {
        if self.bits & bit(local) == 0 || !(0..self.nr).any(|at| core::ptr::eq(self.entry(at).0, local)) {
            wait::withdraw(local);
        }
    }

    fn withdraw(&self) {
        for at in 0..self.nr {
            let (local, cookie) = self.entry(at);
            if local.live.load(Relaxed) && local.cookie.load(Relaxed) == cookie {
                wait::withdraw(local);
            }
        }
    }

    /// Runs the sleep, then withdraws. `cleanup` is what the caller does after it in any case, `own` what it is called with.
    pub(super) fn sleep<R>(&self, own: &Own, cleanup: impl Fn(), sleep: impl FnOnce() -> R) -> R {
        let leave = || {
            cleanup();
            self.withdraw();
        };
        let leave_for_good = || {
            leave();
            own.restore();
        };
        let result = cancel::guarded(&leave_for_good, sleep);
        leave();
        result
    }
}
