//! `SIGPIPE` as the caller left it.
//!
//! Rust's start-up code ignores `SIGPIPE`. A program that `nlmmap run` turns into would inherit that and see `EPIPE`
//! where it expects to be ended, so what was there before is kept and put back.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Runs before Rust's own start-up.
#[used]
#[unsafe(link_section = ".init_array")]
static KEEP: extern "C" fn() = keep;

extern "C" fn keep() {
    // SAFETY: all-zero bytes are a valid `sigaction`; the call only writes to it.
    let ignored = unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    };
    WAS_IGNORED.store(ignored, Ordering::Relaxed);
}

/// A pipe that nobody reads any more is an error of its `write`, not the end of the process.
pub fn ignore() {
    // SAFETY: no handler is installed, only a fixed disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Puts the disposition back that this process was started with. An exec leaves only these two.
pub fn restore() {
    let was = if WAS_IGNORED.load(Ordering::Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler is installed, only one of the two fixed dispositions.
    unsafe { libc::signal(libc::SIGPIPE, was) };
}
