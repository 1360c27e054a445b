//! Which process this is: fork and vfork are told apart without being hooked.
//!
//! A private page with `MADV_WIPEONFORK` holds a mark. After `fork` the mark is gone (the child has a copy of our tables and
//! makes it its own at the first call that concerns an endpoint); after `vfork` the mark is there but the process id is
//! another one (the child borrows the parent's memory: hand everything on, write nothing).

use crate::mark::Mark;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use nlmmap_ring::{lock, sys};

static PID: AtomicU32 = AtomicU32::new(0);
static MARK: AtomicPtr<Mark> = AtomicPtr::new(core::ptr::null_mut());
/// What a fork child does with its copy of the tables ([`on_fork`]), 0 for nothing yet.
static TAKE_OVER: AtomicUsize = AtomicUsize::new(0);
/// What is done before a fork ([`before_fork`]), 0 for nothing.
static BEFORE: AtomicUsize = AtomicUsize::new(0);
/// Threads of this process that are in the C library's `fork`; in a child, those of its parent at the copy.
static FORKING: AtomicU32 = AtomicU32::new(0);
/// Whether this is a child whose `fork` has not returned: a signal's handler runs inside it.
static UNFINISHED: AtomicBool = AtomicBool::new(false);

/// Says what a fork child does, given its process id, before its first call that concerns an endpoint.
pub fn on_fork(take_over: fn(u32)) {
    TAKE_OVER.store(take_over as usize, Ordering::Relaxed);
}

/// Says what is done before a fork that the C library knows of.
pub fn before_fork(prepare: fn()) {
    BEFORE.store(prepare as usize, Ordering::Relaxed);
}

/// Notes how children are announced: glibc's or musl's `atfork`, 0 for none.
pub fn construct(register_atfork: usize, pthread_atfork: usize) {
    type Handler = extern "C" fn();
    extern "C" fn child() {
        settle();
        FORKING.store(0, Ordering::Relaxed);
        UNFINISHED.store(false, Ordering::Relaxed);
    }
    extern "C" fn parent() {
        FORKING.fetch_sub(1, Ordering::Relaxed);
    }
    extern "C" fn prepare() {
        FORKING.fetch_add(1, Ordering::Relaxed);
        let before = BEFORE.load(Ordering::Relaxed);
        if before != 0 {
            // SAFETY: only `before_fork` stores here.
            let before = unsafe { core::mem::transmute::<usize, fn()>(before) };
            before();
        }
    }
    if register_atfork != 0 {
        // SAFETY: glibc's `__register_atfork(prepare, parent, child, dso_handle)`.
        let f = unsafe {
            core::mem::transmute::<usize, unsafe extern "C" fn(Handler, Handler, Handler, usize) -> i32>(
                register_atfork,
            )
        };
        // SAFETY: the handler stays: the library is never unloaded.
        let _ = unsafe { f(prepare, parent, child, 0) };
    } else if pthread_atfork != 0 {
        // SAFETY: POSIX `pthread_atfork(prepare, parent, child)`.
        let f = unsafe {
            core::mem::transmute::<usize, unsafe extern "C" fn(Handler, Handler, Handler) -> i32>(pthread_atfork)
        };
        // SAFETY: as above.
        let _ = unsafe { f(prepare, parent, child) };
    }
}

/// Makes the mark, before the first socket is adopted.
pub fn prepare() -> nlmmap_ring::errno::Result<()> {
    if !MARK.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let page = sys::map_private(sys::PAGE)?.cast::<Mark>();
    // SAFETY: a fresh private page of ours. On a kernel without the advice (before 4.14) nothing would tell a fork: refuse.
    let advised = unsafe { sys::advise(page.cast(), sys::PAGE, linux_raw_sys::general::MADV_WIPEONFORK) };
    if let Err(e) = advised {
        // SAFETY: seen by nobody.
        unsafe { sys::unmap(page.cast(), sys::PAGE) };
        return Err(e);
    }
    // SAFETY: page-aligned, zeroed, ours.
    unsafe { (*page).make() };
    PID.store(sys::getpid(), Ordering::Relaxed);
    if MARK.compare_exchange(core::ptr::null_mut(), page, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: another thread was first; ours was seen by nobody.
        unsafe { sys::unmap(page.cast(), sys::PAGE) };
    }
    Ok(())
}

/// This process's id, after making the tables this process's own if it is a fork child.
#[inline]
pub fn pid() -> u32 {
    // SAFETY: null or our page, which stays mapped.
    if let Some(mark) = unsafe { MARK.load(Ordering::Acquire).as_ref() }
        && !mark.is_ours()
    {
        settle();
    }
    PID.load(Ordering::Relaxed)
}

/// Whether this is a vfork child: it runs in its parent's memory.
pub fn is_vfork_child() -> bool {
    pid() != sys::getpid()
}

/// Whether this is a child whose C library is still forking: its locks are held until that is over, the allocator's too, and whoever
/// waited for one of them here would wait for the code that it has interrupted.
pub fn is_unfinished() -> bool {
    UNFINISHED.load(Ordering::Relaxed)
}

/// A fork child takes over its copy of the tables.
#[cold]
fn settle() {
    // SAFETY: null or our page.
    let Some(mark) = (unsafe { MARK.load(Ordering::Acquire).as_ref() }) else {
        return;
    };
    // A handler that ran above this, and called, would wait for it for ever.
    let _quiet = lock::Quiet::begin();
    mark.settle(|| {
        let pid = sys::getpid();
        PID.store(pid, Ordering::Relaxed);
        UNFINISHED.store(FORKING.load(Ordering::Relaxed) > 0, Ordering::Relaxed);
        let take_over = TAKE_OVER.load(Ordering::Relaxed);
        if take_over != 0 {
            // SAFETY: only `on_fork` stores here.
            let take_over = unsafe { core::mem::transmute::<usize, fn(u32)>(take_over) };
            take_over(pid);
        }
    });
}
