//! The transmit pump: `VALID` frames to the real socket (`netlink_mmap_sendmsg` of 4.4).
//!
//! `nm_len` is read once, and the only copy of a payload is the one the kernel makes: nothing acts on a second read.

use crate::abi::{self, status};
use crate::control::{Control, flag};
use crate::endpoint::Endpoint;
use crate::errno::{Errno, Result};
use crate::lock::Quiet;
use crate::memory::{Frames, RingMemory};
use crate::message;
use crate::rx::Context;
use crate::socket::Socket;
use crate::sys::{self, IoVec, MMsgHdr, MSG_DONTWAIT, MsgHdr, SockaddrNl};
use core::sync::atomic::Ordering::Relaxed;

/// Frames given to one system call at most.
const BATCH: usize = 64;
/// Separate datagrams given to one system call at most.
const SEPARATE: usize = 16;
/// Bytes of a joined datagram at most.
const JOINED: usize = 16 << 10;

/// One `VALID` frame, its length read once and judged.
#[derive(Clone, Copy)]
struct Taken {
    pos: u32,
    len: usize,
}

impl Endpoint {
    /// A kick: sends every `VALID` frame from the head on. `template` carries the destination and ancillary data of the
    /// client's call, its vectors are not looked at. Replies are pumped as it goes.
    ///
    /// Returns the sum of the lengths sent, 0 when no frame was `VALID`.
    ///
    /// # Errors
    /// `EINVAL` for a frame whose `nm_len` is more than it holds (it stays); else the error of the send that failed (its
    /// frame is gone, later ones stay), though earlier frames were sent.
    ///
    /// # Safety
    /// The pointers of `template` are valid for the lengths beside them.
    pub unsafe fn kick<S: Socket>(&self, sock: &S, pid: u32, template: &MsgHdr, flags: u32) -> Result<usize> {
        let (Some(control), Some(ring)) = (self.control(), self.tx()) else {
            return Ok(0);
        };
        if control.tx_sleeper.load(Relaxed) != 0 && control.tx_sleeper.load(Relaxed) == sys::gettid() {
            // A signal handler above a kick that sleeps in this very thread: that one has the frames.
            return Err(Errno::AGAIN);
        }
        // Held to the end, as in the kernel: frames leave in their order whoever kicks.
        let quiet = Quiet::begin();
        let _held = control.tx_lock.hold_quietly(pid);
        let mut total = 0;
        // A send to a group may fail after it has reached members (ECONNREFUSED of its unicast part): it must never be tried
        // again to learn its error, so such frames go one by one.
        let most = if may_join(template) { BATCH } else { 1 };
        let mut budget = ring.geometry().frame_nr();
        while budget > 0 {
            let mut taken = [Taken { pos: 0, len: 0 }; BATCH];
            let n = gather(control, ring, &mut taken, most.min(budget as usize))?;
            let Some(batch @ [_, ..]) = taken.get(..n) else {
                break;
            };
            note_dumps(control, ring, batch);
            let joined = joinable(self.family.load(Relaxed), ring, template, batch);
            // SAFETY: the caller's duty for the template; frames are live.
            let (sent, outcome) = unsafe { send_some(sock, ring, template, batch, joined, flags) };
            for frame in batch.get(..sent).unwrap_or(batch) {
                ring.set_status(frame.pos, status::UNUSED);
                total += frame.len;
            }
            advance(control, ring, sent);
            control.count(&control.counters.calls, 1);
            control.count(&control.counters.tx_frames, sent as u64);
            budget = budget.saturating_sub(sent as u32);
            if let (Err(error), Some(frame)) = (outcome, batch.get(sent).copied()) {
                // This frame failed, or would have to wait: it is taken from the ring now, whatever comes.
                ring.set_status(frame.pos, status::RESERVED);
                advance(control, ring, 1);
                control.count(&control.counters.tx_frames, 1);
                budget = budget.saturating_sub(1);
                let would_sleep = error == Errno::AGAIN && flags & MSG_DONTWAIT == 0;
                let result = if sent > 0 || would_sleep || error == Errno::MSGSIZE {
                    // Alone, and with signals open: this send may sleep, as the client's own would.
                    control.tx_sleeper.store(sys::gettid(), Relaxed);
                    // SAFETY: as above.
                    let result = quiet.with_signals(|| unsafe { send_one(sock, ring, template, frame, flags) });
                    control.tx_sleeper.store(0, Relaxed);
                    result
                } else {
                    Err(error)
                };
                ring.set_status(frame.pos, status::UNUSED);
                match result {
                    Ok(n) => total += n,
                    // Kernels from 5.17 on refuse empty datagrams, which 4.5 sent and answered with 0.
                    Err(Errno::NODATA) if frame.len == 0 => {}
                    Err(error) => {
                        self.service_quietly(sock, pid, Context::Send);
                        return Err(error);
                    }
                }
            }
            self.service_quietly(sock, pid, Context::Send);
        }
        Ok(total)
    }
}

