//! From a descriptor to its endpoint, and an endpoint's life: who may act on what the table says.
//!
//! A number that was closed and used again where no hook saw it must never be taken for what it was. So the way in
//! ([`enter`]) asks the number for its cookie, except where no time has passed in which it could have changed hands
//! (interposer.md, "Identity").

use crate::local::{Local, now_mapping};
use crate::log::info;
use crate::{process, shown, table, watch};
use core::sync::atomic::Ordering;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;

pub use crate::table::{
    Entry, MOST, all, close_private, forget_private, is_adopted, leads_to, live, next_used, release_private, remove,
};

/// The endpoint of a descriptor, for a hook to work with until it calls [`Local::leave`]. `None`: hand the call on.
#[inline(always)]
pub fn enter(fd: i32) -> Option<&'static Local> {
    if table::is_nothing(fd) { None } else { enter_slow(fd) }
}

#[inline(never)]
fn enter_slow(fd: i32) -> Option<&'static Local> {
    let local = taken(fd)?;
    if confirm(fd, local) {
        return Some(local);
    }
    local.release();
    None
}

/// What the table says of a descriptor, whose number nobody has asked yet: for waits, which look at the memory of many sockets
/// and act on few. Who acts on the number, or tells the client something of it, asks [`confirm`] first.
pub fn borrow(fd: i32) -> Option<&'static Local> {
    taken(fd)
}

/// [`borrow`], in place.
#[inline(always)]
fn taken(fd: i32) -> Option<&'static Local> {
    process::pid();
    borrow_more(fd)
}

/// [`borrow`] for the next of a walk's descriptors: a fork child has settled the table before the first.
#[inline(always)]
pub fn borrow_more(fd: i32) -> Option<&'static Local> {
    loop {
        let Entry::Of(local) = table::look(fd) else { return None };
        if !local.try_use() {
            // Being buried, and this entry with it.
            core::hint::spin_loop();
            continue;
        }
        if !table::leads_to(fd, local) {
            local.release();
            continue;
        }
        return Some(local);
    }
}

/// Whether a number is the endpoint's socket at this instant.
#[inline]
pub fn is_still(fd: i32, local: &Local) -> bool {
    local.is_socket(fd)
}

/// Whether a number that leads to `local`, which the caller uses, is still its socket. If not, it leads nowhere from now on. (A
/// vfork child has descriptors of its own, but its parent's table: it changes nothing.)
#[inline(always)]
pub fn confirm(fd: i32, local: &Local) -> bool {
    let now = sys::ticks();
    if local.is_certain(now) {
        local.note_enter(now);
        return true;
    }
    ask(fd, local, now)
}

/// [`confirm`], by asking the number.
#[inline(never)]
fn ask(fd: i32, local: &Local, now: u64) -> bool {
    if is_still(fd, local) {
        local.note_enter(now);
        return true;
    }
    if table::leads_to(fd, local) && !process::is_vfork_child() {
        info!("fd {fd} was closed without a call we see: no longer a ring socket");
        remove(fd);
        // The backing thread may be in a call by it, which holds the socket: it must be gone for this call as it would be.
        watch::quiesce(local, fd);
    }
    false
}

/// Whether a descriptor is our own.
#[inline]
pub fn is_private(fd: i32) -> bool {
    table::is_noted(fd) && confirm_private(fd)
}

#[cold]
fn confirm_private(fd: i32) -> bool {
    if process::is_vfork_child() || table::is_ours(fd) {
        return true;
    }
    info!("fd {fd}, one of the library's own, was closed without a call we see");
    forget_private(fd);
    false
}

/// A number by which the real socket can be reached for sure, or -1. Numbers that are not it any more are forgotten.
pub fn certain_fd(local: &Local) -> i32 {
    loop {
        let fd = local.any_fd();
        if fd < 0 || is_still(fd, local) {
            return fd;
        }
        info!("fd {fd} was closed without a call we see: no longer a ring socket");
        if local.orphan.compare_exchange(fd, -1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            forget_private(fd);
        } else if table::leads_to(fd, local) {
            remove(fd);
        }
    }
}

/// A Local that stands for nothing yet: one used before, or a new one. It is marked live, and the caller is at work with it.
pub fn allocate() -> Result<&'static Local> {
    for local in all() {
        if local.users.claim() {
            if !local.live.load(Ordering::Relaxed) {
                local.orphan.store(-1, Ordering::Relaxed);
                local.cookie.store(0, Ordering::Relaxed);
                local.distrust();
                local.live.store(true, Ordering::Release);
                local.users.unclaim(1);
                return Ok(local);
            }
            // Whoever was to bury it meanwhile has found it claimed.
            local.users.unclaim(1);
            local.release();
        }
    }
    let page = sys::map_private(sys::pages(size_of::<Local>()))?.cast::<Local>();
    // SAFETY: fresh zeroed memory; every field of a Local is an atomic, for which zeroes are valid.
    let local = unsafe { &*page };
    local.users.begin_first();
    local.live.store(true, Ordering::Relaxed);
    local.orphan.store(-1, Ordering::Relaxed);
    table::publish(local);
    Ok(local)
}

/// The live endpoint of a socket, entered.
pub fn by_cookie(cookie: u64) -> Option<&'static Local> {
    all().find(|l| {
        if l.cookie.load(Ordering::Relaxed) != cookie || !l.try_use() {
            return false;
        }
        if l.live.load(Ordering::Acquire) && l.cookie.load(Ordering::Relaxed) == cookie {
            return true;
        }
        l.release();
        false
    })
}

/// A number that led to it was closed where no hook saw it, and leads elsewhere now. If that was the last one it ends here.
fn replaced(old: &'static Local) {
    if old.try_use() {
        old.release();
    }
}

