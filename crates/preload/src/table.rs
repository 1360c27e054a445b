//! The table from descriptor number to endpoint, and the list of all endpoints: data. Whether what it says of a number is still
//! true is asked in `fdtable`.
//!
//! **Own numbers.** A few numbers are the library's: the backing thread's epoll instance, memory files, duplicates that keep a
//! socket for its mapping. They too may be closed where no hook sees it, and then be the client's. Files that we made carry a
//! mark ([`is_marked`]); a duplicate of the client's socket is known by its cookie.

use crate::local::Local;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use nlmmap_ring::errno::Errno;
use nlmmap_ring::sys;
use syscalls::Sysno;

/// Descriptors beyond this cannot carry rings (`ENOMEM` at `setsockopt`, never later).
pub const MOST: usize = 65_536;

static TABLE: [AtomicPtr<Local>; MOST] = [const { AtomicPtr::new(null_mut()) }; MOST];
static ALL: AtomicPtr<Local> = AtomicPtr::new(null_mut());
static LIVE: AtomicU32 = AtomicU32::new(0);
/// Behind the highest number that ever was in the table.
static HIGH: AtomicU32 = AtomicU32::new(0);
/// Whether files can be marked here: a sandbox may refuse it.
static CAN_MARK: AtomicBool = AtomicBool::new(true);

/// Stands in the table for a descriptor of our own. No Local lies there: they are pages of their own.
const PRIVATE: *mut Local = core::ptr::dangling_mut::<Local>();

/// `F_SETSIG`, `F_GETSIG`: which signal a file sends when it can be read, if it is told to send any. Nobody tells ours to.
const SET_SIGNAL: usize = 10;
const GET_SIGNAL: usize = 11;
const MARK: usize = 64;

/// What a number leads to.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// Nothing of ours.
    Nothing,
    /// A descriptor of our own.
    Own,
    /// An endpoint.
    Of(&'static Local),
}

#[inline]
fn entry(at: *mut Local) -> Entry {
    if at.is_null() {
        Entry::Nothing
    } else if at == PRIVATE {
        Entry::Own
    } else {
        // SAFETY: other entries point to Locals, whose memory is never given back.
        Entry::Of(unsafe { &*at })
    }
}

#[inline]
fn slot(fd: i32) -> Option<&'static AtomicPtr<Local>> {
    TABLE.get(fd as u32 as usize)
}

/// The slots that were ever used.
fn used() -> &'static [AtomicPtr<Local>] {
    TABLE.get(..HIGH.load(Ordering::Relaxed) as usize).unwrap_or(&TABLE)
}

/// Whether the table has room for a number.
#[inline]
pub fn has_room(fd: i32) -> bool {
    slot(fd).is_some()
}

/// Whether a number leads nowhere: one load, which is all that a descriptor costs that is not ours.
#[inline(always)]
pub fn is_nothing(fd: i32) -> bool {
    slot(fd).is_none_or(|s| s.load(Ordering::Relaxed).is_null())
}

/// What the table says of a number.
#[inline]
pub fn look(fd: i32) -> Entry {
    slot(fd).map_or(Entry::Nothing, |s| entry(s.load(Ordering::Acquire)))
}

/// How many descriptors lead to endpoints, and how many are our own.
#[inline]
pub fn live() -> u32 {
    LIVE.load(Ordering::Relaxed)
}

/// Whether the table leads a number to an endpoint.
#[inline]
pub fn is_adopted(fd: i32) -> bool {
    slot(fd).is_some_and(|s| {
        let at = s.load(Ordering::Relaxed);
        !at.is_null() && at != PRIVATE
    })
}

/// Whether a number leads to this very endpoint.
pub fn leads_to(fd: i32, local: &Local) -> bool {
    slot(fd).is_some_and(|s| core::ptr::eq(s.load(Ordering::SeqCst), local))
}

/// Leads `fd` to `local`. Answers what it led to, of which one number less leads to now.
pub fn insert(fd: i32, local: &'static Local) -> Option<&'static Local> {
    let slot = slot(fd)?;
    HIGH.fetch_max(fd as u32 + 1, Ordering::AcqRel);
    local.fds.fetch_add(1, Ordering::AcqRel);
    local.distrust();
    let old = slot.swap(core::ptr::from_ref(local).cast_mut(), Ordering::AcqRel);
    match entry(old) {
        Entry::Nothing => {
            LIVE.fetch_add(1, Ordering::Relaxed);
        }
        Entry::Own => {}
        Entry::Of(old) => {
            old.fds.fetch_sub(1, Ordering::AcqRel);
            old.distrust();
            return Some(old);
        }
    }
    None
}

/// Leads `fd` nowhere. Returns the endpoint it led to, whose count of descriptors has been lowered.
pub fn remove(fd: i32) -> Option<&'static Local> {
    let slot = slot(fd)?;
    let old = slot.load(Ordering::Acquire);
    let Entry::Of(local) = entry(old) else { return None };
    slot.compare_exchange(old, null_mut(), Ordering::SeqCst, Ordering::Relaxed).ok()?;
    LIVE.fetch_sub(1, Ordering::Relaxed);
    local.fds.fetch_sub(1, Ordering::AcqRel);
    local.distrust();
    Some(local)
}

/// The lowest descriptor that leads to `local`, or -1.
pub fn find(local: &Local) -> i32 {
    used().iter().position(|s| core::ptr::eq(s.load(Ordering::Relaxed), local)).map_or(-1, |fd| fd as i32)
}

