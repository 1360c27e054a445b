//! One netlink socket with its rings: what every front end speaks to.
//!
//! An [`Endpoint`] is one process's view; what the kernel kept in the socket lies in the shared [`Control`] and store, so
//! that a forked child goes on with the same heads, errors and copies. Its rings' memory is [`rings`]' part.

mod rings;
pub use rings::show as show_pages;

use crate::card::{self, Card};
use crate::control::Control;
use crate::errno::Result;
use crate::lock::Held;
use crate::memory::RingMemory;
use crate::store::{self, Store};
use crate::sys::{self, IoVec, MMsgHdr, MsgHdr, SockaddrNl};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use rings::{Mapped, unmap_ring};

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
/// The largest frame that is ever filled by way of private memory.
pub(crate) const LARGEST_APART: usize = 64 << 10;
const APART_LEN: usize = VLEN * LARGEST_APART;
const PRIVATE_LEN: usize = SCRATCH_LEN + SPILL_LEN + APART_LEN;
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
    /// What a kick that must not sleep does with a frame whose receiver has no room: see [`full`].
    pub on_full: AtomicU32,
    /// Where a copy of what passes goes.
    pub(crate) tap: crate::tap::Mapped,
}

/// Values of [`Endpoint::on_full`].
pub mod full {
    /// It is gone, and the kick answers `EAGAIN`.
    pub const GOES: u32 = 0;
    /// It stays `VALID`, and so does the head: for whoever will try again.
    pub const STAYS: u32 = 1;
    /// The last part of a kick has ended at such a frame, and left it.
    pub const STAYED: u32 = 2;
}

/// More frames than this are not filled in one go, so that a flood cannot keep the lock.
pub const MOST: u32 = 4096;

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
            on_full: AtomicU32::new(full::GOES),
            tap: crate::tap::Mapped::new(),
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
        let private = match sys::map_private(PRIVATE_LEN) {
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
        self.on_full.store(full::GOES, Ordering::Relaxed);
        self.scratch.store(private, Ordering::Relaxed);
        self.control.store(shared.cast(), Ordering::Release);
        Ok(())
    }

    /// Takes an endpoint's memory away again.
    ///
    /// # Safety
    /// No other thread is inside a method of this endpoint, and none will be before the next [`Self::open`].
    pub unsafe fn reset(&self) {
        self.tap.forget();
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
            unsafe { sys::unmap(scratch.cast(), PRIVATE_LEN) };
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

    /// What people are shown beside it.
    pub fn card(&self) -> Option<&Card> {
        let control = self.control.load(Ordering::Acquire);
        // SAFETY: as in `control`; the card lies in the same page, behind it.
        (!control.is_null()).then(|| unsafe { &*control.cast::<u8>().add(card::AT).cast::<Card>() })
    }

    /// Lays the control's page over the first of the file `fd`, which has a zeroed page of its own there: whoever may open the
    /// file may look at it. For an endpoint that was just opened, and has no ring.
    ///
    /// # Errors
    /// Those of `mmap`; the endpoint is as before.
    pub fn show_at(&self, fd: i32) -> Result<()> {
        // SAFETY: the first page of the shared state, which nobody has looked at or written to; the file's is as zeroed.
        unsafe { sys::map_fd_at(fd, sys::PAGE, self.control.load(Ordering::Relaxed).cast()) }
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

    pub(crate) fn scratch(&self) -> *mut Scratch {
        self.scratch.load(Ordering::Relaxed)
    }

    /// Where datagrams that fit no frame land first: [`LARGEST`] bytes for each message of a batch.
    pub(crate) fn spill(&self, index: usize) -> *mut u8 {
        // SAFETY: the spill areas lie behind the headers in one mapping; the index is below VLEN.
        unsafe { self.scratch().cast::<u8>().add(SCRATCH_LEN + (index % VLEN) * LARGEST) }
    }

    /// Where message `index` of a batch lands that is received apart from its frame, which has `room` bytes: a multiple of 64
    /// bytes behind a page's beginning, as messages are in the kernel ([`crate::bulk`]).
    pub(crate) fn apart(&self, index: usize, room: usize) -> *mut u8 {
        let stride = room.min(LARGEST_APART).next_multiple_of(64);
        // SAFETY: these areas lie behind the spill areas in one mapping; the index is below VLEN.
        unsafe { self.scratch().cast::<u8>().add(SCRATCH_LEN + SPILL_LEN + (index % VLEN) * stride) }
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
}

/// Fills in everything that stays the same between receives.
///
/// # Safety
/// `scratch` is writable for `PRIVATE_LEN` bytes and aligned.
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