/// Leads `fd` to `local`, and whatever it led to away.
pub fn insert(fd: i32, local: &'static Local) {
    if let Some(old) = table::insert(fd, local) {
        replaced(old);
    }
}

/// See [`table::adopt_private`].
pub fn adopt_private(fd: i32) -> i32 {
    table::adopt_private(fd, replaced)
}

/// See [`table::adopt_duplicate`].
pub fn adopt_duplicate(fd: i32) -> i32 {
    table::adopt_duplicate(fd, replaced)
}

/// See [`table::keep_private`].
pub fn keep_private(fd: i32) -> i32 {
    table::keep_private(fd, replaced)
}

/// `ENOMEM` for a descriptor beyond the table.
pub fn check(fd: i32) -> Result<()> {
    if table::has_room(fd) { Ok(()) } else { Err(Errno::NOMEM) }
}

impl Local {
    /// Ends a hook's work with it.
    #[inline]
    pub fn leave(&self) {
        self.note_leave();
        self.release();
    }

    /// Ends work with it, in which a number may have been confirmed.
    #[inline]
    pub fn leave_confirmed(&self) {
        if self.is_entered() {
            self.note_leave();
        }
        self.release();
    }

    /// Begins work with it. `false`: it is being made or buried, and not to be touched.
    #[inline]
    pub fn try_use(&self) -> bool {
        self.users.begin(|| self.is_over(), || self.bury())
    }

    /// Ends work with it that did not begin by a number; the last one out of a dead one takes its memory away.
    #[inline]
    pub fn release(&self) {
        self.users.end(|| self.is_over(), || self.bury());
    }

    /// By who has claimed it.
    fn bury(&self) {
        if self.live.load(Ordering::Relaxed) {
            watch::forget(self);
            // From here on no number leads here again, in a fork child neither.
            self.keep_no_duplicate();
            self.cookie.store(0, Ordering::Relaxed);
            shown::end(self);
            self.endpoint.move_descriptors(release_private);
            // SAFETY: claimed: nobody else is inside, and whoever comes is turned away.
            unsafe { self.endpoint.reset() };
            self.duty.free();
            self.live.store(false, Ordering::Release);
        }
    }

    /// Follows a new mapping, made just now. `false` when there are too many pieces to follow.
    pub fn add_range(&self, lo: usize, hi: usize) -> bool {
        let first = !self.is_mapped();
        let added = self.note_range(lo, hi, now_mapping());
        if added && first {
            self.count_mapping(1);
        }
        added
    }

    /// Forgets what was mapped in `lo..hi` before `nr`, and is not any more. Returns whether anything of ours was there.
    pub fn cut_range(&self, lo: usize, hi: usize, nr: usize) -> bool {
        let hit = self.forget_range(lo, hi, nr);
        if hit && !self.is_mapped() {
            self.count_mapping(-1);
            // A receive that sleeps goes on by the duplicate; the last one out of the endpoint closes it then.
            if self.fds.load(Ordering::Acquire) > 0 || self.duty.inside.load(Ordering::SeqCst) == 0 {
                self.keep_no_duplicate();
            }
        }
        hit
    }

    /// Closes the duplicate that kept the socket, if there is one.
    fn keep_no_duplicate(&self) {
        let orphan = self.orphan.swap(-1, Ordering::SeqCst);
        if orphan >= 0 {
            watch::forget(self);
            watch::quiesce(self, orphan);
            close_duplicate(self, orphan);
        }
    }

    fn count_mapping(&self, change: i32) {
        if let Some(control) = self.endpoint.control() {
            let held = control.lock.hold(process::pid());
            control.note_mapping(process::pid(), change);
            drop(held);
        }
    }
}

/// Closes the duplicate that kept a socket, if the number is still that.
fn close_duplicate(local: &Local, fd: i32) {
    let ours = is_still(fd, local);
    if forget_private(fd) && ours {
        sys::close(fd);
    }
}

/// A fork child makes the endpoints its own: no other thread is at work with them here.
///
/// The kernel copies descriptors before it copies memory, and memory page by page, while other threads of the parent go on: what
/// was copied of the table need not agree with the child's descriptors, nor with itself (interposer.md, "Identity"). So
/// everything is derived again from what each number is here.
pub fn after_fork(pid: u32) {
    for local in all() {
        local.duty.after_fork();
        local.endpoint.sending.store(0, Ordering::Relaxed);
        local.distrust();
        if !local.users.after_fork() {
            // Half made or half buried: whatever it was to become, it is nothing here. Its memory is not used again.
            local.cookie.store(0, Ordering::Relaxed);
            local.live.store(false, Ordering::Relaxed);
        }
    }
    table::after_fork(|fd, entry| match entry {
        Entry::Nothing => false,
        Entry::Own => table::is_ours(fd),
        Entry::Of(local) => {
            local.live.load(Ordering::Relaxed) && local.cookie.load(Ordering::Relaxed) != 0 && is_still(fd, local)
        }
    });
    for local in all().filter(|l| l.live.load(Ordering::Relaxed)) {
        let orphan = local.orphan.load(Ordering::Relaxed);
        if orphan >= 0 && !table::is_noted(orphan) {
            local.orphan.store(-1, Ordering::Relaxed);
        }
        if local.is_mapped()
            && let Some(control) = local.endpoint.control()
        {
            let held = control.lock.hold(pid);
            control.note_mapping(pid, 1);
            drop(held);
        }
        if local.try_use() {
            // What was only just made, or only just left, ends here.
            local.release();
        }
    }
}

#[cfg(any(test, fuzzing))]
#[allow(missing_docs, unused_imports, reason = "tests, and a fuzz target")]
pub mod tests;
