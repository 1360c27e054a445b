//! `send`, `sendto`, `sendmsg`, `sendmmsg`, `write`, `writev` on sockets with rings: kicks and messages.
//!
//! They leave in the supervisor's name, and only for callers with its own rights. The replies that the kernel has queued by then
//! are in the ring when the call returns.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use libc::c_long;
use nix::errno::Errno;
use nlmmap_ring::endpoint::full;
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::{Fd, Socket as _};
use nlmmap_ring::sys::{self, IoVec, MSG_DONTWAIT, MsgHdr, SockaddrNl};
use nlmmap_ring::tx;

use super::client::{self, Held, Span};
use super::engine::Supervisor;
use super::notify::{Call, Outcome};
use super::receive::{HEADER, is_nonblocking, time_limit, vectors};
use super::ring::Ring;
use super::wait::What;
use crate::serve::socket::Credentials;

/// `sizeof(struct sockaddr_storage)`
const NAME: u64 = 128;
/// More ancillary data than netlink knows is left to the kernel.
const ANCILLARY: u64 = 1024;
const MOST_MESSAGES: u64 = 1024;
/// A receiver without room is tried again after each of these, doubling: nothing tells when it has some.
const FIRST_NAP: Duration = Duration::from_micros(50);
const LAST_NAP: Duration = Duration::from_millis(5);
/// Port ids of the kernel's choice are above all processes' and below this (-4096).
const NO_PROCESS: u32 = -4096i32 as u32;
const TRIES: u32 = 8;

/// A kick under way.
pub struct Kicking {
    message: Message,
    /// Frames that it may take still; none at its beginning.
    left: Option<u32>,
    /// Bytes that it has sent.
    pub total: i64,
    /// It waits for a receiver that has no room.
    patient: bool,
    nap: Duration,
    /// When it is tried again.
    pub due: Instant,
}

/// A message as a client gives it.
struct Message {
    spans: Vec<Span>,
    name: Vec<u8>,
    ancillary: Vec<u8>,
    flags: u32,
}

impl Message {
    fn plain(at: u64, len: u64) -> Message {
        Message { spans: vec![Span { at, len: len as usize }], name: Vec::new(), ancillary: Vec::new(), flags: 0 }
    }

    fn of_header(tid: u32, at: u64, flags: u32) -> Option<Message> {
        let header = client::read(tid, at, HEADER).ok()?;
        let (name, name_len) = (client::long(&header, 0), u64::from(client::word(&header, 2)));
        let (ancillary, ancillary_len) = (client::long(&header, 4), client::long(&header, 5));
        if name_len > i32::MAX as u64 || ancillary_len > ANCILLARY {
            return None;
        }
        let name_len = if name == 0 { 0 } else { name_len.min(NAME) };
        Some(Message {
            spans: vectors(tid, client::long(&header, 2), client::long(&header, 3))?,
            name: client::read(tid, name, name_len as usize).ok()?,
            ancillary: client::read(tid, ancillary, ancillary_len as usize).ok()?,
            flags,
        })
    }

    /// The template of what is sent, over `self`.
    fn header(&mut self) -> MsgHdr {
        let mut header = MsgHdr::EMPTY;
        if !self.name.is_empty() {
            (header.name, header.namelen) = (self.name.as_mut_ptr(), self.name.len() as u32);
        }
        if !self.ancillary.is_empty() {
            (header.control, header.controllen) = (self.ancillary.as_mut_ptr(), self.ancillary.len());
        }
        header
    }

    /// Its address: a port id, and groups; zeroes if it has none.
    fn destination(&self) -> (u32, u32) {
        let at = std::mem::offset_of!(SockaddrNl, portid) / 4;
        (client::word(&self.name, at), client::word(&self.name, at + 1))
    }

    /// Whether it goes to somebody else than the kernel.
    fn reaches_others(&self) -> bool {
        self.destination() != (0, 0)
    }

    /// Whether the client's name is given beside it with its rights alone: to another process, which the kernel judges nothing by.
    fn names(&self) -> bool {
        self.destination().0 != 0 && self.ancillary.is_empty()
    }

