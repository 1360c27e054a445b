//! The transmit pump: `VALID` frames to the real socket (`netlink_mmap_sendmsg` of 4.4).
//!
//! `nm_len` is read once, and the only copy of a payload is the one the kernel makes: nothing acts on a second read.

use crate::abi::{self, status};
use crate::control::{Control, flag};
use crate::endpoint::{Endpoint, full};
use crate::errno::{Errno, Result};
use crate::lock::Quiet;
use crate::memory::{Frame, Frames, RingMemory};
use crate::message;
use crate::rx::{Context, Request};
use crate::socket::Socket;
use crate::sys::{self, IoVec, MMsgHdr, MSG_DONTWAIT, MsgHdr, SockaddrNl};
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

mod refusal;

/// Frames given to one system call at most.
const BATCH: usize = 64;
/// Separate datagrams given to one system call at most.
const SEPARATE: usize = 16;
/// Bytes of a joined datagram at most.
const JOINED: usize = 16 << 10;

/// One `VALID` frame, its length read once and judged.
#[derive(Clone, Copy)]
struct Taken<'a> {
    pos: u32,
    len: usize,
    frame: Frame<'a>,
}

impl Endpoint {
    /// A thread of process `pid` is about to send, by a kick or otherwise, and will pump before it calls [`Self::end_send`].
    #[inline]
    pub fn begin_send(&self, pid: u32) {
        self.sending.fetch_add(1, AcqRel);
        if let Some(control) = self.control()
            && control.sender.load(Relaxed) != pid
        {
            note_sender(control, pid);
        }
    }

    /// See [`Self::begin_send`].
    #[inline]
    pub fn end_send(&self) {
        self.sending.fetch_sub(1, AcqRel);
    }

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
        let mut left = self.kick_frames();
        // SAFETY: the caller's duty.
        unsafe { self.kick_part(sock, pid, template, flags, &mut left, u32::MAX) }
    }

    /// Frames that one kick takes at most.
    pub fn kick_frames(&self) -> u32 {
        self.tx().map_or(0, RingMemory::frame_nr)
    }

    /// A part of a kick: no more than `rounds` system calls that send. `left` is [`Self::kick_frames`] before the first part,
    /// and 0 after the last.
    ///
    /// # Errors
    /// As [`Self::kick`]; then the kick is over.
    ///
    /// # Safety
    /// As [`Self::kick`].
    #[inline(always)]
    pub unsafe fn kick_part<S: Socket>(
        &self,
        sock: &S,
        pid: u32,
        template: &MsgHdr,
        flags: u32,
        left: &mut u32,
        rounds: u32,
    ) -> Result<usize> {
        let mut budget = core::mem::take(left);
        let (Some(control), Some(ring)) = (self.control(), self.tx()) else {
            return Ok(0);
        };
        // Whether nothing has been sent by this kick: until then it may be one that is refused as a whole.
        let mut begins = budget == ring.frame_nr();
        if control.tx_sleeper.load(Relaxed) != 0 && control.tx_sleeper.load(Relaxed) == sys::gettid() {
            // A signal handler above a kick that sleeps in this very thread: that one has the frames.
            return Err(Errno::AGAIN);
        }
        if begins && refusal::is_doubtful(template, flags) {
            // SAFETY: the caller's duty.
            unsafe { sock.would_send(template, flags) }?;
        }
        // Held to the end, as in the kernel: frames leave in their order whoever kicks.
        let quiet = Quiet::begin();
        let _held = control.tx_lock.hold_quietly(pid);
        let kick = Kick { endpoint: self, control, ring, sock, template, flags };
        let mut total = 0;
        // A send to a group may fail after it has reached members (ECONNREFUSED of its unicast part): it must never be tried
        // again to learn its error, so such frames go one by one.
        // Nor do messages to other processes in strict mode: a ring that fills refuses the next, as 4.5's did.
        let may_join = || may_join(template) && (!self.strict.load(Relaxed) || is_kernel(template));
        let mut rounds = rounds;
        while budget > 0 {
            if rounds == 0 {
                *left = budget;
                break;
            }
            rounds -= 1;
            let pos = ring.geometry().wrap(control.tx_head.load(Relaxed));
            let first = match take(ring, pos) {
                Ok(Some(first)) => first,
                none => {
                    if begins {
                        refusal::look(sock, template, flags, none.err())?;
                        // The kernel has given the socket a port id by then (`netlink_sendmsg`).
                        autobind(control, sock);
                    }
                    none?;
                    break;
                }
            };
            let next = ring.next(pos);
            let is_alone = budget == 1 || ring.status(next) != status::VALID || !may_join();
            // SAFETY: the caller's duty for the template; frames are live.
            let round = unsafe { if is_alone { kick.one(first) } else { kick.many(first, budget) } };
            total += round.bytes;
            let first_fails = core::mem::take(&mut begins) && round.sent == 0;
            budget = budget.saturating_sub(round.sent);
            if let Some((frame, error)) = round.failed {
                if first_fails {
                    refusal::look(sock, template, flags, Some(error))?;
                }
                let behind = round.sent > 0;
                if error == Errno::AGAIN && self.on_full.load(Relaxed) == full::STAYS {
                    // Behind others of one system call nobody knows why: the next round does.
                    self.service_quietly(sock, pid, Context::Send);
                    if behind {
                        continue;
                    }
                    self.on_full.store(full::STAYED, Relaxed);
                    *left = budget;
                    break;
                }
                budget = budget.saturating_sub(1);
                // SAFETY: as above.
                match unsafe { kick.failed(&quiet, frame, error, behind) } {
                    Ok(n) => total += n,
                    Err(error) => {
                        self.service_quietly(sock, pid, Context::Send);
                        return Err(error);
                    }
                }
            }
            match round.wants {
                Wants::Nothing if self.is_amid_walk(control) => control.set(flag::BEHIND, true),
                Wants::One(request) => self.answer_quietly(sock, pid, Some(request), self.sending.load(Relaxed) <= 1),
                _ => self.service_quietly(sock, pid, Context::Send),
            }
        }
        Ok(total)
    }
}

