//! One system call of a kick: the frames it sends, and what becomes of them.

use super::joining::{is_batch_border, joinable, send_one, send_some};
use super::{BATCH, Taken, note_request, take};
use crate::abi::{self, status};
use crate::control::Control;
use crate::endpoint::Endpoint;
use crate::errno::{Errno, Result};
use crate::lock::Quiet;
use crate::memory::{Frames, RingMemory};
use crate::message;
use crate::rx::Request;
use crate::socket::Socket;
use crate::sys::{self, IoVec, MSG_DONTWAIT, MsgHdr};
use core::sync::atomic::Ordering::Relaxed;

/// One kick.
pub(super) struct Kick<'a, S> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) control: &'a Control,
    pub(super) ring: &'a RingMemory,
    pub(super) sock: &'a S,
    pub(super) template: &'a MsgHdr,
    pub(super) flags: u32,
}

/// What became of the frames that were tried.
pub(super) struct Round<'a> {
    /// Frames sent.
    pub(super) sent: u32,
    /// Their bytes.
    pub(super) bytes: usize,
    /// The frame that was not, and why.
    pub(super) failed: Option<(Taken<'a>, Errno)>,
    /// What the client is owed for what was sent.
    pub(super) wants: Wants,
}

/// What a client is owed when its send returns (protocol.md, "What a send waits for").
#[derive(Clone, Copy)]
pub(super) enum Wants {
    /// Whatever has been queued by then.
    Answers,
    /// The same, and this is the last of it.
    One(Request),
    /// An error, at the end of what it has to read.
    Nothing,
}