    /// What netlink refuses before it gives a socket a port id.
    fn is_refused_at_once(&self) -> bool {
        let family = self.name.first_chunk().map(|family| u16::from_ne_bytes(*family));
        let is_good = self.name.len() >= size_of::<SockaddrNl>() && family == Some(sys::AF_NETLINK);
        self.flags & libc::MSG_OOB as u32 != 0 || !self.name.is_empty() && !is_good
    }
}

impl Supervisor {
    /// `None`: it waits.
    pub(super) fn send(&mut self, call: &Call) -> Option<Outcome> {
        let Some((held, tgid)) = self.ring_at(call, call.int(0)) else { return Some(Outcome::Native) };
        let (tid, args) = (call.tid, &call.args);
        let message = match c_long::from(call.nr) {
            libc::SYS_write => Some(Message::plain(args[1], args[2])),
            libc::SYS_writev => vectors(tid, args[1], args[2]).map(|spans| Message { spans, ..Message::plain(0, 0) }),
            libc::SYS_sendto => {
                let name_len = if args[4] == 0 { 0 } else { args[5] as u32 as u64 };
                let name = if name_len <= NAME { client::read(tid, args[4], name_len as usize).ok() } else { None };
                name.map(|name| Message { name, flags: args[3] as u32, ..Message::plain(args[1], args[2]) })
            }
            libc::SYS_sendmsg => Message::of_header(tid, args[1], args[2] as u32),
            _ => return Some(self.send_many(call, &held, tgid)),
        };
        // What cannot be read, the kernel cannot read either, and knows the word for it.
        let Some(message) = message else { return Some(Outcome::Native) };
        self.send_one(call, &held, tgid, message, true)
    }

    fn send_many(&mut self, call: &Call, held: &Held, tgid: u32) -> Outcome {
        let (at, count, flags) = (call.args[1], u64::from(call.args[2] as u32).min(MOST_MESSAGES), call.args[3] as u32);
        let mut sent = 0;
        for at in (0..count).map(|i| at + i * (HEADER as u64 + 8)) {
            let outcome = match Message::of_header(call.tid, at, flags) {
                Some(message) => self.send_one(call, held, tgid, message, false).unwrap_or(Outcome::Native),
                // The first of them is the kernel's to refuse, by its own word.
                None => Outcome::Native,
            };
            let done = match outcome {
                Outcome::Value(len) => client::write(call.tid, at + HEADER as u64, &(len as u32).to_ne_bytes()),
                _ if sent > 0 => break,
                _ => return outcome,
            };
            // It has gone: where its length cannot be told it counts nevertheless, but for a place that is none, as in the kernel.
            if done != Err(Errno::EFAULT) {
                sent += 1;
            }
            if done.is_err() {
                break;
            }
        }
        Outcome::Value(sent)
    }

    /// One message, or a kick. `waits`: it may, for a receiver without room.
    fn send_one(&mut self, call: &Call, held: &Held, tgid: u32, mut message: Message, waits: bool) -> Option<Outcome> {
        let Some(ring) = self.rings.get_mut(&held.cookie) else { return Some(Outcome::Native) };
        let kick = match message.spans.as_slice() {
            [span] => span.at == 0 && ring.transmits(),
            _ => false,
        };
        // The file layer answers for no bytes before it asks the socket.
        if call.nr == libc::SYS_writev as i32 && message.spans.iter().all(|span| span.len == 0) {
            return Some(Outcome::Native);
        }
        if kick {
            // It goes on where the other has ended.
            let total = self.sent_before(call, None).unwrap_or(0);
            let patient = waits && message.flags & MSG_DONTWAIT == 0 && !is_nonblocking(&held.fd);
            let mut kick = Kicking { message, left: None, total, patient, nap: FIRST_NAP, due: Instant::now() };
            return match self.kick(call, held, tgid, &mut kick) {
                None => {
                    match time_limit(&held.fd, libc::SO_SNDTIMEO) {
                        Ok(limit) => self.hold_call(call, tgid, limit, None, What::Kick(Box::new(kick))),
                        // What it has sent it is told of, and the rest it may try again.
                        Err(_) if kick.total > 0 => return Some(Outcome::Value(kick.total)),
                        Err(error) => return Some(Outcome::from(error)),
                    }
                    None
                }
                outcome => outcome,
            };
        }
        let Ok(data) = client::gather(call.tid, &message.spans) else { return Some(Outcome::Native) };
        // A message is not sent twice.
        if let Some(value) = self.sent_before(call, Some(&data)) {
            self.sent = Some(data);
            return Some(Outcome::Value(value));
        }
        self.sent = Some(data.clone());
        let sent = self.on_behalf_of(call.tid, message.names(), |us| us.send_data(held, tgid, &mut message, data));
        if message.reaches_others() {
            // It may have gone to a ring of another of ours.
            self.take_events();
        }
        Some(match sent {
            // It would have to sleep, which the client can do itself.
            Ok(Err(nlmmap_ring::Errno::AGAIN)) if message.flags & MSG_DONTWAIT == 0 => Outcome::Native,
            Ok(Err(error)) => Outcome::from(error),
            Ok(Ok(len)) => Outcome::Value(len as i64),
            Err(error) => Outcome::from(error),
        })
    }

