//! What the constructor has found: the environment's wishes, and the few functions of the C library that we use ourselves.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether `NLMMAP_STRICT` asks for 4.5's answers.
pub static STRICT: AtomicBool = AtomicBool::new(false);
/// `pthread_create`, 0 when the process has none.
pub static PTHREAD_CREATE: AtomicUsize = AtomicUsize::new(0);
/// `pthread_detach`
pub static PTHREAD_DETACH: AtomicUsize = AtomicUsize::new(0);
/// `pthread_testcancel`
pub static TESTCANCEL: AtomicUsize = AtomicUsize::new(0);

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