/// The first descriptor from `from` to `to` that is adopted or our own.
pub fn next_used(from: u32, to: u32) -> Option<u32> {
    let used = used();
    let slots = used.get(from as usize..(to as usize).saturating_add(1).min(used.len()))?;
    slots.iter().position(|s| !s.load(Ordering::Relaxed).is_null()).map(|n| from + n as u32)
}

/// Marks a file of our own making.
fn mark(fd: i32) {
    // SAFETY: numbers only.
    if unsafe { sys::call(Sysno::fcntl, [fd as usize, SET_SIGNAL, MARK, 0, 0, 0]) }.is_err() {
        CAN_MARK.store(false, Ordering::Relaxed);
    }
}

/// Whether a number is a file of our own making, as far as that can be told here: where the kernel does not answer for one that is
/// open (a sandbox that refuses the question), it is what the table says.
pub fn is_marked(fd: i32) -> bool {
    // SAFETY: numbers only.
    let signal = unsafe { sys::call(Sysno::fcntl, [fd as usize, GET_SIGNAL, 0, 0, 0, 0]) };
    match signal {
        Ok(signal) => signal == MARK || !CAN_MARK.load(Ordering::Relaxed),
        Err(error) => error != Errno::BADF,
    }
}

/// Whether the table has a number as our own.
#[inline]
pub fn is_noted(fd: i32) -> bool {
    slot(fd).is_some_and(|s| s.load(Ordering::Relaxed) == PRIVATE)
}

/// Whether a number that the table has as our own is.
pub fn is_ours(fd: i32) -> bool {
    is_marked(fd) || all().any(|l| l.orphan.load(Ordering::Relaxed) == fd && l.is_socket(fd))
}

/// Moves a file of our own making out of the way of the client's, marks and notes it. `replaced` hears of an endpoint that the new
/// number led to.
pub fn adopt_private(fd: i32, replaced: impl Fn(&'static Local)) -> i32 {
    mark(fd);
    adopt_duplicate(fd, replaced)
}

/// As [`adopt_private`], a duplicate of the client's socket, which bears no mark.
pub fn adopt_duplicate(fd: i32, replaced: impl Fn(&'static Local)) -> i32 {
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
        match entry(slot.swap(PRIVATE, Ordering::AcqRel)) {
            Entry::Nothing => {
                LIVE.fetch_add(1, Ordering::Relaxed);
            }
            Entry::Own => {}
            // Closed where no hook saw it.
            Entry::Of(old) => {
                old.fds.fetch_sub(1, Ordering::AcqRel);
                old.distrust();
                replaced(old);
            }
        }
    }
    at
}

/// Moves and notes a descriptor of the engine's, unless that was done.
pub fn keep_private(fd: i32, replaced: impl Fn(&'static Local)) -> i32 {
    if is_noted(fd) && is_marked(fd) { fd } else { adopt_private(fd, replaced) }
}

/// The engine is about to close a descriptor of its own. Answers what it may close: -1 where the number is not ours any more.
pub fn release_private(fd: i32) -> i32 {
    let ours = is_ours(fd);
    forget_private(fd);
    if ours { fd } else { -1 }
}

/// Closes a descriptor of ours, if it still is.
pub fn close_private(fd: i32) {
    let ours = is_ours(fd);
    if forget_private(fd) && ours {
        sys::close(fd);
    }
}

/// A number is not ours any more, or about to be replaced by the client's.
pub fn forget_private(fd: i32) -> bool {
    let forgotten =
        slot(fd).is_some_and(|s| s.compare_exchange(PRIVATE, null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok());
    if forgotten {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
    forgotten
}

impl Local {
    /// A number by which the real socket can be reached, or -1.
    pub fn any_fd(&self) -> i32 {
        let orphan = self.orphan.load(Ordering::Relaxed);
        if orphan >= 0 { orphan } else { find(self) }
    }

    /// Whether a descriptor leads to this socket, as a number of the client's or as our own.
    pub fn is_reached_by(&self, fd: i32) -> bool {
        self.orphan.load(Ordering::SeqCst) == fd || leads_to(fd, self)
    }
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

/// Adds a Local to the list of all. It must never be given back.
pub fn publish(local: &'static Local) {
    let page = core::ptr::from_ref(local).cast_mut();
    let mut head = ALL.load(Ordering::Relaxed);
    loop {
        local.next.store(head, Ordering::Relaxed);
        match ALL.compare_exchange(head, page, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => head = now,
        }
    }
}

/// In a fork child: each slot is what `judge` says of it, and counts are made anew.
pub fn after_fork(judge: impl Fn(i32, Entry) -> bool) {
    all().for_each(|l| l.fds.store(0, Ordering::Relaxed));
    LIVE.store(0, Ordering::Relaxed);
    for (fd, slot) in used().iter().enumerate() {
        let found = entry(slot.load(Ordering::Relaxed));
        if matches!(found, Entry::Nothing) {
            continue;
        }
        if !judge(fd as i32, found) {
            slot.store(null_mut(), Ordering::Relaxed);
            continue;
        }
        LIVE.fetch_add(1, Ordering::Relaxed);
        if let Entry::Of(local) = found {
            local.fds.fetch_add(1, Ordering::Relaxed);
        }
    }
}
