//! The doorbell: keeps the real socket readable while the client has something to read.
//!
//! Whoever waits in the kernel on the real socket, in another thread, in a forked child or by a system call we never see,
//! was woken by a message that this pump has just taken away: it would go to sleep again beside a `VALID` frame. So the
//! socket sends itself a few bytes, which are swallowed when there is nothing left to read (readiness.md).

use super::{Context, Pump, Step};
use crate::abi::{NLMSG_HDRLEN, NLMSG_NOOP};
use crate::control::flag;
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

    /// Before anything is received: whether the doorbell in the queue may stay, and is all there is. A client that receives
    /// itself is about to sleep on the socket, and not to be woken by frames: for it the bell stays only if others need it.
    pub(super) fn answer_bell(&self) -> Step {
        if !self.control.has(flag::BELL) || self.sock.queued() != Ok(self.control.bell_bytes.load(Relaxed)) {
            return Step::Moved;
        }
        let stays = if self.context == Context::Recv { self.must_show() } else { self.readable() };
        if stays {
            return Step::Stop;
        }
        // Here and not on the way of all messages: that one ends at a full ring.
        let taken = match self.receive_unbroken(LEN, MSG_PEEK) {
            Ok((meta, bytes)) if self.is_bell(&meta, bytes) => self.receive_unbroken(LEN, 0),
            Ok(_) => return Step::Moved,
            Err(error) => return self.failed(error),
        };
        match taken {
            Ok(_) => {
                self.control.set(flag::BELL, false);
                Step::Moved
            }
            Err(error) => self.failed(error),
        }
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

    /// After everything was received: rings, if somebody must find the socket readable.
    pub(super) fn ring_bell(&self) {
        let control = self.control;
        if control.flags.load(Relaxed) & (flag::BELL | flag::NO_BELL | flag::PLUG) != 0 || !self.must_show() {
            return;
        }
        if self.ring_with::<LEN>() {
            control.set(flag::BELL, true);
        }
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
            self.control.set(flag::BELL, false);
        }
        is
    }

    fn is_bell(&self, meta: &Meta, got: &[u8]) -> bool {
        let whole = bytes(self.control.bell_secret.load(Relaxed));
        self.may_be_bell(meta, got.len()) && whole.starts_with(got)
    }
}
