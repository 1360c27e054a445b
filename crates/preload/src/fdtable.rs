//! Descriptor number to endpoint: one load for every call that is not ours.
//!
//! A number that was closed and used again behind our back is found out by the socket's cookie, compared at most once in a
//! while on the way into a hook ([`enter`]).

use crate::local::{CLAIMED, Local};
use crate::log::info;
use crate::process;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;
use syscalls::Sysno;

/// Descriptors beyond this cannot carry rings (`ENOMEM` at `setsockopt`, never later).
pub const MOST: usize = 65_536;
/// Time stamp ticks between two looks at a cookie, as a power of two: about a millisecond.
const CHECK_EVERY: u32 = 21;

static TABLE: [AtomicPtr<Local>; MOST] = [const { AtomicPtr::new(null_mut()) }; MOST];
/// When each number's cookie was last compared, 0 for never. By number: what one of a socket's numbers is says nothing of another.
static CHECKED: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];
static ALL: AtomicPtr<Local> = AtomicPtr::new(null_mut());
static LIVE: AtomicU32 = AtomicU32::new(0);
/// Behind the highest number that ever was in the table.
static HIGH: AtomicU32 = AtomicU32::new(0);

/// Stands in the table for a descriptor of our own. No Local lies there: they are pages of their own.
const PRIVATE: *mut Local = core::ptr::dangling_mut::<Local>();

fn slot(fd: i32) -> Option<&'static AtomicPtr<Local>> {
    TABLE.get(fd as u32 as usize)
}

fn checked(fd: i32) -> Option<&'static AtomicU32> {
    CHECKED.get(fd as u32 as usize)
}

/// How many descriptors lead to endpoints, and how many are our own.
#[inline]
pub fn live() -> u32 {
    LIVE.load(Ordering::Relaxed)
}

/// The endpoint of a descriptor, for a hook to work with until it calls [`Local::leave`]. `None`: hand the call on.
#[inline(always)]
pub fn enter(fd: i32) -> Option<&'static Local> {
    match slot(fd) {
        Some(slot) if !slot.load(Ordering::Relaxed).is_null() => enter_slow(fd, slot),
        _ => None,
    }
}

#[cold]
fn enter_slow(fd: i32, slot: &'static AtomicPtr<Local>) -> Option<&'static Local> {
    process::pid();
    let checked = checked(fd)?;
    loop {
        let at = slot.load(Ordering::Acquire);
        if at.is_null() || at == PRIVATE {
            return None;
        }
        // SAFETY: entries point to Locals, whose memory is never given back.
        let local = unsafe { &*at };
        if !local.try_use() {
            // Being buried, and this entry with it.
            core::hint::spin_loop();
            continue;
        }
        if slot.load(Ordering::Acquire) != at {
            local.leave();
            continue;
        }
        // Never 0.
        let now = (sys::ticks() >> CHECK_EVERY) as u32 | 1;
        if checked.load(Ordering::Relaxed) != now {
            if sys::cookie(fd).ok() != Some(local.cookie.load(Ordering::Relaxed)) {
                info!("fd {fd} was closed without a call we see: no longer a ring socket");
                remove(fd);
                local.leave();
                return None;
            }
            checked.store(now, Ordering::Relaxed);
        }
        return Some(local);
    }
}

/// Whether a descriptor is adopted, without entering.
#[inline]
pub fn is_adopted(fd: i32) -> bool {
    slot(fd).is_some_and(|s| {
        let at = s.load(Ordering::Relaxed);
        !at.is_null() && at != PRIVATE
    })
}

/// Whether a descriptor leads to this very endpoint.
pub fn leads_to(fd: i32, local: &Local) -> bool {
    slot(fd).is_some_and(|s| core::ptr::eq(s.load(Ordering::SeqCst), local))
}

/// Whether a descriptor is our own.
#[inline]
pub fn is_private(fd: i32) -> bool {
    slot(fd).is_some_and(|s| s.load(Ordering::Relaxed) == PRIVATE)
}

/// Leads `fd` to `local`, and whatever it led to away.
pub fn insert(fd: i32, local: &'static Local) -> bool {
    let (Some(slot), Some(checked)) = (slot(fd), checked(fd)) else { return false };
    HIGH.fetch_max(fd as u32 + 1, Ordering::AcqRel);
    checked.store(0, Ordering::Relaxed);
    local.fds.fetch_add(1, Ordering::AcqRel);
    let old = slot.swap(core::ptr::from_ref(local).cast_mut(), Ordering::AcqRel);
    if old.is_null() {
        LIVE.fetch_add(1, Ordering::Relaxed);
    } else if old != PRIVATE {
        // SAFETY: entries point to Locals.
        unsafe { &*old }.fds.fetch_sub(1, Ordering::AcqRel);
    }
    true
}

/// Leads `fd` nowhere. Returns the endpoint it led to, whose count of descriptors has been lowered.
pub fn remove(fd: i32) -> Option<&'static Local> {
    let slot = slot(fd)?;
    let old = slot.load(Ordering::Acquire);
    if old.is_null()
        || old == PRIVATE
        || slot.compare_exchange(old, null_mut(), Ordering::SeqCst, Ordering::Relaxed).is_err()
    {
        return None;
    }
    LIVE.fetch_sub(1, Ordering::Relaxed);
    // SAFETY: entries point to Locals.
    let local = unsafe { &*old };
    local.fds.fetch_sub(1, Ordering::AcqRel);
    Some(local)
}