/// Collects `VALID` frames from the head on.
fn gather(control: &Control, ring: &RingMemory, taken: &mut [Taken; BATCH], most: usize) -> Result<usize> {
    let mut pos = control.tx_head.load(Relaxed) % ring.frame_nr();
    let mut n = 0;
    for slot in taken.iter_mut().take(most) {
        if ring.status(pos) != status::VALID {
            break;
        }
        let len = ring.len_word(pos);
        if len > ring.geometry().room() {
            if n == 0 {
                return Err(Errno::INVAL);
            }
            break;
        }
        *slot = Taken { pos, len: len as usize };
        pos = ring.next(pos);
        n += 1;
    }
    Ok(n)
}

fn advance(control: &Control, ring: &RingMemory, n: usize) {
    let frame_nr = ring.frame_nr();
    let head = control.tx_head.load(Relaxed) % frame_nr;
    control.tx_head.store((head + n as u32) % frame_nr, Relaxed);
}

/// A dump request changes how replies are received. Only a hint: what a client writes meanwhile does no harm.
fn note_dumps(control: &Control, ring: &RingMemory, batch: &[Taken]) {
    for frame in batch {
        let mut head = [0u8; abi::NLMSG_HDRLEN];
        if frame.len >= head.len() {
            // SAFETY: the local is writable for its length.
            unsafe { ring.read_payload(frame.pos, head.as_mut_ptr(), head.len()) };
            note_request(control, &head);
        }
    }
}

/// Looks at the head of a request that is about to be sent.
pub fn note_request(control: &Control, head: &[u8]) {
    if message::header(head, 0).is_some_and(|m| m.flags & abi::NLM_F_DUMP == abi::NLM_F_DUMP) {
        control.set(flag::DUMP, true);
    }
}

/// Whether several frames may go by one system call: not to a multicast group.
fn may_join(template: &MsgHdr) -> bool {
    if template.name.is_null() || (template.namelen as usize) < size_of::<SockaddrNl>() {
        // To the connected peer, which may be a group: nobody connects to one and kicks many frames, so that costs nothing.
        return template.name.is_null() && template.namelen == 0;
    }
    // SAFETY: the caller of `kick` vouches for `namelen` bytes.
    unsafe { template.name.cast::<SockaddrNl>().read_unaligned() }.groups == 0
}

unsafe fn send_one<S: Socket>(sock: &S, ring: &RingMemory, t: &MsgHdr, frame: Taken, flags: u32) -> Result<usize> {
    let mut iov = IoVec { base: ring.payload(frame.pos), len: frame.len };
    let msg = MsgHdr { iov: &raw mut iov, iovlen: 1, flags: 0, ..*t };
    // SAFETY: the frame is live, the rest is the caller's duty.
    match unsafe { sock.send(&msg, flags) } {
        // 4.5 charged frames to the ring and not to SO_SNDBUF.
        Err(Errno::MSGSIZE) => {
            let room = sock.make_send_room(frame.len);
            // SAFETY: as above.
            let result = unsafe { sock.send(&msg, flags) };
            if let Some(before) = room {
                sock.restore_send_room(before);
            }
            result
        }
        result => result,
    }
}

