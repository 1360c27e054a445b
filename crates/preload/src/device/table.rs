//! Descriptor number to endpoint of the device, and what only this process knows of an endpoint.
//!
//! Whether a number still is what it was is told by the ioctl that every call makes anyway ([`super::answer`]).

use super::request;
use crate::{fdtable, process};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use nlmmap_ring::errno::Result;
use nlmmap_ring::sys;
use syscalls::Sysno;

/// Descriptors beyond this cannot be followed (`EMFILE` at `socket`).
pub const MOST: usize = fdtable::MOST;
/// Pieces of one endpoint's mappings that are followed.
const RANGES: usize = 16;

static TABLE: [AtomicPtr<Dev>; MOST] = [const { AtomicPtr::new(null_mut()) }; MOST];
static ALL: AtomicPtr<Dev> = AtomicPtr::new(null_mut());
/// Endpoints with mapped rings: while there are none, `munmap` concerns nobody.
static MAPPED: AtomicU32 = AtomicU32::new(0);

/// A piece of address space; `lo == 0` for none.
#[derive(Debug)]
struct Range {
    lo: AtomicUsize,
    hi: AtomicUsize,
}

/// An endpoint in this process. Its memory is never given back, only used again.
#[derive(Debug)]
pub struct Dev {
    next: AtomicPtr<Dev>,
    taken: AtomicBool,
    fds: AtomicU32,
    /// Whether it has a TX ring: then a send from no address is a kick.
    pub tx: AtomicBool,
    /// Whether it is known to have a port id.
    pub bound: AtomicBool,
    /// Keeps the endpoint while its rings are mapped and its descriptors closed, or -1.
    orphan: AtomicI32,
    /// Of a character device: the memory that the rings lie in, or less than 0.
    pub memory: AtomicI32,
    ranges: [Range; RANGES],
}

const _: () = assert!(size_of::<Dev>() <= sys::PAGE);

impl Dev {
    /// Whether any part of the rings is mapped in this process.
    pub fn is_mapped(&self) -> bool {
        self.ranges.iter().any(|r| r.lo.load(Ordering::Relaxed) != 0)
    }

    /// Follows a new mapping. `false` when there are too many pieces to follow.
    pub fn add_range(&self, lo: usize, hi: usize) -> bool {
        let first = !self.is_mapped();
        let Some(free) = self.ranges.iter().find(|r| r.lo.load(Ordering::Relaxed) == 0) else {
            return false;
        };
        free.hi.store(hi, Ordering::Relaxed);
        free.lo.store(lo, Ordering::Relaxed);
        if first {
            MAPPED.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    fn covers(&self, at: usize) -> bool {
        self.ranges.iter().any(|r| {
            let lo = r.lo.load(Ordering::Relaxed);
            lo != 0 && (lo..r.hi.load(Ordering::Relaxed)).contains(&at)
        })
    }

    /// Forgets `lo..hi`, which is not mapped any more.
    fn cut_range(&self, lo: usize, hi: usize) {
        let (mut hit, mut tail) = (false, None);
        for r in &self.ranges {
            let (a, b) = (r.lo.load(Ordering::Relaxed), r.hi.load(Ordering::Relaxed));
            if a == 0 || hi <= a || b <= lo {
                continue;
            }
            hit = true;
            match (lo > a, hi < b) {
                (false, false) => r.lo.store(0, Ordering::Relaxed),
                (true, false) => r.hi.store(lo, Ordering::Relaxed),
                (false, true) => r.lo.store(hi, Ordering::Relaxed),
                (true, true) => {
                    r.hi.store(lo, Ordering::Relaxed);
                    tail = Some((hi, b));
                }
            }
        }
        if let Some((lo, hi)) = tail {
            self.add_range(lo, hi);
        }
        if hit && !self.is_mapped() {
            MAPPED.fetch_sub(1, Ordering::Relaxed);
            self.unmapped();
        }
    }

    /// The rings are mapped nowhere in this process any more.
    fn unmapped(&self) {
        let fd = self.any_fd();
        if fd >= 0 {
            // A daemon that is gone has forgotten it already.
            let _ = request::mapped(fd, false);
        }
        let orphan = self.orphan.swap(-1, Ordering::Relaxed);
        if orphan >= 0 {
            fdtable::close_private(orphan);
            self.retire();
        }
    }

    /// Lets go of a character device's memory: the rings have changed, or there are none any more. Until then it serves every
    /// mapping, since the daemon takes only one.
    pub fn drop_memory(&self) {
        let memory = self.memory.swap(-1, Ordering::Relaxed);
        if memory >= 0 {
            fdtable::close_private(memory);
        }
    }

    /// Nothing in this process leads here any more.
    fn retire(&self) {
        self.drop_memory();
        self.taken.store(false, Ordering::Release);
    }

    /// A descriptor that leads here, or -1.
    fn any_fd(&self) -> i32 {
        let orphan = self.orphan.load(Ordering::Relaxed);
        if orphan >= 0 {
            return orphan;
        }
        TABLE.iter().position(|slot| core::ptr::eq(slot.load(Ordering::Relaxed), self)).map_or(-1, |fd| fd as i32)
    }
}

fn slot(fd: i32) -> Option<&'static AtomicPtr<Dev>> {
    TABLE.get(fd as u32 as usize)
}

/// The endpoint of a descriptor.
#[inline]
pub fn find(fd: i32) -> Option<&'static Dev> {
    // SAFETY: entries are null or lead to Devs, whose memory is never given back.
    unsafe { slot(fd)?.load(Ordering::Acquire).as_ref() }
}