/// Moves a descriptor of ours out of the way of the client's, and notes it.
pub fn adopt_private(fd: i32) -> i32 {
    let mut at = fd;
    for floor in [900, 200, 64, 3] {
        // SAFETY: numbers only. F_DUPFD_CLOEXEC is 1030.
        if let Ok(high) = unsafe { sys::call(Sysno::fcntl, [fd as usize, 1030, floor, 0, 0, 0]) } {
            sys::close(fd);
            at = high as i32;
            break;
        }
    }
    if let Some(slot) = slot(at) {
        HIGH.fetch_max(at as u32 + 1, Ordering::AcqRel);
        slot.store(PRIVATE, Ordering::Release);
        LIVE.fetch_add(1, Ordering::Relaxed);
    }
    at
}

/// Moves and notes a descriptor of the engine's, unless that was done.
pub fn keep_private(fd: i32) -> i32 {
    if is_private(fd) { fd } else { adopt_private(fd) }
}

/// The engine is about to close a descriptor of its own.
pub fn release_private(fd: i32) -> i32 {
    forget_private(fd);
    fd
}

/// Closes a descriptor of ours.
pub fn close_private(fd: i32) {
    if let Some(slot) = slot(fd)
        && slot.compare_exchange(PRIVATE, null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    {
        LIVE.fetch_sub(1, Ordering::Relaxed);
        sys::close(fd);
    }
}

/// A descriptor of ours is about to be replaced by the client's.
pub fn forget_private(fd: i32) {
    if let Some(slot) = slot(fd)
        && slot.compare_exchange(PRIVATE, null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The lowest descriptor that leads to `local`, or -1.
pub fn find(local: &Local) -> i32 {
    TABLE.iter().position(|s| core::ptr::eq(s.load(Ordering::Relaxed), local)).map_or(-1, |fd| fd as i32)
}

/// The first descriptor from `from` to `to` that is adopted or our own.
pub fn next_used(from: u32, to: u32) -> Option<u32> {
    let slots = TABLE.get(from as usize..=(to as usize).min(MOST - 1))?;
    slots.iter().position(|s| !s.load(Ordering::Relaxed).is_null()).map(|n| from + n as u32)
}

/// Every Local there ever was; ask [`Local::live`].
pub fn all() -> impl Iterator<Item = &'static Local> {
    let mut at = ALL.load(Ordering::Acquire);
    core::iter::from_fn(move || {
        // SAFETY: null or a Local, never given back.
        let local: &'static Local = unsafe { at.as_ref()? };
        at = local.next.load(Ordering::Acquire);
        Some(local)
    })
}

/// A Local that stands for nothing yet: one used before, or a new one. It is marked live, and the caller is at work with it.
pub fn allocate() -> Result<&'static Local> {
    for local in all() {
        if local.claim() {
            if !local.live.load(Ordering::Relaxed) {
                local.orphan.store(-1, Ordering::Relaxed);
                local.cookie.store(0, Ordering::Relaxed);
                local.live.store(true, Ordering::Release);
                local.unclaim(1);
                return Ok(local);
            }
            local.unclaim(0);
        }
    }
    let page = sys::map_private(sys::pages(size_of::<Local>()))?.cast::<Local>();
    // SAFETY: fresh zeroed memory; every field of a Local is an atomic, for which zeroes are valid.
    let local = unsafe { &*page };
    local.users.store(1, Ordering::Relaxed);
    local.live.store(true, Ordering::Relaxed);
    local.orphan.store(-1, Ordering::Relaxed);
    let mut head = ALL.load(Ordering::Relaxed);
    loop {
        local.next.store(head, Ordering::Relaxed);
        match ALL.compare_exchange(head, page, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return Ok(local),
            Err(now) => head = now,
        }
    }
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
        l.leave();
        false
    })
}

