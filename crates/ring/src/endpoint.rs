//! One netlink socket with its rings: what every front end speaks to.
//!
//! An [`Endpoint`] is one process's view; what the kernel kept in the socket lies in the shared [`Control`] and store, so
//! that a forked child goes on with the same heads, errors and copies.

use crate::control::{Control, flag};
use crate::errno::{Errno, Result};
use crate::geometry::Geometry;
use crate::lock::Held;
use crate::memory::RingMemory;
use crate::store::{self, Store};
use crate::sys::{self, IoVec, MMsgHdr, MsgHdr, SockaddrNl};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};

/// Frames filled by one system call at most.
pub const VLEN: usize = 16;
/// The largest datagram that is taken whole: more than `SO_SNDBUF` lets anybody without `CAP_NET_ADMIN` send.
pub const LARGEST: usize = 448 << 10;
/// Room for `SCM_CREDENTIALS` (32 bytes), `NETLINK_PKTINFO` and `NETLINK_LISTEN_ALL_NSID` (24 each), and a security label of
/// up to 160 bytes.
pub const CONTROL_LEN: usize = 256;

/// Which ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Frames from the kernel.
    Rx,
    /// Frames to the kernel.
    Tx,
}

/// Headers for one batched receive, built once: only the frames' addresses change from call to call.
#[derive(Debug)]
#[repr(C)]
pub struct Scratch {
    /// One message a frame.
    pub msgs: [MMsgHdr; VLEN],
    /// The frame's payload, then the message's own spill area.
    pub iov: [[IoVec; 2]; VLEN],
    /// Senders.
    pub names: [SockaddrNl; VLEN],
    /// Ancillary data.
    pub control: [[u64; CONTROL_LEN / 8]; VLEN],
}

const SCRATCH_LEN: usize = sys::pages(size_of::<Scratch>());
const SPILL_LEN: usize = VLEN * LARGEST;
/// Bytes of an endpoint's shared state: [`Control`] in a page of its own, then the store.
pub const SHARED_LEN: usize = sys::PAGE + store::CAPACITY;

/// One process's view of an endpoint. Never moved or freed while any thread may look at it; see [`Endpoint::reset`].
#[derive(Debug)]
pub struct Endpoint {
    control: AtomicPtr<Control>,
    scratch: AtomicPtr<Scratch>,
    rx: AtomicPtr<Mapped>,
    tx: AtomicPtr<Mapped>,
    /// `NETLINK_*` family of the socket.
    pub family: AtomicU32,
    /// Answer as 4.5 did.
    pub strict: AtomicBool,
    /// [`Control::rx_published`] and one when memory was last found to have nothing for the client.
    pub quiet_at: AtomicU32,
    /// Threads of this process between a send and the pump that follows it.
    pub sending: AtomicU32,
    /// Somebody may wait for the socket where no call of ours sees it: keep it readable in step with the ring.
    pub unseen: AtomicBool,
    /// A pump fills no more frames in one go.
    pub most: AtomicU32,
}

/// More frames than this are not filled in one go, so that a flood cannot keep the lock.
pub const MOST: u32 = 4096;

/// A ring's memory and, where it cannot be mapped a second time without, a descriptor of it.
#[derive(Debug)]
struct Mapped {
    memory: RingMemory,
    /// A memfd, or -1.
    fd: AtomicI32,
}

/// The memory of a ring, with its description in a page of its own.
fn map_ring(geometry: Geometry, memory: impl FnOnce(usize) -> Result<(*mut u8, i32)>) -> Result<*mut Mapped> {
    let page = sys::map_private(sys::PAGE)?.cast::<Mapped>();
    match memory(geometry.len()) {
        Ok((base, fd)) => {
            // SAFETY: the page is ours, writable and aligned; the ring stays mapped until `unmap_ring`.
            unsafe { page.write(Mapped { memory: RingMemory::new(base, geometry), fd: AtomicI32::new(fd) }) };
            Ok(page)
        }
        Err(e) => {
            // SAFETY: mapped above, seen by nobody.
            unsafe { sys::unmap(page.cast(), sys::PAGE) };
            Err(e)
        }
    }
}

