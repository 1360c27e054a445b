//! The memory of an endpoint's rings: allocated when a ring is set, mapped a second time for the client, freed.
//!
//! 4.5 allocated all of a ring's pages when it was set and mapped them when the client called `mmap`: no frame ever cost a page
//! fault. Here the first pages of a ring are made to be there as well, within the bounds of [`MOST_PREPARED`] and
//! [`MOST_PREPARED_IN_ALL`]; those behind appear when they are touched.

use super::{Endpoint, Which};
use crate::control::flag;
use crate::errno::{Errno, Result};
use crate::geometry::Geometry;
use crate::memory::RingMemory;
use crate::sys;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use linux_raw_sys::general as g;

/// So many bytes of a ring are there from the beginning: more would make `setsockopt` take longer than a millisecond.
const MOST_PREPARED: usize = 4 << 20;
/// So many bytes of all rings of a process, and never more than a 64th of the machine's memory.
const MOST_PREPARED_IN_ALL: usize = 32 << 20;

/// Bytes that are prepared in this process.
static PREPARED: AtomicUsize = AtomicUsize::new(0);

/// A ring's memory and, where it cannot be mapped a second time without, a descriptor of it.
#[derive(Debug)]
pub(super) struct Mapped {
    pub memory: RingMemory,
    /// A memfd, or -1.
    fd: AtomicI32,
    /// Bytes from the start on that were prepared.
    prepared: usize,
}

/// Where a ring lies.
struct Place {
    base: *mut u8,
    /// A memfd to map it again by, or -1.
    fd: i32,
    prepared: usize,
}

/// The memory of a ring, with its description in a page of its own.
fn map_ring(geometry: Geometry, memory: impl FnOnce(usize) -> Result<Place>) -> Result<*mut Mapped> {
    let page = sys::map_private(sys::PAGE)?.cast::<Mapped>();
    match memory(geometry.len()) {
        Ok(Place { base, fd, prepared }) => {
            // SAFETY: the page is ours, writable and aligned; the ring stays mapped until `unmap_ring`.
            unsafe { page.write(Mapped { memory: RingMemory::new(base, geometry), fd: AtomicI32::new(fd), prepared }) };
            Ok(page)
        }
        Err(e) => {
            // SAFETY: mapped above, seen by nobody.
            unsafe { sys::unmap(page.cast(), sys::PAGE) };
            Err(e)
        }
    }
}

/// Shared memory that can be mapped again, its first pages there already.
fn map_ring_memory(len: usize) -> Result<Place> {
    let (base, fd) = map_twice(len)?;
    let prepared = grant(len.min(MOST_PREPARED));
    // SAFETY: the start of a mapping that nobody has seen.
    if prepared > 0 && unsafe { sys::advise(base, prepared, g::MADV_POPULATE_WRITE) }.is_err() {
        // Linux before 5.14 does not know the advice; where memory is short, what is touched will show.
        refund(prepared);
        return Ok(Place { base, fd, prepared: 0 });
    }
    Ok(Place { base, fd, prepared })
}

/// Without a descriptor where the kernel duplicates mappings (`mremap` with an old length of 0), else, as under valgrind, by a
/// memfd that is kept open.
fn map_twice(len: usize) -> Result<(*mut u8, i32)> {
    let base = sys::map_shared(len)?;
    if sys::ON_HEAP {
        return Ok((base, -1));
    }
    // SAFETY: nobody has seen it.
    let give_back = |_: &Errno| unsafe { sys::unmap(base, len) };
    let spare = sys::map_nothing(sys::PAGE).inspect_err(give_back)?;
    // SAFETY: a page of the ring, to a page reserved for this.
    let can = unsafe { sys::map_again_at(base, sys::PAGE, spare) };
    // SAFETY: nobody has seen it.
    unsafe { sys::unmap(spare, sys::PAGE) };
    if can.is_ok() {
        return Ok((base, -1));
    }
    // SAFETY: as above.
    unsafe { sys::unmap(base, len) };
    let fd = sys::memfd(len)?;
    sys::map_fd(fd, len).map(|base| (base, fd)).inspect_err(|_| sys::close(fd))
}

/// Memory of a file: whose it is, and how much of it is there, is for the file's maker to see to.
fn by_file(fd: i32, len: usize, offset: usize) -> Result<Place> {
    let base = sys::map_fd_from(fd, len, offset)?;
    // SAFETY: a mapping that nobody has seen.
    unsafe { show(base, len, g::PROT_WRITE) };
    Ok(Place { base, fd: -1, prepared: 0 })
}