/// A fork child makes the endpoints its own: no other thread is at work with them here.
///
/// The kernel copies descriptors before it copies memory, and memory page by page, while other threads of the parent go on: what
/// was copied of this table need not agree with the child's descriptors, nor with itself (interposer.md, "Identity"). So
/// everything is derived again from what each number is here.
pub fn after_fork(pid: u32) {
    for local in all() {
        local.duty.after_fork();
        local.endpoint.sending.store(0, Ordering::Relaxed);
        local.fds.store(0, Ordering::Relaxed);
        if local.users.swap(0, Ordering::Relaxed) & CLAIMED != 0 {
            // Half made or half buried: whatever it was to become, it is nothing here. Its memory is not used again.
            local.cookie.store(0, Ordering::Relaxed);
            local.live.store(false, Ordering::Relaxed);
            local.users.store(CLAIMED, Ordering::Relaxed);
        }
    }
    LIVE.store(0, Ordering::Relaxed);
    for (fd, (slot, checked)) in TABLE.iter().zip(&CHECKED).enumerate().take(HIGH.load(Ordering::Relaxed) as usize) {
        let at = slot.load(Ordering::Relaxed);
        if at.is_null() {
            continue;
        }
        checked.store(0, Ordering::Relaxed);
        if at != PRIVATE {
            // SAFETY: entries point to Locals, whose memory is never given back.
            let local = unsafe { &*at };
            let cookie = local.cookie.load(Ordering::Relaxed);
            if !local.live.load(Ordering::Relaxed) || cookie == 0 || sys::cookie(fd as i32) != Ok(cookie) {
                slot.store(null_mut(), Ordering::Relaxed);
                continue;
            }
            local.fds.fetch_add(1, Ordering::Relaxed);
        }
        LIVE.fetch_add(1, Ordering::Relaxed);
    }
    for local in all() {
        if local.live.load(Ordering::Relaxed)
            && local.is_mapped()
            && let Some(control) = local.endpoint.control()
        {
            let held = control.lock.hold(pid);
            control.note_mapping(pid, 1);
            drop(held);
        }
    }
}

/// `ENOMEM` for a descriptor beyond the table.
pub fn check(fd: i32) -> Result<()> {
    slot(fd).map(|_| ()).ok_or(Errno::NOMEM)
}

#[cfg(test)]
mod tests;
