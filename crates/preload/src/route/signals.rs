//! `sigaction`, `signal`: handed on; only whether this process catches any signal is noted.
//!
//! A pump blocks signals while it holds its lock, so that no handler runs above it. That is two system calls, and needless in
//! a process without handlers.

use crate::next;
use core::ffi::c_int;
use nlmmap_ring::lock::set_catches_signals;
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

/// Looks at every signal's present action, before the first socket is adopted: handlers may have come by roads we do not see
/// (runtimes that call the kernel themselves).
pub fn note_signals() {
    let mut caught = false;
    for number in 1..=64usize {
        // 32 and 33 (34 in musl) are the C library's own, and never call anything of ours.
        if (32..=34).contains(&number) {
            continue;
        }
        let mut action = [0usize; 4];
        let args = [number, 0, action.as_mut_ptr() as usize, 8, 0, 0];
        // SAFETY: the kernel's structure has four words; nothing is changed.
        let asked = unsafe { sys::call(Sysno::rt_sigaction, args) };
        caught |= asked.is_err() && number != 9 && number != 19 || is_handler(action[0]);
    }
    set_catches_signals(caught);
}