/// Shared memory that can be mapped again: without a descriptor where the kernel duplicates mappings (`mremap` with an old
/// length of 0), else, as under valgrind, by a memfd that is kept open.
fn map_ring_memory(len: usize) -> Result<(*mut u8, i32)> {
    let base = sys::map_shared(len)?;
    if sys::ON_HEAP {
        return Ok((base, -1));
    }
    let spare = sys::map_nothing(sys::PAGE)?;
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

/// # Safety
/// `ring` came from [`map_ring`] and nobody uses it any more.
unsafe fn unmap_ring(ring: *mut Mapped) {
    // SAFETY: the caller's duty.
    let mapped = unsafe { ring.read() };
    let fd = mapped.fd.into_inner();
    if fd >= 0 {
        sys::close(fd);
    }
    // SAFETY: as above; both ranges were mapped by `map_ring` with these lengths.
    unsafe {
        sys::unmap(mapped.memory.base(), mapped.memory.geometry().len());
        sys::unmap(ring.cast(), sys::PAGE);
    }
}

impl Endpoint {
    /// An endpoint without memory.
    pub const fn empty() -> Endpoint {
        Endpoint {
            control: AtomicPtr::new(null_mut()),
            scratch: AtomicPtr::new(null_mut()),
            rx: AtomicPtr::new(null_mut()),
            tx: AtomicPtr::new(null_mut()),
            family: AtomicU32::new(0),
            strict: AtomicBool::new(false),
            quiet_at: AtomicU32::new(0),
            sending: AtomicU32::new(0),
            unseen: AtomicBool::new(true),
            most: AtomicU32::new(MOST),
        }
    }

    /// Gives an empty endpoint its memory: shared control and store, private headers and spill.
    ///
    /// # Errors
    /// `ENOMEM`, with nothing left behind.
    pub fn open(&self, family: u32, strict: bool) -> Result<()> {
        self.open_over(family, strict, sys::map_shared(SHARED_LEN)?)
    }

    /// As [`Self::open`], with the shared state in the file `fd`: [`SHARED_LEN`] bytes, zeroed or left there by an endpoint
    /// that has been reset, which this one then goes on from.
    ///
    /// # Errors
    /// As [`Self::open`], and those of `mmap`.
    pub fn open_at(&self, family: u32, strict: bool, fd: i32) -> Result<()> {
        self.open_over(family, strict, sys::map_fd(fd, SHARED_LEN)?)
    }

    fn open_over(&self, family: u32, strict: bool, shared: *mut u8) -> Result<()> {
        let private = match sys::map_private(SCRATCH_LEN + SPILL_LEN) {
            Ok(private) => private.cast::<Scratch>(),
            Err(e) => {
                // SAFETY: mapped above, seen by nobody.
                unsafe { sys::unmap(shared, SHARED_LEN) };
                return Err(e);
            }
        };
        // SAFETY: fresh private memory of sufficient size and alignment.
        unsafe { init_scratch(private) };
        self.family.store(family, Ordering::Relaxed);
        self.strict.store(strict, Ordering::Relaxed);
        self.unseen.store(true, Ordering::Relaxed);
        self.quiet_at.store(0, Ordering::Relaxed);
        self.sending.store(0, Ordering::Relaxed);
        self.most.store(MOST, Ordering::Relaxed);
        self.scratch.store(private, Ordering::Relaxed);
        self.control.store(shared.cast(), Ordering::Release);
        Ok(())
    }

    /// Takes an endpoint's memory away again.
    ///
    /// # Safety
    /// No other thread is inside a method of this endpoint, and none will be before the next [`Self::open`].
    pub unsafe fn reset(&self) {
        for ring in [&self.rx, &self.tx] {
            let ring = ring.swap(null_mut(), Ordering::AcqRel);
            if !ring.is_null() {
                // SAFETY: the caller's duty.
                unsafe { unmap_ring(ring) };
            }
        }
        let scratch = self.scratch.swap(null_mut(), Ordering::AcqRel);
        let control = self.control.swap(null_mut(), Ordering::AcqRel);
        if !scratch.is_null() {
            // SAFETY: mapped by `open` with this length; the caller's duty that nobody uses it.
            unsafe { sys::unmap(scratch.cast(), SCRATCH_LEN + SPILL_LEN) };
        }
        if !control.is_null() {
            // SAFETY: as above.
            unsafe { sys::unmap(control.cast(), SHARED_LEN) };
        }
    }

    /// The shared state; `None` before [`Self::open`].
    #[inline]
    pub fn control(&self) -> Option<&Control> {
        // SAFETY: null, or a page-aligned live mapping whose zeroes are a valid Control, made of atomics only; it stays until
        // `reset`, whose caller vouches that nobody is here.
        unsafe { self.control.load(Ordering::Acquire).as_ref() }
    }

    /// The receive ring.
    #[inline]
    pub fn rx(&self) -> Option<&RingMemory> {
        // SAFETY: null, or a description written before it was published here; it stays until `drop_ring` or `reset`.
        unsafe { self.rx.load(Ordering::Acquire).as_ref() }.map(|m| &m.memory)
    }

    /// The transmit ring.
    #[inline]
    pub fn tx(&self) -> Option<&RingMemory> {
        // SAFETY: as in `rx`.
        unsafe { self.tx.load(Ordering::Acquire).as_ref() }.map(|m| &m.memory)
    }

    /// The descriptors that keep ring memory mappable, for the front end to keep out of the client's way. `move_to` gets each
    /// and answers its new number.
    pub fn move_descriptors(&self, move_to: impl Fn(i32) -> i32) {
        for ring in [&self.rx, &self.tx] {
            // SAFETY: as in `rx`.
            if let Some(mapped) = unsafe { ring.load(Ordering::Acquire).as_ref() } {
                let fd = mapped.fd.load(Ordering::Relaxed);
                if fd >= 0 {
                    mapped.fd.store(move_to(fd), Ordering::Relaxed);
                }
            }
        }
    }

    fn descriptor(&self, which: Which) -> i32 {
        let ring = match which {
            Which::Rx => &self.rx,
            Which::Tx => &self.tx,
        };
        // SAFETY: as in `rx`.
        unsafe { ring.load(Ordering::Acquire).as_ref() }.map_or(-1, |m| m.fd.load(Ordering::Relaxed))
    }

    /// Whether the receive ring's next frame is not to be filled now.
    #[inline]
    pub fn is_full(&self) -> bool {
        match (self.rx(), self.control()) {
            (Some(rx), Some(control)) => {
                let head = control.rx_head.load(Ordering::Relaxed) % rx.geometry().frame_nr();
                crate::memory::Frames::status(rx, head) != crate::abi::status::UNUSED
            }
            _ => false,
        }
    }

    /// The ring asked for.
    pub fn ring(&self, which: Which) -> Option<&RingMemory> {
        match which {
            Which::Rx => self.rx(),
            Which::Tx => self.tx(),
        }
    }

    /// Bytes a client must map: both rings, receive first.
    pub fn map_len(&self) -> usize {
        self.rx().map_or(0, |r| r.geometry().len()) + self.tx().map_or(0, |r| r.geometry().len())
    }

    pub(crate) fn scratch(&self) -> *mut Scratch {
        self.scratch.load(Ordering::Relaxed)
    }

    /// Where datagrams that fit no frame land first: [`LARGEST`] bytes for each message of a batch.
    pub(crate) fn spill(&self, index: usize) -> *mut u8 {
        // SAFETY: the spill areas lie behind the headers in one mapping; the index is below VLEN.
        unsafe { self.scratch().cast::<u8>().add(SCRATCH_LEN + (index % VLEN) * LARGEST) }
    }

    /// Points the headers' vectors at frames with so much room, but for the frames themselves, and at what lies behind that in
    /// the spill areas: in front of it `gather` brings a spilled message together.
    fn point_scratch(&self, room: usize) {
        let front = room.min(LARGEST);
        for i in 0..VLEN {
            let frame = IoVec { base: null_mut(), len: room };
            // SAFETY: inside the spill area of message `i`, at most one past its end; the headers belong to the lock's holder.
            unsafe {
                let spill = IoVec { base: self.spill(i).add(front), len: LARGEST - front };
                (&raw mut (*self.scratch()).iov).cast::<[IoVec; 2]>().add(i).write([frame, spill]);
            }
        }
    }

    pub(crate) fn store<'a>(&self, control: &'a Control) -> Store<'a> {
        // SAFETY: the store's bytes follow the control page in the same mapping; callers hold the lock.
        unsafe {
            // From the address of the whole mapping: a reference to the control page leads no further than that.
            let base = self.control.load(Ordering::Relaxed).cast::<u8>().add(sys::PAGE);
            let received = &raw const (*self.scratch()).control;
            Store::new(control, base, store::CAPACITY).beside(received.cast())
        }
    }

    /// Takes the receive lock.
    pub fn hold(&self, pid: u32) -> Option<Held<'_>> {
        Some(self.control()?.lock.hold(pid))
    }

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
        self.add_ring_over(which, geometry, true, |len| Ok((sys::map_fd_from(fd, len, offset)?, -1)))
    }

    /// As [`Self::add_ring_at`], for a ring that another endpoint had over the same state ([`Self::open_at`]): its heads and
    /// what the store holds stay.
    ///
    /// # Errors
    /// As [`Self::add_ring_at`].
    pub fn adopt_ring_at(&self, which: Which, geometry: Geometry, fd: i32, offset: usize) -> Result<()> {
        self.add_ring_over(which, geometry, false, |len| Ok((sys::map_fd_from(fd, len, offset)?, -1)))
    }

    fn add_ring_over(
        &self,
        which: Which,
        geometry: Geometry,
        fresh: bool,
        memory: impl FnOnce(usize) -> Result<(*mut u8, i32)>,
    ) -> Result<()> {
        let control = self.control().ok_or(Errno::BADF)?;
        if self.ring(which).is_some() {
            return Err(Errno::BUSY);
        }
        let ring = map_ring(geometry, memory)?;
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
        let slot = match which {
            Which::Rx => &self.rx,
            Which::Tx => &self.tx,
        };
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
            let Some(ring) = self.ring(which) else {
                continue;
            };
            let (len, fd) = (ring.geometry().len(), self.descriptor(which));
            // SAFETY: `to..to+len` is inside the range reserved above or given by the caller; the source is a live ring.
            let mapped =
                unsafe { if fd >= 0 { sys::map_fd_at(fd, len, to) } else { sys::map_again_at(ring.base(), len, to) } };
            // SAFETY: the range was just mapped.
            let result = mapped.and_then(|()| unsafe { sys::protect(to, len, prot) });
            if let Err(e) = result {
                if fixed.is_none() {
                    // SAFETY: reserved above and not yet handed out.
                    unsafe { sys::unmap(at, whole) };
                }
                return Err(e);
            }
            // SAFETY: still inside the range, at most one past its end.
            to = unsafe { to.add(len) };
        }
        Ok(at)
    }
}

/// Fills in everything that stays the same between receives.
///
/// # Safety
/// `scratch` is writable for `SCRATCH_LEN + SPILL_LEN` bytes and aligned.
unsafe fn init_scratch(scratch: *mut Scratch) {
    for i in 0..VLEN {
        // SAFETY: all places lie inside the mapping; no reference to it exists.
        unsafe {
            let iov = (&raw mut (*scratch).iov).cast::<[IoVec; 2]>().add(i);
            let name = (&raw mut (*scratch).names).cast::<SockaddrNl>().add(i);
            let control = (&raw mut (*scratch).control).cast::<[u64; CONTROL_LEN / 8]>().add(i);
            let hdr = MsgHdr {
                name: name.cast(),
                namelen: size_of::<SockaddrNl>() as u32,
                iov: iov.cast(),
                iovlen: 2,
                control: control.cast(),
                controllen: CONTROL_LEN,
                flags: 0,
            };
            (&raw mut (*scratch).msgs).cast::<MMsgHdr>().add(i).write(MMsgHdr { hdr, len: 0 });
        }
    }
}
