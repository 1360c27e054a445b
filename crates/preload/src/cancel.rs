//! What a thread leaves behind that is cancelled, or jumps away, inside a sleep of ours: nothing.
//!
//! `pthread_cancel` unwinds our frames without running anything of ours, and so does a handler's `siglongjmp`. The C
//! library's own list of clean-up handlers (`pthread_cleanup_push`, by the function that glibc and musl both export) is run
//! by both in glibc, and by cancellation in musl.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering};

/// `_pthread_cleanup_push`, 0 where the C library has none.
pub static PUSH: AtomicUsize = AtomicUsize::new(0);
/// `_pthread_cleanup_pop`
pub static POP: AtomicUsize = AtomicUsize::new(0);

/// Twice what either C library keeps for a handler.
type Buffer = MaybeUninit<[usize; 8]>;
type Push = unsafe extern "C" fn(*mut Buffer, extern "C" fn(*mut c_void), *mut c_void);
type Pop = unsafe extern "C" fn(*mut Buffer, i32);

/// Runs `sleep`; should it be left by cancellation or a jump, `cleanup` is run instead of what follows.
pub fn guarded<C: Fn(), R>(cleanup: &C, sleep: impl FnOnce() -> R) -> R {
    extern "C" fn run<C: Fn()>(arg: *mut c_void) {
        // SAFETY: the closure below, whose frame is there until the handler is taken off or has run.
        unsafe { (*arg.cast::<C>())() }
    }
    let (push, pop) = (PUSH.load(Ordering::Relaxed), POP.load(Ordering::Relaxed));
    if push == 0 || pop == 0 {
        return sleep();
    }
    // SAFETY: the C library's functions by their own names.
    let push = unsafe { core::mem::transmute::<usize, Push>(push) };
    // SAFETY: as above.
    let pop = unsafe { core::mem::transmute::<usize, Pop>(pop) };
    let mut buffer = Buffer::uninit();
    // SAFETY: buffer and closure stay in this frame, where C programs keep them too, until the pop.
    unsafe { push(&raw mut buffer, run::<C>, core::ptr::from_ref(cleanup).cast_mut().cast()) };
    let result = sleep();
    // SAFETY: pushed above; 0: not to be run.
    unsafe { pop(&raw mut buffer, 0) };
    result
}
