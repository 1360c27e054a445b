//! The sockets that one wait has announced itself to, and takes its announcements back from: whatever has become of their
//! numbers meanwhile, and also when the thread is cancelled in the sleep or jumps out of it.

use super::signals::Own;
use super::wait;
use crate::cancel;
use crate::local::Local;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;

/// More ring sockets than these in one wait are looked at after each of its naps.
const MOST: usize = 512;

/// Each with the cookie it had: its memory may stand for another socket by the end of the sleep.
pub(super) struct Announced {
    list: [MaybeUninit<(&'static Local, u64)>; MOST],
    nr: usize,
}

impl Announced {
    pub(super) fn new() -> Announced {
        Announced { list: [MaybeUninit::uninit(); MOST], nr: 0 }
    }

    /// Announces the sleep to one more. `true`: that cannot be done, and the sleep must be short.
    pub(super) fn to(&mut self, local: &'static Local) -> bool {
        let Some(free) = self.list.get_mut(self.nr) else { return true };
        free.write((local, local.cookie.load(Relaxed)));
        self.nr += 1;
        wait::announce(local);
        false
    }

    fn withdraw(&self) {
        for entry in self.list.iter().take(self.nr) {
            // SAFETY: the first `nr` have been written.
            let (local, cookie) = unsafe { entry.assume_init() };
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