impl<'a, S: Socket> Kick<'a, S> {
    /// # Safety
    /// The pointers of the template are valid for the lengths beside them.
    #[inline(always)]
    pub(super) unsafe fn one(&self, frame: Taken<'a>) -> Round<'a> {
        let wants = self.note(frame);
        let t = self.template;
        let flags = self.flags | MSG_DONTWAIT;
        // SAFETY: the frame is live, the rest is the caller's duty.
        let result = unsafe {
            if t.controllen == 0 {
                self.sock.send_to(frame.frame.payload(), frame.len, flags, t.name, t.namelen)
            } else {
                let mut iov = IoVec { base: frame.frame.payload(), len: frame.len };
                self.sock.send(&MsgHdr { iov: &raw mut iov, iovlen: 1, flags: 0, ..*t }, flags)
            }
        };
        self.control.count(&self.control.counters.calls, 1);
        match result {
            Ok(_) => {
                frame.frame.set_status(status::UNUSED);
                self.sent(1);
                Round { sent: 1, bytes: frame.len, failed: None, wants }
            }
            Err(error) => Round { sent: 0, bytes: 0, failed: Some((frame, error)), wants: Wants::Answers },
        }
    }

    /// # Safety
    /// As for [`Self::one`].
    #[inline(never)]
    pub(super) unsafe fn many(&self, first: Taken<'a>, budget: u32) -> Round<'a> {
        let mut taken = [first; BATCH];
        let n = gather(self.ring, &mut taken, budget as usize);
        let batch = taken.get(..n).unwrap_or(&[]);
        let mut wants = Wants::Nothing;
        for frame in batch {
            if !matches!(self.note(*frame), Wants::Nothing) {
                wants = Wants::Answers;
            }
        }
        let joined = joinable(self.endpoint.family.load(Relaxed), self.ring, self.template, batch);
        // SAFETY: the caller's duty for the template; frames are live.
        let (sent, outcome) = unsafe { send_some(self.sock, self.template, batch, joined, self.flags) };
        let mut bytes = 0;
        for frame in batch.get(..sent).unwrap_or(batch) {
            frame.frame.set_status(status::UNUSED);
            bytes += frame.len;
        }
        self.control.count(&self.control.counters.calls, 1);
        self.sent(sent as u32);
        let failed = match outcome {
            Err(error) => batch.get(sent).map(|frame| (*frame, error)),
            Ok(()) => None,
        };
        if failed.is_some() {
            wants = Wants::Answers;
        }
        Round { sent: sent as u32, bytes, failed, wants }
    }

    /// A frame has failed, or would have to wait: it is taken from the ring now, whatever comes. `behind` others of the same
    /// system call that were sent, nobody knows why yet.
    ///
    /// # Safety
    /// As for [`Self::one`].
    #[cold]
    pub(super) unsafe fn failed(&self, quiet: &Quiet, frame: Taken<'_>, error: Errno, behind: bool) -> Result<usize> {
        frame.frame.set_status(status::RESERVED);
        self.sent(1);
        let would_sleep = error == Errno::AGAIN && self.flags & MSG_DONTWAIT == 0;
        let result = if behind || would_sleep || error == Errno::MSGSIZE {
            // Alone, and with signals open: this send may sleep, as the client's own would.
            self.control.tx_sleeper.store(sys::gettid(), Relaxed);
            // SAFETY: the caller's duty.
            let send = || unsafe { send_one(self.sock, self.template, frame, self.flags) };
            let result = quiet.with_signals(send);
            self.control.tx_sleeper.store(0, Relaxed);
            result
        } else {
            Err(error)
        };
        frame.frame.set_status(status::UNUSED);
        if let Err(error) = result {
            let pos = self.ring.prev(self.ring.geometry().wrap(self.control.tx_head.load(Relaxed)));
            self.control.tx_failed.store((u64::from(pos) + 1) << 32 | error.0 as u64, Relaxed);
        }
        match result {
            // Kernels from 5.17 on refuse empty datagrams, which 4.5 sent and answered with 0.
            Err(Errno::NODATA) if frame.len == 0 => Ok(0),
            result => result,
        }
    }

    /// So many frames from the head on are no longer in the ring.
    #[inline]
    fn sent(&self, n: u32) {
        let head = self.ring.geometry().wrap(self.control.tx_head.load(Relaxed));
        self.control.tx_head.store(self.ring.geometry().wrap(head + n), Relaxed);
        self.control.count(&self.control.counters.tx_frames, u64::from(n));
    }

    /// Looks at the first message of a frame that is about to be sent. Only hints: what a client writes meanwhile does no harm.
    /// A dump request changes how replies are received; a single request is answered when its acknowledgement comes.
    #[inline]
    fn note(&self, frame: Taken<'_>) -> Wants {
        let head: [u8; abi::NLMSG_HDRLEN] = match frame.frame.head() {
            Some(head) if frame.len >= abi::NLMSG_HDRLEN => head,
            _ => return Wants::Answers,
        };
        note_request(self.control, &head);
        let Some(m) = message::header(&head, 0) else { return Wants::Answers };
        let len = m.len as usize;
        if len > frame.len || frame.len > abi::nlmsg_align(len) {
            return Wants::Answers;
        }
        let is_netfilter = self.endpoint.family.load(Relaxed) == abi::NETLINK_NETFILTER;
        if m.flags & abi::NLM_F_ACK != 0 {
            let is_dump = m.flags & abi::NLM_F_DUMP == abi::NLM_F_DUMP;
            let is_border = is_netfilter && is_batch_border(m.kind);
            return if is_dump || is_border { Wants::Answers } else { Wants::One(Request(message::sequence(&head))) };
        }
        let is_verdict = is_netfilter && matches!(m.kind, abi::NFQNL_VERDICT | abi::NFQNL_VERDICT_BATCH);
        if is_verdict && m.flags & abi::NLM_F_ECHO == 0 { Wants::Nothing } else { Wants::Answers }
    }
}

/// Collects `VALID` frames behind the first, which is there already; how many there are then.
fn gather<'a>(ring: &'a RingMemory, taken: &mut [Taken<'a>; BATCH], most: usize) -> usize {
    let mut n = 1;
    let mut pos = taken[0].pos;
    for slot in taken.iter_mut().take(most).skip(1) {
        pos = ring.next(pos);
        let Ok(Some(frame)) = take(ring, pos) else { break };
        *slot = frame;
        n += 1;
    }
    n
}
