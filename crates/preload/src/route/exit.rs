//! The process ends: what went through the rings that are still open is said, where there is still somebody to say it.
//!
//! By `exit` and a return from `main` (the loader calls us), `_exit` and `_Exit`. Not by `exec`, whose failure goes on, by
//! `quick_exit`, raw system calls and signals.

use crate::fdtable;
use crate::log::{self, Level};
use crate::next;
use crate::shown;
use core::ffi::c_int;
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::sys;
use syscalls::Sysno;

extern "C" fn conclude() {
    if fdtable::live() == 0 {
        return;
    }
    if log::is_heard(Level::Info) {
        say();
    }
    shown::conclude();
}

/// Says it of the endpoints that this very process has made: not of those that a fork child has from its parent, nor in a
/// `vfork` child of the parent's own.
fn say() {
    let pid = sys::getpid();
    for local in fdtable::all() {
        if local.maker.load(Relaxed) == pid
            && local.live.load(Relaxed)
            && local.fds.load(Relaxed) > 0
            && local.try_use()
        {
            local.summary(local.any_fd(), "open at exit");
            local.release();
        }
    }
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".fini_array"))]
static DESTRUCTOR: extern "C" fn() = conclude;

pub unsafe fn _exit(status: c_int) {
    conclude();
    // SAFETY: handed on as it came.
    unsafe { next::_exit(status) };
    end(status)
}

#[allow(non_snake_case, reason = "a C name")]
pub unsafe fn _Exit(status: c_int) {
    conclude();
    // SAFETY: handed on as it came.
    unsafe { next::_Exit(status) };
    end(status)
}

/// These do not return.
fn end(status: c_int) -> ! {
    loop {
        // SAFETY: a number.
        let _ = unsafe { sys::call(Sysno::exit_group, [status as usize, 0, 0, 0, 0, 0]) };
    }
}