/// Makes the first pages of a ring whose memory is there already known to this process, so that no frame costs a page fault.
///
/// # Safety
/// `at` is mapped with `prot`, of a file whose first `len` bytes behind the mapping's offset are a ring.
pub unsafe fn show(at: *mut u8, len: usize, prot: u32) {
    let advice = if prot & g::PROT_WRITE != 0 { g::MADV_POPULATE_WRITE } else { g::MADV_POPULATE_READ };
    // SAFETY: the caller's duty. Kernels before 5.14 do not know it, and with `PROT_NONE` it is refused: then each page shows itself.
    let _ = unsafe { sys::advise(at, len.min(MOST_PREPARED), advice) };
}

/// How many of `wanted` bytes may be prepared, in whole pages.
fn grant(wanted: usize) -> usize {
    if sys::ON_HEAP {
        return 0;
    }
    let most = (sys::total_memory() as usize / 64).min(MOST_PREPARED_IN_ALL);
    let part = |taken: usize| wanted.min(most.saturating_sub(taken)) & !(sys::PAGE - 1);
    let before = PREPARED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| Some(taken + part(taken)));
    before.map_or(0, part)
}

fn refund(granted: usize) {
    PREPARED.fetch_sub(granted, Ordering::Relaxed);
}

/// # Safety
/// `ring` came from [`map_ring`] and nobody uses it any more.
pub(super) unsafe fn unmap_ring(ring: *mut Mapped) {
    // SAFETY: the caller's duty.
    let mapped = unsafe { ring.read() };
    let fd = mapped.fd.into_inner();
    if fd >= 0 {
        sys::close(fd);
    }
    refund(mapped.prepared);
    // SAFETY: as above; both ranges were mapped by `map_ring` with these lengths.
    unsafe {
        sys::unmap(mapped.memory.base(), mapped.memory.geometry().len());
        sys::unmap(ring.cast(), sys::PAGE);
    }
}

impl Endpoint {
    /// Sets a ring that is not set: maps its zeroed memory.
    ///
    /// # Errors
    /// `EBUSY` when it is set, `ENOMEM`.
    pub fn add_ring(&self, which: Which, geometry: Geometry) -> Result<()> {
        self.add_ring_over(which, geometry, true, map_ring_memory)
    }

    /// As [`Self::add_ring`], over `geometry.len()` zeroed bytes of the file `fd` from `offset` on, which is a multiple of the
    /// page size. The file must not become shorter while the ring is set (`F_SEAL_SHRINK`).
    ///
    /// # Errors
    /// As [`Self::add_ring`], and those of `mmap`.
    pub fn add_ring_at(&self, which: Which, geometry: Geometry, fd: i32, offset: usize) -> Result<()> {
        self.add_ring_over(which, geometry, true, |len| by_file(fd, len, offset))
    }

    /// As [`Self::add_ring_at`], for a ring that another endpoint had over the same state ([`Self::open_at`]): its heads and
    /// what the store holds stay.
    ///
    /// # Errors
    /// As [`Self::add_ring_at`].
    pub fn adopt_ring_at(&self, which: Which, geometry: Geometry, fd: i32, offset: usize) -> Result<()> {
        self.add_ring_over(which, geometry, false, |len| by_file(fd, len, offset))
    }