    /// A kick, or more of it. `None`: its receiver has no room, and it waits for that.
    fn kick(&mut self, call: &Call, held: &Held, tgid: u32, kick: &mut Kicking) -> Option<Outcome> {
        let done = self.on_behalf_of(call.tid, kick.message.names(), |us| us.send_frames(held, tgid, kick));
        if kick.message.reaches_others() {
            self.take_events();
        }
        match done {
            Ok(Ok(true)) => Some(Outcome::Value(kick.total)),
            Ok(Ok(false)) => {
                kick.due = Instant::now() + kick.nap;
                kick.nap = (kick.nap * 2).min(LAST_NAP);
                None
            }
            Ok(Err(error)) => Some(Outcome::from(error)),
            Err(error) => Some(Outcome::from(error)),
        }
    }

    /// A kick that waits for room is tried again, for the last time if its time is over.
    pub(super) fn kick_again(&mut self, call: &Call, kick: &mut Kicking, expired: bool) -> Option<Outcome> {
        if !expired && Instant::now() < kick.due {
            return None;
        }
        // The number may be another file's by now, or cannot be looked at now: whatever is left is left.
        let Some((held, tgid)) = self.ring_at(call, call.int(0)) else { return Some(Outcome::Value(kick.total)) };
        kick.patient &= !expired;
        self.kick(call, &held, tgid, kick)
    }