impl Endpoint {
    /// Takes the `VALID` frame at the head, as a kick does, and does not send it: for whoever judges messages before they are
    /// sent. Its payload is copied once, to `buffer`; how many bytes, none when no frame is `VALID`.
    ///
    /// # Errors
    /// `EINVAL` for a frame whose `nm_len` is more than it holds (it stays); `EMSGSIZE` for one that `buffer` does not hold
    /// (it is gone).
    pub fn take_frame(&self, pid: u32, buffer: &mut [u8]) -> Result<Option<usize>> {
        let (Some(control), Some(ring)) = (self.control(), self.tx()) else {
            return Ok(None);
        };
        let _held = control.tx_lock.hold(pid);
        let pos = ring.geometry().wrap(control.tx_head.load(Relaxed));
        let Some(frame) = take(ring, pos)? else {
            return Ok(None);
        };
        let place = buffer.get_mut(..frame.len);
        let taken = match place {
            Some(place) => {
                // SAFETY: the place is writable for its length, and not in the ring.
                unsafe { ring.read_payload(pos, place.as_mut_ptr(), place.len()) };
                note_request(control, place);
                Ok(Some(frame.len))
            }
            None => Err(Errno::MSGSIZE),
        };
        ring.set_status(pos, status::UNUSED);
        control.tx_head.store(ring.geometry().wrap(pos + 1), Relaxed);
        control.count(&control.counters.tx_frames, 1);
        taken
    }

    /// Whether the client is in the middle of a walk: the two newest frames are `VALID`, so it has more to read than the one
    /// that it may be at.
    fn is_amid_walk(&self, control: &Control) -> bool {
        let Some(rx) = self.rx() else { return false };
        let newest = rx.prev(rx.geometry().wrap(control.rx_head.load(Relaxed)));
        !self.strict.load(Relaxed)
            && rx.frame_nr() > 1
            && control.flags.load(Relaxed) & (flag::DUMP | flag::DUMPING) == 0
            && rx.status(newest) == status::VALID
            && rx.status(rx.prev(newest)) == status::VALID
    }
}

/// Gives the socket a port id if it has none, as any send does.
fn autobind<S: Socket>(control: &Control, sock: &S) {
    if control.portid.load(Relaxed) == 0 {
        let portid = sock.portid().and_then(|portid| if portid == 0 { sock.autobind() } else { Ok(portid) });
        control.portid.store(portid.unwrap_or(0), Relaxed);
    }
}

/// Another process sends than before: in that one's place if it is gone, else beside it.
#[cold]
fn note_sender(control: &Control, pid: u32) {
    let before = control.sender.swap(pid, AcqRel);
    if before != 0 && before != pid && !sys::is_dead(before) {
        control.set(flag::SHARED, true);
    }
}

/// One kick.
struct Kick<'a, S> {
    endpoint: &'a Endpoint,
    control: &'a Control,
    ring: &'a RingMemory,
    sock: &'a S,
    template: &'a MsgHdr,
    flags: u32,
}

/// What became of the frames that were tried.
struct Round<'a> {
    /// Frames sent.
    sent: u32,
    /// Their bytes.
    bytes: usize,
    /// The frame that was not, and why.
    failed: Option<(Taken<'a>, Errno)>,
    /// What the client is owed for what was sent.
    wants: Wants,
}

/// What a client is owed when its send returns (protocol.md, "What a send waits for").
#[derive(Clone, Copy)]
enum Wants {
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
    unsafe fn one(&self, frame: Taken<'a>) -> Round<'a> {
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
    unsafe fn many(&self, first: Taken<'a>, budget: u32) -> Round<'a> {
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
    unsafe fn failed(&self, quiet: &Quiet, frame: Taken<'_>, error: Errno, behind: bool) -> Result<usize> {
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

/// The frame at `pos` if it is `VALID`, its length read once and judged.
#[inline]
fn take(ring: &RingMemory, pos: u32) -> Result<Option<Taken<'_>>> {
    let frame = ring.frame(pos);
    if frame.status() != status::VALID {
        return Ok(None);
    }
    let len = frame.len_word();
    if len > ring.geometry().room() { Err(Errno::INVAL) } else { Ok(Some(Taken { pos, len: len as usize, frame })) }
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

unsafe fn send_one<S: Socket>(sock: &S, t: &MsgHdr, taken: Taken<'_>, flags: u32) -> Result<usize> {
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

/// How many frames from the first on may travel as one datagram without a difference that anybody can see: to the kernel, in
/// families whose receiver takes message after message (`netlink_rcv_skb`), each frame a chain of whole messages, no dumps and
/// no nfnetlink batch borders. The kernel answers each message on its own, in order, as it would separate ones.
///
/// A client that changes a frame after this look changes how its own requests are read, nothing else.
fn joinable(family: u32, ring: &RingMemory, template: &MsgHdr, batch: &[Taken<'_>]) -> usize {
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
fn is_batch_border(kind: u16) -> bool {
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
