//! `sigaction`, `signal`: handed on; only whether this process catches any signal is noted.
//!
//! A pump blocks signals while it holds its lock, so that no handler runs above it. That is two system calls, and needless in
//! a process without handlers.

use crate::next;
use core::ffi::c_int;
use core::ffi::c_void;
use nlmmap_ring::lock::{Quiet, set_catches_signals};
use nlmmap_ring::sys;
use syscalls::Sysno;

/// `SIG_DFL` and `SIG_IGN` are 0 and 1.
fn is_handler(handler: usize) -> bool {
    handler > 1
}

pub unsafe fn sigaction(number: c_int, new: *const usize, old: *mut usize) -> c_int {
    // SAFETY: null or readable, the caller's duty; the handler is the first member in every C library.
    if !new.is_null() && is_handler(unsafe { new.read_unaligned() }) {
        set_catches_signals(true);
    }
    // SAFETY: handed on as it came.
    unsafe { next::sigaction(number, new, old) }
}

pub unsafe fn signal(number: c_int, handler: usize) -> usize {
    if is_handler(handler) {
        set_catches_signals(true);
    }
    // SAFETY: handed on as it came.
    unsafe { next::signal(number, handler) }
}

/// Every signal's present action: handler and flags, `None` where the kernel does not tell.
fn actions() -> impl Iterator<Item = Option<(usize, usize)>> {
    // 32 and 33 (34 in musl) are the C library's own, and never call anything of ours; 9 and 19 cannot be caught.
    (1..=64usize).filter(|number| !matches!(number, 9 | 19 | 32..=34)).map(|number| {
        let mut action = [0usize; 4];
        let args = [number, 0, action.as_mut_ptr() as usize, 8, 0, 0];
        // SAFETY: the kernel's structure has four words; nothing is changed.
        unsafe { sys::call(Sysno::rt_sigaction, args) }.ok().map(|_| (action[0], action[1]))
    })
}

/// Looks at them before the first socket is adopted: handlers may have come by roads we do not see (runtimes that call the
/// kernel themselves).
pub fn note_signals() {
    set_catches_signals(actions().any(|action| action.is_none_or(|(handler, _)| is_handler(handler))));
}

/// After `EINTR` of a call that is never restarted: whether one that is restarted would have been interrupted. It would not
/// if every handler of this process has `SA_RESTART`; which of several has run nobody can tell.
pub(super) fn interrupt() -> bool {
    const SA_RESTART: usize = 0x1000_0000;
    actions().any(|action| action.is_none_or(|(handler, flags)| is_handler(handler) && flags & SA_RESTART == 0))
}

/// Signals in a wait of several sleeps: blocked outside of them, so that one that comes between two ends the wait all the same.
/// The kernel's own wait has no such gaps.
pub(super) struct Gaps {
    quiet: Option<Quiet>,
    slept: bool,
}

impl Gaps {
    pub(super) fn new() -> Gaps {
        Gaps { quiet: None, slept: false }
    }

    /// Before a sleep, which is one of several if it is not the first or a short one. What it must be called with.
    pub(super) fn before(&mut self, is_short: bool) -> Own {
        if core::mem::replace(&mut self.slept, true) || is_short {
            self.quiet.get_or_insert_with(Quiet::begin);
        }
        Own(self.quiet.as_ref().and_then(Quiet::mask).map(|mask| {
            // A C library's set of signals has 1024 bits.
            let mut set = [0; 16];
            set[0] = mask.bits();
            (set, mask)
        }))
    }
}

/// The thread's own set, if signals are blocked.
pub(super) struct Own(Option<([u64; 16], sys::SignalMask)>);

impl Own {
    /// Nothing is blocked.
    pub(super) const NONE: Own = Own(None);

    /// The set for a call that takes one; null: it needs none.
    pub(super) fn set(&self) -> *const c_void {
        self.0.as_ref().map_or(core::ptr::null(), |(set, _)| set.as_ptr().cast())
    }

    /// The set for a call that the client gave one, which may be null.
    pub(super) fn unless(&self, given: *const c_void) -> *const c_void {
        if given.is_null() { self.set() } else { given }
    }

    /// The sleep is left for good: the thread has its set again.
    pub(super) fn restore(&self) {
        if let Some((_, mask)) = self.0 {
            sys::restore_signals(mask);
        }
    }
}