    /// Ancillary data, name and port id of what is to be sent, and whether it is delivered frame by frame.
    fn address<'m>(
        &self,
        held: &Held,
        tgid: u32,
        message: &'m mut Message,
        credentials: &'m mut Option<Credentials>,
    ) -> (MsgHdr, bool) {
        if !message.is_refused_at_once() {
            name_after(&held.fd, tgid);
        }
        // As a kernel that delivers within the send: a ring that fills refuses the very next message.
        let fd = Fd(held.fd.as_raw_fd());
        let peer = if message.name.is_empty() { fd.peer().unwrap_or_default() } else { SockaddrNl::default() };
        let delivers = self.strict && (message.reaches_others() || peer.portid != 0 || peer.groups != 0);
        // Beside a message to a group alone only the supervisor's own name can be given with other rights than its own.
        let (port, groups) = message.destination();
        if (port != 0 || groups != 0 && !self.rights_differ) && message.ancillary.is_empty() {
            *credentials = self.credentials_of(tgid);
        }
        let mut header = message.header();
        if let Some(credentials) = credentials {
            credentials.attach(&mut header);
        }
        (header, delivers)
    }

    fn send_data(
        &mut self,
        held: &Held,
        tgid: u32,
        message: &mut Message,
        mut data: Vec<u8>,
    ) -> Result<usize, nlmmap_ring::Errno> {
        let (mut credentials, flags) = (None, message.flags | MSG_DONTWAIT);
        let (mut header, delivers) = self.address(held, tgid, message, &mut credentials);
        let mut vector = IoVec { base: data.as_mut_ptr(), len: data.len() };
        (header.iov, header.iovlen) = (&raw mut vector, 1);
        let Some(ring) = self.rings.get_mut(&held.cookie) else { return Err(nlmmap_ring::Errno::BADF) };
        ring.endpoint.begin_send(sys::getpid());
        if let Some(control) = ring.control() {
            tx::note_request(control, &data);
        }
        // SAFETY: the header leads to the message's own bytes, and to the data.
        let sent = unsafe { Fd(held.fd.as_raw_fd()).send(&header, flags) };
        if delivers {
            self.deliver(held);
        }
        self.end_send(held);
        match sent {
            // Kernels from 5.17 on refuse an empty datagram; 4.5 sent it and answered 0.
            Err(nlmmap_ring::Errno::NODATA) if data.is_empty() => Ok(0),
            sent => sent,
        }
    }

    /// Frames of a kick: whether it is over.
    fn send_frames(&mut self, held: &Held, tgid: u32, kick: &mut Kicking) -> Result<bool, nlmmap_ring::Errno> {
        let (mut credentials, flags) = (None, kick.message.flags | MSG_DONTWAIT);
        let (header, delivers) = self.address(held, tgid, &mut kick.message, &mut credentials);
        let fd = Fd(held.fd.as_raw_fd());
        let rounds = if delivers { 1 } else { u32::MAX };
        let Some(ring) = self.rings.get(&held.cookie) else { return Err(nlmmap_ring::Errno::BADF) };
        ring.endpoint.begin_send(sys::getpid());
        let mut left = kick.left.unwrap_or_else(|| ring.endpoint.kick_frames());
        let mut result = Ok(true);
        while left > 0 {
            let Some(ring) = self.rings.get(&held.cookie) else { break };
            let on_full = &ring.endpoint.on_full;
            on_full.store(if kick.patient { full::STAYS } else { full::GOES }, Ordering::Relaxed);
            // SAFETY: the header leads to the message's own bytes.
            let part = unsafe { ring.endpoint.kick_part(&fd, sys::getpid(), &header, flags, &mut left, rounds) };
            let stayed = on_full.swap(full::GOES, Ordering::Relaxed) == full::STAYED;
            if delivers {
                // Also where it has failed: a send to a group has reached its members by then.
                self.deliver(held);
            }
            match part {
                Ok(sent) => kick.total += sent as i64,
                Err(error) => result = Err(error),
            }
            if stayed || result.is_err() {
                kick.left = Some(left);
                result = result.map(|_| false);
                break;
            }
        }
        self.end_send(held);
        result
    }

    fn end_send(&mut self, held: &Held) {
        if let Some(ring) = self.rings.get_mut(&held.cookie) {
            ring.service(&held.fd, Context::Send);
            ring.endpoint.end_send();
        }
    }

    /// A socket has sent to another: what has come to rings of ours is taken in.
    fn deliver(&mut self, from: &Held) {
        let family = |ring: &Ring| ring.endpoint.family.load(Ordering::Relaxed);
        let Some(sender) = self.rings.get(&from.cookie).map(|ring| family(ring)) else { return };
        let reached = self.rings.iter().filter(|(_, ring)| ring.receives() && family(ring) == sender);
        for cookie in reached.map(|(cookie, _)| *cookie).collect::<Vec<_>>() {
            self.pump(cookie, Context::Send);
        }
    }

    /// The name of a client's process beside a message to another, which only root may give.
    fn credentials_of(&self, tgid: u32) -> Option<Credentials> {
        // SAFETY: no arguments.
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        self.rights.may_name().then(|| Credentials::new(tgid, uid, gid))
    }
}

/// A socket that is sent on without an address gets that of its process (`netlink_autobind`), and not the supervisor's.
fn name_after(fd: &OwnedFd, tgid: u32) {
    if Fd(fd.as_raw_fd()).portid() == Ok(0) {
        let name = SockaddrNl { family: sys::AF_NETLINK, ..SockaddrNl::default() };
        // Another socket of the process may have it: then any that is no process's, as the kernel chooses it.
        let any = |nr: u32| sys::now().wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(nr)) as u32 | 1 << 31;
        for port in std::iter::once(tgid).chain((0..TRIES).map(any)).filter(|port| *port < NO_PROCESS) {
            let name = SockaddrNl { portid: port, ..name };
            // SAFETY: an address and its length.
            if unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), size_of_val(&name) as u32) } == 0 {
                return;
            }
        }
        let _ = Fd(fd.as_raw_fd()).autobind();
    }
}
