//! The receive pump: datagrams of the real socket into frames.
//!
//! - [`batch`]: one `recvmmsg` straight into free frames. The usual way.
//! - [`frames`]: what has come by way of private memory, into frames and the store.
//! - [`ancillary`]: what name and ancillary data say.
//! - [`single`]: one datagram at a time, looked at before it is taken. For strict mode.
//! - [`bell`]: keeps the real socket readable for waiters who see nothing else.
//! - [`congestion`]: in strict mode, makes senders wait for a reader that is behind.
//! - [`overrun`]: what is told of a message that finds no frame.
//! - [`copy`]: the client's own `recv` of `COPY` messages.
//!
//! Everything here runs under the receive lock.

mod ancillary;
mod batch;
mod bell;
mod congestion;
pub mod copy;
mod frames;
mod overrun;
mod single;

pub(crate) use ancillary::meta_of;
pub use bell::measure_bell;
use frames::{is_copied, is_dump_part};

use crate::abi::{FrameHdr, status};
use crate::control::{Control, flag};
use crate::endpoint::Endpoint;
use crate::errno::Errno;
use crate::memory::{Frames, RingMemory};
use crate::readiness;
use crate::ring;
use crate::socket::Socket;
use crate::store::Meta;
use crate::tap;
use crate::trouble::{self, Trouble};
use core::cell::Cell;
use core::sync::atomic::Ordering::{Relaxed, Release};

/// From where a pump is run: decides how far a dump goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// `poll` and its relatives.
    Wait,
    /// After a send: what the kernel has queued by then, not what our own receiving makes it produce.
    Send,
    /// `recv` by the client.
    Recv,
    /// `recv` by the client has just taken a `COPY` message.
    Received,
    /// The backing thread.
    Background,
}

/// One run of the pump over one endpoint.
pub(crate) struct Pump<'a, S> {
    pub endpoint: &'a Endpoint,
    pub control: &'a Control,
    pub ring: &'a RingMemory,
    pub sock: &'a S,
    pub context: Context,
    /// The one request that was sent before this run: its acknowledgement is the last there is to wait for.
    pub request: Cell<Option<Request>>,
    /// Dump parts this run has set aside.
    pub set_aside: Cell<u32>,
    /// Whether the client's `recv`, which this run follows, has made a dump go on.
    pub went_on: Cell<bool>,
    /// Messages this run has received.
    pub received: Cell<u32>,
    /// What this run knows of the real queue's end.
    pub end: Cell<End>,
    /// Whether this run has taken the first message behind a doorbell's ringing by itself.
    pub past_first: Cell<bool>,
}

/// A request that wants an acknowledgement: its sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request(pub u32);

/// How a run of the pump has left the real queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Something may be left.
    Unknown,
    /// It was seen empty.
    Empty,
    /// The acknowledgement of [`Pump::request`] was the last that was received.
    Answered,
}

/// Whether a step has moved something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Moved,
    Stop,
}

impl Endpoint {
    /// Moves what the real socket holds into the ring, as far as ring, store and dump rules allow. Never sleeps.
    ///
    /// Takes the lock for process `pid`.
    pub fn service<S: Socket>(&self, sock: &S, pid: u32, context: Context) {
        let (Some(control), Some(ring)) = (self.control(), self.rx()) else {
            return;
        };
        let _held = control.lock.hold(pid);
        self.service_held(control, ring, sock, context);
    }

    /// Puts a message into the ring that the socket has not received, behind everything that it has; in strict mode as a `COPY`.
    /// `false` when there is no room for it, or no ring.
    pub fn put<S: Socket>(&self, sock: &S, pid: u32, message: &[u8]) -> bool {
        let (Some(control), Some(ring)) = (self.control(), self.rx()) else {
            return false;
        };
        let _held = control.lock.hold(pid);
        self.service_held(control, ring, sock, Context::Send);
        let parts = [(message.as_ptr(), message.len()), (core::ptr::null(), 0)];
        // SAFETY: a slice is readable for its length, and not in the store.
        let pushed = unsafe { self.store(control).push(&Meta::default(), parts) };
        self.service_held(control, ring, sock, Context::Send);
        pushed
    }

    /// As [`Self::service`], by somebody who has seen to the signals.
    pub(crate) fn service_quietly<S: Socket>(&self, sock: &S, pid: u32, context: Context) {
        let (Some(control), Some(ring)) = (self.control(), self.rx()) else { return self.copy_sent() };
        let _held = control.lock.hold_quietly(pid);
        self.service_held(control, ring, sock, context);
    }