    fn add_ring_over(
        &self,
        which: Which,
        geometry: Geometry,
        fresh: bool,
        memory: impl FnOnce(usize) -> Result<Place>,
    ) -> Result<()> {
        let control = self.control().ok_or(Errno::BADF)?;
        if self.ring(which).is_some() {
            return Err(Errno::BUSY);
        }
        let ring = map_ring(geometry, memory)?;
        if let Some(card) = self.card() {
            card.note_ring(which == Which::Rx, Some(&geometry.request()));
        }
        let _held = control.lock.hold(sys::getpid());
        match which {
            Which::Rx if !fresh => {
                self.point_scratch(geometry.room() as usize);
                self.rx.store(ring, Ordering::Release);
            }
            Which::Tx if !fresh => self.tx.store(ring, Ordering::Release),
            Which::Rx => {
                for word in [&control.rx_head, &control.rx_oldest, &control.rx_outstanding] {
                    word.store(0, Ordering::Relaxed);
                }
                control.set(flag::CONGESTED | flag::BLOCKED | flag::DUMP | flag::DUMPING, false);
                self.store(control).clear();
                self.point_scratch(geometry.room() as usize);
                self.rx.store(ring, Ordering::Release);
            }
            Which::Tx => {
                control.tx_head.store(0, Ordering::Relaxed);
                self.tx.store(ring, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Frees a ring, if it is set.
    ///
    /// # Safety
    /// No other thread uses the ring.
    pub unsafe fn drop_ring(&self, which: Which) {
        let Some(control) = self.control() else {
            return;
        };
        let slot = self.slot(which);
        if let Some(card) = self.card() {
            card.note_ring(which == Which::Rx, None);
        }
        let held = control.lock.hold(sys::getpid());
        let ring = slot.swap(null_mut(), Ordering::AcqRel);
        if which == Which::Rx {
            self.store(control).clear();
            control.set(flag::CONGESTED | flag::BLOCKED | flag::DUMP | flag::DUMPING, false);
        }
        drop(held);
        if !ring.is_null() {
            // SAFETY: the caller's duty; unpublished under the lock.
            unsafe { unmap_ring(ring) };
        }
    }

    /// The descriptors that keep ring memory mappable, for the front end to keep out of the client's way. `move_to` gets each
    /// and answers its new number.
    pub fn move_descriptors(&self, move_to: impl Fn(i32) -> i32) {
        for ring in [&self.rx, &self.tx] {
            // SAFETY: as in `Endpoint::rx`.
            if let Some(mapped) = unsafe { ring.load(Ordering::Acquire).as_ref() } {
                let fd = mapped.fd.load(Ordering::Relaxed);
                if fd >= 0 {
                    mapped.fd.store(move_to(fd), Ordering::Relaxed);
                }
            }
        }
    }

    /// Bytes a client must map: both rings, receive first.
    pub fn map_len(&self) -> usize {
        self.rx().map_or(0, |r| r.geometry().len()) + self.tx().map_or(0, |r| r.geometry().len())
    }

    fn slot(&self, which: Which) -> &AtomicPtr<Mapped> {
        match which {
            Which::Rx => &self.rx,
            Which::Tx => &self.tx,
        }
    }

    /// Maps the rings for the client, one behind the other. `fixed` is where (replacing what is there), else anywhere.
    ///
    /// # Errors
    /// `EINVAL` without a ring or for another length than both rings have, `ENOMEM`.
    ///
    /// # Safety
    /// With `fixed`, that range belongs to the caller.
    pub unsafe fn map(&self, fixed: Option<*mut u8>, len: usize, prot: u32) -> Result<*mut u8> {
        let whole = self.map_len();
        if whole == 0 || sys::pages(len) != whole {
            return Err(Errno::INVAL);
        }
        let at = match fixed {
            Some(at) if !(at as usize).is_multiple_of(sys::PAGE) => return Err(Errno::INVAL),
            Some(at) => at,
            None => sys::map_nothing(whole)?,
        };
        let mut to = at;
        for which in [Which::Rx, Which::Tx] {
            // SAFETY: as in `Endpoint::rx`.
            let Some(Mapped { memory, fd, prepared }) = (unsafe { self.slot(which).load(Ordering::Acquire).as_ref() })
            else {
                continue;
            };
            let (len, fd) = (memory.geometry().len(), fd.load(Ordering::Relaxed));
            // SAFETY: `to..to+len` is inside the range reserved above or given by the caller; the source is a live ring.
            let mapped = unsafe {
                if fd >= 0 { sys::map_fd_at(fd, len, to) } else { sys::map_again_at(memory.base(), len, to) }
            };
            // SAFETY: the range was just mapped.
            let result = mapped.and_then(|()| unsafe { sys::protect(to, len, prot) });
            if let Err(e) = result {
                if fixed.is_none() {
                    // SAFETY: reserved above and not yet handed out.
                    unsafe { sys::unmap(at, whole) };
                }
                return Err(e);
            }
            let advice = if prot & g::PROT_WRITE != 0 { g::MADV_POPULATE_WRITE } else { g::MADV_POPULATE_READ };
            if *prepared > 0 {
                // SAFETY: the start of what was just mapped. Refused for `PROT_NONE`, and not needed then.
                let _ = unsafe { sys::advise(to, *prepared, advice) };
            }
            // SAFETY: still inside the range, at most one past its end.
            to = unsafe { to.add(len) };
        }
        Ok(at)
    }
}

#[cfg(all(test, not(any(miri, feature = "heap"))))]
mod tests;
