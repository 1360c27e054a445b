//! The doorbell: keeps the real socket readable while the client has something to read.
//!
//! Whoever waits in the kernel on the real socket, in another thread, in a forked child or by a system call we never see,
//! was woken by a message that this pump has just taken away: it would go to sleep again beside a `VALID` frame. So the
//! socket sends itself a few bytes, which are swallowed when there is nothing left to read (readiness.md).

use super::{Context, Pump, Step};
use crate::abi::{NLMSG_HDRLEN, NLMSG_NOOP};
use crate::control::flag;
use crate::endpoint::Endpoint;
use crate::errno::Errno;
use crate::socket::Socket;
use crate::store::Meta;
use crate::sys::{AF_NETLINK, IoVec, MSG_DONTWAIT, MSG_PEEK, MsgHdr, SockaddrNl};
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Bytes of a doorbell: an `nlmsghdr` and a secret.
const LEN: usize = 32;

/// A receive that is interrupted so often is left to the next run.
const INTERRUPTIONS: u32 = 64;

/// Where nothing else is in the queue, more are taken out of it.
const FEW: u32 = 2;
/// More are rung only by a run that has taken a message, which was charged as much at least: while a full ring leaves messages in
/// front of them, each run that publishes something rings.
const MOST: u32 = 16;

/// A doorbell's bytes.
fn bytes(secret: u64) -> [u8; LEN] {
    let mut out = [0; LEN];
    let words =
        [LEN as u32, u32::from(NLMSG_NOOP), secret as u32, 0, 0x6d6c_6e2e, (secret >> 32) as u32, 0x6c6c_6562, 0];
    for (to, from) in out.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    out
}

/// Sends one of `N` bytes to the socket itself.
fn send<S: Socket, const N: usize>(sock: &S, portid: u32, secret: u64) -> Result<(), Errno> {
    let mut text = [0; N];
    text.iter_mut().zip(bytes(secret)).for_each(|(to, from)| *to = from);
    let mut name = SockaddrNl { family: AF_NETLINK, pad: 0, portid, groups: 0 };
    let mut iov = IoVec { base: text.as_mut_ptr(), len: N };
    let msg = MsgHdr {
        name: (&raw mut name).cast(),
        namelen: size_of::<SockaddrNl>() as u32,
        iov: &raw mut iov,
        iovlen: 1,
        ..MsgHdr::EMPTY
    };
    // SAFETY: everything points to locals of the stated lengths.
    unsafe { sock.send(&msg, MSG_DONTWAIT) }.map(|_| ())
}

/// What a doorbell is charged to a receive queue: rung once on `sock`, a socket of the caller's that receives nothing else.
pub fn measure_bell<S: Socket>(sock: &S) -> Result<u32, Errno> {
    send::<S, LEN>(sock, sock.portid()?, 0)?;
    sock.queued()
}

impl Endpoint {
    /// Makes the socket readable if there is something to read: somebody may be waiting where no call of ours sees it.
    pub fn show<S: Socket>(&self, sock: &S, pid: u32) {
        if let (Some(control), Some(ring)) = (self.control(), self.rx()) {
            let _held = control.lock.hold(pid);
            let pump = Pump::new(self, control, ring, sock, Context::Background);
            if control.flags.load(Relaxed) & (flag::BELL | flag::NO_BELL | flag::PLUG) == 0 && pump.readable() {
                pump.ring_one();
            }
        }
    }
}