/// How many frames from the first on may travel as one datagram without a difference that anybody can see: to the kernel, in
/// families whose receiver takes message after message (`netlink_rcv_skb`), each frame a chain of whole messages, no dumps and
/// no nfnetlink batch borders. The kernel answers each message on its own, in order, as it would separate ones.
///
/// A client that changes a frame after this look changes how its own requests are read, nothing else.
fn joinable(family: u32, ring: &RingMemory, template: &MsgHdr, batch: &[Taken]) -> usize {
    const ROUTE: u32 = 0;
    const SOCK_DIAG: u32 = 4;
    const XFRM: u32 = 6;
    const GENERIC: u32 = 16;
    if !matches!(family, ROUTE | SOCK_DIAG | XFRM | abi::NETLINK_NETFILTER | GENERIC)
        || batch.len() < 2
        || template.controllen != 0
        || !is_kernel(template)
    {
        return 0;
    }
    let mut total = 0;
    let mut n = 0;
    for frame in batch {
        total += frame.len;
        if total > JOINED || !is_plain_chain(family, ring, *frame) {
            break;
        }
        n += 1;
    }
    n
}

/// Whether a frame holds nothing but whole, aligned messages that may stand beside others.
fn is_plain_chain(family: u32, ring: &RingMemory, frame: Taken) -> bool {
    // NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END
    let border = |kind: u16| family == abi::NETLINK_NETFILTER && (kind == 16 || kind == 17);
    let mut at = 0;
    while at < frame.len {
        let mut head = [0u8; abi::NLMSG_HDRLEN];
        if frame.len - at < head.len() {
            return false;
        }
        // SAFETY: the local is writable for its length; `at` and the header are inside `frame.len`, which the frame holds.
        unsafe { ring.read_payload_at(frame.pos, at, head.as_mut_ptr(), head.len()) };
        let Some(m) = message::header(&head, 0) else { return false };
        let len = m.len as usize;
        let apart = m.flags & abi::NLM_F_DUMP == abi::NLM_F_DUMP || border(m.kind);
        if len < abi::NLMSG_HDRLEN || len > frame.len - at || apart {
            return false;
        }
        at += abi::nlmsg_align(len);
    }
    at == frame.len && at > 0
}

/// Whether a destination is the kernel: none given, or port id 0 and no group.
fn is_kernel(template: &MsgHdr) -> bool {
    if template.name.is_null() || (template.namelen as usize) < size_of::<SockaddrNl>() {
        // A connected socket's peer is not known here.
        return false;
    }
    // SAFETY: the caller of `kick` vouches for `namelen` bytes.
    let name = unsafe { template.name.cast::<SockaddrNl>().read_unaligned() };
    name.portid == 0 && name.groups == 0
}

/// Sends a batch without sleeping: how many frames went, and whether that was all that was tried.
unsafe fn send_some<S: Socket>(
    sock: &S,
    ring: &RingMemory,
    template: &MsgHdr,
    batch: &[Taken],
    joined: usize,
    flags: u32,
) -> (usize, Result<()>) {
    let mut iovs = [IoVec { base: core::ptr::null_mut(), len: 0 }; BATCH];
    for (iov, frame) in iovs.iter_mut().zip(batch) {
        *iov = IoVec { base: ring.payload(frame.pos), len: frame.len };
    }
    if joined > 1 {
        let msg = MsgHdr { iov: iovs.as_mut_ptr(), iovlen: joined, flags: 0, ..*template };
        // SAFETY: the frames are live, the rest is the caller's duty.
        if unsafe { sock.send(&msg, flags | MSG_DONTWAIT) }.is_ok() {
            return (joined, Ok(()));
        }
        // Refused as a whole, before any of it was read: one by one they get their own answers.
    }
    let tried = batch.len().min(SEPARATE);
    let mut msgs = [MMsgHdr { hdr: MsgHdr::EMPTY, len: 0 }; SEPARATE];
    for (iov, msg) in iovs.iter_mut().zip(msgs.iter_mut()) {
        msg.hdr = MsgHdr { iov: &raw mut *iov, iovlen: 1, flags: 0, ..*template };
    }
    let Some(msgs) = msgs.get_mut(..tried) else { return (0, Err(Errno::INVAL)) };
    if let [one] = &*msgs {
        // SAFETY: as in `send_one`.
        return unsafe { sock.send(&one.hdr, flags | MSG_DONTWAIT) }
            .map_or_else(|error| (0, Err(error)), |_| (1, Ok(())));
    }
    // SAFETY: as in `send_one`, for each frame.
    match unsafe { sock.send_batch(msgs, flags | MSG_DONTWAIT) } {
        Ok(n) if n >= tried => (tried, Ok(())),
        Ok(n) => (n, Err(Errno::AGAIN)),
        Err(error) => (0, Err(error)),
    }
}
