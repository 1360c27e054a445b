//! Which frames may travel together, and the system calls that send them.

use super::{BATCH, JOINED, SEPARATE, Taken};
use crate::abi;
use crate::errno::{Errno, Result};
use crate::memory::RingMemory;
use crate::message;
use crate::socket::Socket;
use crate::sys::{IoVec, MMsgHdr, MSG_DONTWAIT, MsgHdr, SockaddrNl};

/// Whether several frames may go by one system call: not to a multicast group.
pub(super) fn may_join(template: &MsgHdr) -> bool {
    if template.name.is_null() || (template.namelen as usize) < size_of::<SockaddrNl>() {
        // To the connected peer, which may be a group: nobody connects to one and kicks many frames, so that costs nothing.
        return template.name.is_null() && template.namelen == 0;
    }
    // SAFETY: the caller of `kick` vouches for `namelen` bytes.
    unsafe { template.name.cast::<SockaddrNl>().read_unaligned() }.groups == 0
}

/// Whether a destination is the kernel: none given, or port id 0 and no group.
pub(super) fn is_kernel(template: &MsgHdr) -> bool {
    if template.name.is_null() || (template.namelen as usize) < size_of::<SockaddrNl>() {
        // A connected socket's peer is not known here.
        return false;
    }
    // SAFETY: the caller of `kick` vouches for `namelen` bytes.
    let name = unsafe { template.name.cast::<SockaddrNl>().read_unaligned() };
    name.portid == 0 && name.groups == 0
}

/// How many frames from the first on may travel as one datagram without a difference that anybody can see: to the kernel, in
/// families whose receiver takes message after message (`netlink_rcv_skb`), each frame a chain of whole messages, no dumps and
/// no nfnetlink batch borders. The kernel answers each message on its own, in order, as it would separate ones.
///
/// A client that changes a frame after this look changes how its own requests are read, nothing else.
pub(super) fn joinable(family: u32, ring: &RingMemory, template: &MsgHdr, batch: &[Taken<'_>]) -> usize {
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

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`
pub(super) fn is_batch_border(kind: u16) -> bool {
    kind == 16 || kind == 17
}

/// Whether a frame holds nothing but whole, aligned messages that may stand beside others.
fn is_plain_chain(family: u32, ring: &RingMemory, frame: Taken<'_>) -> bool {
    let border = |kind: u16| family == abi::NETLINK_NETFILTER && is_batch_border(kind);
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

/// Sends a batch without sleeping: how many frames went, and whether that was all that was tried.
pub(super) unsafe fn send_some<S: Socket>(
    sock: &S,
    template: &MsgHdr,
    batch: &[Taken<'_>],
    joined: usize,
    flags: u32,
) -> (usize, Result<()>) {
    let mut iovs = [IoVec { base: core::ptr::null_mut(), len: 0 }; BATCH];
    for (iov, frame) in iovs.iter_mut().zip(batch) {
        *iov = IoVec { base: frame.frame.payload(), len: frame.len };
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

pub(super) unsafe fn send_one<S: Socket>(sock: &S, t: &MsgHdr, taken: Taken<'_>, flags: u32) -> Result<usize> {
    let mut iov = IoVec { base: taken.frame.payload(), len: taken.len };
    let msg = MsgHdr { iov: &raw mut iov, iovlen: 1, flags: 0, ..*t };
    // SAFETY: the frame is live, the rest is the caller's duty.
    match unsafe { sock.send(&msg, flags) } {
        // 4.5 charged frames to the ring and not to SO_SNDBUF.
        Err(Errno::MSGSIZE) => {
            let room = sock.make_send_room(taken.len);
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