fn all() -> impl Iterator<Item = &'static Dev> {
    let mut at = ALL.load(Ordering::Acquire);
    core::iter::from_fn(move || {
        // SAFETY: null or a Dev, never given back.
        let dev: &'static Dev = unsafe { at.as_ref()? };
        at = dev.next.load(Ordering::Acquire);
        Some(dev)
    })
}

/// An endpoint that no descriptor leads to yet.
///
/// # Errors
/// `ENOMEM`.
pub fn allocate() -> Result<&'static Dev> {
    for dev in all() {
        if dev.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            dev.tx.store(false, Ordering::Relaxed);
            dev.bound.store(false, Ordering::Relaxed);
            return Ok(dev);
        }
    }
    let page = sys::map_private(sys::pages(size_of::<Dev>()))?.cast::<Dev>();
    // SAFETY: fresh zeroed memory; every field is an atomic, for which zeroes are valid.
    let dev = unsafe { &*page };
    dev.taken.store(true, Ordering::Relaxed);
    dev.orphan.store(-1, Ordering::Relaxed);
    dev.memory.store(-1, Ordering::Relaxed);
    let mut head = ALL.load(Ordering::Relaxed);
    loop {
        dev.next.store(head, Ordering::Relaxed);
        match ALL.compare_exchange(head, page, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return Ok(dev),
            Err(now) => head = now,
        }
    }
}

/// Gives back what [`allocate`] gave, before any descriptor led to it.
pub fn give_back(dev: &Dev) {
    dev.taken.store(false, Ordering::Release);
}

/// Leads `fd` to `dev`, and whatever it led to away. `false` for a number that cannot be followed.
pub fn insert(fd: i32, dev: &'static Dev) -> bool {
    let Some(slot) = slot(fd) else { return false };
    dev.fds.fetch_add(1, Ordering::AcqRel);
    let old = slot.swap(core::ptr::from_ref(dev).cast_mut(), Ordering::AcqRel);
    // SAFETY: entries are null or lead to Devs.
    if let Some(old) = unsafe { old.as_ref() } {
        leave(old);
    }
    true
}

/// Leads `fd` nowhere.
pub fn remove(fd: i32) {
    let Some(slot) = slot(fd) else { return };
    // SAFETY: entries are null or lead to Devs.
    if let Some(old) = unsafe { slot.swap(null_mut(), Ordering::AcqRel).as_ref() } {
        leave(old);
    }
}

/// One descriptor fewer leads to `dev`.
fn leave(dev: &Dev) {
    if dev.fds.fetch_sub(1, Ordering::AcqRel) == 1 && !dev.is_mapped() {
        dev.retire();
    }
}

/// `fd` is about to be closed: out of the table first, so that another thread may get the number at once. The endpoint of
/// rings that stay mapped is kept by a duplicate of our own, as the mapping kept the socket.
pub fn closing(fd: i32) {
    // The table first: most numbers are none of ours, and whose process this is costs a system call.
    let Some(dev) = find(fd) else { return };
    if process::is_vfork_child() {
        return;
    }
    if dev.fds.load(Ordering::Relaxed) == 1 && dev.is_mapped() && dev.orphan.load(Ordering::Relaxed) < 0 {
        // SAFETY: numbers only. F_DUPFD_CLOEXEC.
        if let Ok(copy) = unsafe { sys::call(Sysno::fcntl, [fd as usize, 1030, 3, 0, 0, 0]) } {
            dev.orphan.store(fdtable::adopt_private(copy as i32), Ordering::Relaxed);
        }
    }
    remove(fd);
}

/// Every descriptor of `first..=last` is about to be closed, but for our own.
pub fn closing_range(first: u32, last: u32) {
    for fd in first..=last.min(MOST as u32 - 1) {
        closing(fd as i32);
    }
}

/// `new` is a duplicate of `old`.
pub fn follow(old: i32, new: i32) {
    if let Some(dev) = find(old)
        && !process::is_vfork_child()
    {
        insert(new, dev);
    }
}

/// A number that an endpoint of ours is kept by becomes another one.
pub fn move_orphan(from: i32, to: i32) -> bool {
    all().any(|dev| {
        [&dev.orphan, &dev.memory]
            .iter()
            .any(|word| word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    })
}

/// Whether an address lies in a mapping of rings.
pub fn covers(at: usize) -> bool {
    MAPPED.load(Ordering::Relaxed) > 0 && all().any(|dev| dev.covers(at))
}

/// A range is not what it was: mappings of rings that lay there are gone.
pub fn unmapped(lo: usize, len: usize) {
    if MAPPED.load(Ordering::Relaxed) == 0 || process::is_vfork_child() {
        return;
    }
    let hi = lo.saturating_add(sys::pages(len));
    for dev in all() {
        dev.cut_range(lo, hi);
    }
}

/// Rings at `lo` have moved to `to`, or become shorter.
pub fn moved(lo: usize, old: usize, to: usize, len: usize) {
    let Some(dev) = all().find(|dev| dev.covers(lo)) else { return };
    // The new range first, so that the rings never seem mapped nowhere.
    if to != lo {
        dev.add_range(to, to + sys::pages(len));
    }
    if old != 0 && (to != lo || len < old) {
        let from = if to != lo { lo } else { lo + sys::pages(len) };
        dev.cut_range(from, lo + sys::pages(old));
    }
}

/// A fork child has its parent's mappings, and says so.
pub fn after_fork() {
    if MAPPED.load(Ordering::Relaxed) == 0 {
        return;
    }
    for dev in all().filter(|dev| dev.is_mapped()) {
        let fd = dev.any_fd();
        if fd >= 0 {
            // A daemon that is gone need not know.
            let _ = request::mapped(fd, true);
        }
    }
}