    /// An endpoint without a receive ring has sent.
    fn copy_sent(&self) {
        if let Some(control) = self.control()
            && control.has(flag::TAPPED)
        {
            tap::copy(self, control);
        }
    }

    /// As [`Self::service`], by somebody who has the lock.
    pub(crate) fn service_held<S: Socket>(&self, control: &Control, ring: &RingMemory, sock: &S, context: Context) {
        Pump::new(self, control, ring, sock, context).run();
    }

    /// After the client has sent `request` by this thread. `alone`: nobody else was between a send and its pump by then.
    ///
    /// As [`Self::service`] with [`Context::Send`], but that the run may end with the request's acknowledgement
    /// (protocol.md, "What a send waits for").
    pub(crate) fn answer_quietly<S: Socket>(&self, sock: &S, pid: u32, request: Option<Request>, alone: bool) {
        let (Some(control), Some(ring)) = (self.control(), self.rx()) else { return self.copy_sent() };
        let _held = control.lock.hold_quietly(pid);
        let pump = Pump::new(self, control, ring, sock, Context::Send);
        if alone && control.flags.load(Relaxed) & (flag::BEHIND | flag::SHARED | flag::TAPPED) == 0 {
            pump.request.set(request);
        }
        pump.run();
    }
}

impl<'a, S: Socket> Pump<'a, S> {
    pub(crate) fn new(
        endpoint: &'a Endpoint,
        control: &'a Control,
        ring: &'a RingMemory,
        sock: &'a S,
        context: Context,
    ) -> Pump<'a, S> {
        let (set_aside, went_on) = (Cell::new(0), Cell::new(false));
        let (received, end) = (Cell::new(0), Cell::new(End::Unknown));
        let (request, past_first) = (Cell::new(None), Cell::new(false));
        Pump { endpoint, control, ring, sock, context, request, set_aside, went_on, received, end, past_first }
    }

    fn run(&self) {
        let strict = self.endpoint.strict.load(Relaxed);
        self.control.set(flag::BLOCKED, false);
        self.forget_released();
        if matches!(self.context, Context::Wait | Context::Received) && self.control.copies.load(Relaxed) == 0 {
            self.relieve();
        }
        if self.control.unplaced.load(Relaxed) > 0 {
            self.place_backlog();
        }
        if self.answer_bell() == Step::Stop {
            return;
        }
        let mut budget = self.endpoint.most.load(Relaxed);
        let mut before = self.control.rx_head.load(Relaxed);
        while budget > 0 {
            let step = if strict { self.one() } else { self.batch() };
            if step == Step::Stop {
                break;
            }
            let head = self.head();
            let geometry = self.ring.geometry();
            budget = budget.saturating_sub(geometry.distance(geometry.wrap(before), head).max(1));
            before = head;
        }
        let behind = if self.end.get() == End::Unknown { flag::BEHIND } else { 0 };
        // One look at the flags for both.
        if self.control.flags.load(Relaxed) & (flag::BEHIND | flag::TAPPED) != behind {
            self.note_end(behind);
        }
        if self.request.get().is_none() {
            self.control.rx_burst.store(self.received.get(), Relaxed);
        }
        self.ring_bell();
    }

    /// Notes how the run has left the queue, and copies what has passed if that is asked for.
    #[cold]
    fn note_end(&self, behind: u32) {
        self.control.set(flag::BEHIND, behind != 0);
        if self.control.has(flag::TAPPED) {
            tap::copy(self.endpoint, self.control);
        }
    }

    /// What waits in the socket cannot be taken now. In default mode nothing is lost by that, so nothing is told
    /// (protocol.md, "What is told of a loss"); a full ring (`full`) behind which nothing waits holds nothing up either.
    fn blocked(&self, full: bool) -> Step {
        if full && self.received.get() > 0 {
            // This very run has filled it; the next one sees what is behind that.
            self.control.count(&self.control.counters.filled, 1);
            self.control.set(flag::BLOCKED, true);
            return Step::Stop;
        }
        if !self.endpoint.strict.load(Relaxed) {
            // An error of the kernel's own would come with the next receive, which cannot be made now.
            match self.sock.take_error() {
                0 => {}
                error => self.pass_on(Errno(error)),
            }
        }
        let waiting = if full { self.waiting() } else { 0 };
        let held = !full || waiting > 0;
        if full && held && self.control.flags.load(Relaxed) & (flag::DUMP | flag::DUMPING) == 0 {
            self.control.counters.held_bytes.fetch_max(u64::from(waiting), Relaxed);
            trouble::report(self.endpoint, Trouble::Held);
        }
        self.control.set(flag::BLOCKED, held);
        Step::Stop
    }

    /// Bytes of messages in the real queue, the doorbell apart.
    fn waiting(&self) -> u32 {
        let bell = if self.control.has(flag::BELL) { self.control.bell_bytes.load(Relaxed) } else { 0 };
        self.sock.queued().map_or(1, |queued| queued.saturating_sub(bell))
    }

    /// Advances `rx_oldest` over released frames.
    fn forget_released(&self) {
        let frame_nr = self.ring.frame_nr();
        let mut outstanding = self.control.rx_outstanding.load(Relaxed).min(frame_nr);
        if outstanding == 0 {
            return;
        }
        let mut oldest = self.ring.geometry().wrap(self.control.rx_oldest.load(Relaxed));
        while outstanding > 0 && self.ring.status(oldest) == status::UNUSED {
            oldest = self.ring.next(oldest);
            outstanding -= 1;
        }
        self.control.rx_oldest.store(oldest, Relaxed);
        self.control.rx_outstanding.store(outstanding, Relaxed);
    }

    fn head(&self) -> u32 {
        self.ring.geometry().wrap(self.control.rx_head.load(Relaxed))
    }

    /// Moves the head to `pos`, past `steps` frames.
    fn set_head(&self, pos: u32, steps: u32) {
        let frame_nr = self.ring.frame_nr();
        let outstanding = self.control.rx_outstanding.load(Relaxed) + steps;
        if outstanding > frame_nr {
            let over = outstanding - frame_nr;
            let oldest = (self.control.rx_oldest.load(Relaxed) % frame_nr + over % frame_nr) % frame_nr;
            self.control.rx_oldest.store(oldest, Relaxed);
        }
        self.control.rx_outstanding.store(outstanding.min(frame_nr), Relaxed);
        // Release: a reader that finds the new head finds the frames before it filled.
        self.control.rx_head.store(pos, Release);
    }

    /// Where the head leads to over `SKIP` frames. It stays until a message is put there: a frame that is released before
    /// that is the next one (`netlink_alloc_skb` steps over frames with a message in hand).
    fn ahead(&self) -> u32 {
        ring::forward_ring(self.ring, self.head())
    }

    /// Moves the head to `pos`, which it leads to, without putting anything there.
    fn step_to(&self, pos: u32) {
        let head = self.head();
        if pos != head {
            self.set_head(pos, self.ring.geometry().distance(head, pos));
        }
    }

    /// Makes the frame at `pos`, which is the head or ahead of it, `status` with this header.
    #[inline(always)]
    fn publish(&self, pos: u32, hdr: &FrameHdr, status: u32) {
        let frame = self.ring.frame(pos);
        frame.write_header(hdr);
        frame.set_status(status);
        self.set_head(self.ring.next(pos), self.ring.geometry().distance(self.head(), pos) + 1);
        let published = &self.control.rx_published;
        // Release: as the head.
        published.store(published.load(Relaxed).wrapping_add(1), Release);
        let counters = &self.control.counters;
        self.control.count(if status == status::VALID { &counters.rx_frames } else { &counters.rx_copies }, 1);
    }

    /// An error of the real socket's.
    fn pass_on(&self, error: Errno) {
        // It may hide how the last run has left the queue.
        self.request.set(None);
        self.endpoint.pass_on(self.control, error);
    }

    /// A receive has failed.
    fn failed(&self, error: Errno) -> Step {
        match error {
            Errno::AGAIN => {
                self.end.set(End::Empty);
                // The kernel keeps a part of a running dump in the queue: there is none.
                self.control.set(flag::DUMP, false);
                if self.endpoint.store(self.control).unplaced() == 0 {
                    self.control.set(flag::DUMPING, false);
                }
                Step::Stop
            }
            Errno::INTR => Step::Moved,
            Errno::BADF | Errno::NOTSOCK | Errno::FAULT | Errno::INVAL | Errno::NOSYS | Errno::PERM => Step::Stop,
            error => {
                self.pass_on(error);
                Step::Moved
            }
        }
    }

    /// Whether the client would be told to read.
    fn readable(&self) -> bool {
        readiness::readable(self.endpoint, self.control)
    }
}
