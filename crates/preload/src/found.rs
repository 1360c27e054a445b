//! What the constructor has found: the environment's wishes, and the few functions of the C library that we use ourselves.

use crate::elf::{self, weak};
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether `NLMMAP_STRICT` asks for 4.5's answers.
pub static STRICT: AtomicBool = AtomicBool::new(false);
/// `pthread_create`, 0 when the process has none.
pub static PTHREAD_CREATE: AtomicUsize = AtomicUsize::new(0);
/// `pthread_detach`
pub static PTHREAD_DETACH: AtomicUsize = AtomicUsize::new(0);
/// `pthread_testcancel`
pub static TESTCANCEL: AtomicUsize = AtomicUsize::new(0);

/// Whether the constructor has run.
pub static CONSTRUCTED: AtomicBool = AtomicBool::new(false);

/// Whether the C library is glibc.
pub fn is_glibc() -> bool {
    weak!("gnu_get_libc_version") != 0
}

/// Whether a thread can be made: glibc must have been initialized for that, which it tells from 2.32 on by a byte that is 1
/// until there is a second thread.
pub fn may_have_threads() -> bool {
    if CONSTRUCTED.load(Ordering::Acquire) || !is_glibc() {
        return true;
    }
    let single = weak!("__libc_single_threaded") as *const u8;
    // SAFETY: null, or glibc's variable.
    unsafe { single.as_ref() }.is_some_and(|s| *s != 0)
}

/// `pthread_create` and `pthread_detach`, looked for now if the constructor has not run. 0 for none.
pub fn threads() -> (usize, usize) {
    let find = |slot: &AtomicUsize, name: &CStr| match slot.load(Ordering::Relaxed) {
        0 => elf::next(name),
        at => at,
    };
    (find(&PTHREAD_CREATE, c"pthread_create"), find(&PTHREAD_DETACH, c"pthread_detach"))
}

/// `pthread_testcancel`: a wait that is answered from memory is a cancellation point all the same.
#[inline]
pub fn test_cancel() {
    let at = TESTCANCEL.load(Ordering::Relaxed);
    if at != 0 {
        // SAFETY: the C library's pthread_testcancel takes nothing.
        let f = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn()>(at) };
        // SAFETY: as above; no value with a destructor is alive in our frames.
        unsafe { f() };
    }
}