impl<S: Socket> Pump<'_, S> {
    /// Whether somebody who sees only the socket must find it readable: an unseen waiter when there is something to read, an
    /// announced one when its `poll` would answer an error too, a blocking receive when it would answer.
    fn must_show(&self) -> bool {
        let control = self.control;
        let is_announced = |threads: &AtomicU32| threads.load(SeqCst) > 0;
        (self.endpoint.unseen.load(Relaxed) || is_announced(&control.waiters)) && self.readable()
            || is_announced(&control.receivers) && control.copies.load(Relaxed) > 0
            || control.error.load(Relaxed) != 0 && (is_announced(&control.waiters) || is_announced(&control.receivers))
    }

    /// Before anything is received: whether the doorbells in the queue may stay, and are all there is. A client that receives
    /// itself is about to sleep on the socket, and not to be woken by frames: for it they stay only if others need them.
    pub(super) fn answer_bell(&self) -> Step {
        if self.control.flags.load(Relaxed) & (flag::BELL | flag::PLACED) == 0 {
            return Step::Moved;
        }
        if self.control.has(flag::PLACED) && self.drop_placed() == Step::Stop {
            return Step::Stop;
        }
        self.rung.set(self.control.rx_published.load(Relaxed).wrapping_sub(self.placed.get()));
        self.old_bells.set(self.control.bells.load(Relaxed));
        self.taken_before.set(self.control.counters.rx_datagrams.load(Relaxed));
        if !self.control.has(flag::BELL) || self.others() != Some(0) {
            return Step::Moved;
        }
        let stays = if self.context == Context::Recv { self.must_show() } else { self.readable() };
        if !stays {
            return self.swallow(0);
        }
        // What has waited in the store has frames now.
        self.ring_bell();
        Step::Stop
    }

    /// Takes the doorbells but for so many, where they are all that is in the queue. Here and not on the way of all messages: that one
    /// ends at a full ring.
    fn swallow(&self, but: u32) -> Step {
        while self.control.bells.load(Relaxed) > but {
            let taken = match self.receive_unbroken(LEN, MSG_PEEK) {
                Ok((meta, bytes)) if self.is_bell(&meta, bytes) => self.receive_unbroken(LEN, 0),
                Ok(_) => return Step::Moved,
                Err(error) => return self.failed(error),
            };
            match taken {
                Ok(_) => self.note_bells(self.control.bells.load(Relaxed).saturating_sub(1)),
                Err(error) => return self.failed(error),
            }
        }
        Step::Moved
    }

    /// What the doorbells in the queue are charged.
    pub(super) fn bells_bytes(&self) -> u32 {
        self.control.bells.load(Relaxed).saturating_mul(self.control.bell_bytes.load(Relaxed))
    }

    /// What everything else in the queue is charged, `None` where the kernel does not say.
    pub(super) fn others(&self) -> Option<u32> {
        let queued = self.sock.queued().ok()?;
        if queued == 0 {
            // Somebody else has received them.
            self.note_bells(0);
        }
        Some(queued.saturating_sub(self.bells_bytes()))
    }

    fn note_bells(&self, number: u32) {
        self.control.bells.store(number, Relaxed);
        self.control.set(flag::BELL, number > 0);
    }

    /// As [`Self::receive_private`], again where it was interrupted: at a full ring nothing else asks for the doorbell in this run.
    fn receive_unbroken(&self, most: usize, flags: u32) -> Result<(Meta, &[u8]), Errno> {
        for _ in 0..INTERRUPTIONS {
            match self.receive_private(most, flags) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::INTR)
    }

    /// After everything was received: rings, if somebody must find the socket readable. `false`: the run is to go on, to the queue's
    /// end.
    #[inline]
    pub(super) fn ring_bell(&self) -> bool {
        match self.control.flags.load(Relaxed) & (flag::BELL | flag::NO_BELL | flag::PLUG) {
            0 if self.must_show() => {
                self.ring_one();
            }
            flag::BELL if self.endpoint.unseen.load(Relaxed) => return self.ring_again(),
            _ => {}
        }
        true
    }

    /// There is a doorbell in the queue. Takes it where nothing is left to be told of; rings another where something was published
    /// after it, of which an edge-triggered waiter would not hear.
    #[cold]
    fn ring_again(&self) -> bool {
        if !self.readable() {
            if self.others() == Some(0) {
                self.swallow(0);
            }
            return true;
        }
        let has_news = || self.control.rx_published.load(Relaxed) != self.rung.get();
        let bells = self.control.bells.load(Relaxed);
        let has_taken = || self.control.counters.rx_datagrams.load(Relaxed) != self.taken_before.get();
        if !has_news() || bells >= MOST && !has_taken() {
            return true;
        }
        if self.ring_one() {
            if bells >= FEW && self.others() == Some(0) {
                self.swallow(1);
            }
            return true;
        }
        // A socket that has lost something takes nothing before it was seen empty.
        self.drains.replace(true)
    }

    /// Rings once more.
    #[cold]
    pub(super) fn ring_one(&self) -> bool {
        // Counted first: of a process that dies in between a bell too many is expected, and none is taken for a message.
        self.note_bells(self.control.bells.load(Relaxed) + 1);
        let rung = self.ring_with::<LEN>();
        if rung {
            self.rung.set(self.control.rx_published.load(Relaxed));
        } else {
            self.note_bells(self.control.bells.load(Relaxed).saturating_sub(1));
        }
        rung
    }

    /// Sends a doorbell of `N` bytes, if the socket has an address and may.
    pub(super) fn ring_with<const N: usize>(&self) -> bool {
        let control = self.control;
        let mut portid = control.portid.load(Relaxed);
        if portid == 0 {
            portid = self.sock.portid().unwrap_or(0);
            control.portid.store(portid, Relaxed);
        }
        if portid == 0 {
            return false;
        }
        control.count(&control.counters.calls, 1);
        match send::<S, N>(self.sock, portid, control.bell_secret.load(Relaxed)) {
            Ok(()) => true,
            // A full queue is readable without it.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR | Errno::NOMEM) => false,
            Err(_) => {
                control.set(flag::NO_BELL, true);
                false
            }
        }
    }

    /// Whether a message of this origin and length can be the doorbell.
    pub(super) fn may_be_bell(&self, meta: &Meta, len: usize) -> bool {
        // A socket filter of the client's may cut it; what is left must hold some of the secret.
        (NLMSG_HDRLEN..=LEN).contains(&len)
            && self.control.has(flag::BELL)
            && meta.portid == self.control.portid.load(Relaxed)
    }

    /// Whether a message just received is the doorbell, which is swallowed by that.
    pub(super) fn took_bell(&self, meta: &Meta, got: &[u8]) -> bool {
        let is = self.is_bell(meta, got);
        if is {
            self.note_bells(self.control.bells.load(Relaxed).saturating_sub(1));
        }
        is
    }

    fn is_bell(&self, meta: &Meta, got: &[u8]) -> bool {
        let whole = bytes(self.control.bell_secret.load(Relaxed));
        self.may_be_bell(meta, got.len()) && whole.starts_with(got)
    }
}
