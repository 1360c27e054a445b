//! `send`, `sendto`, `sendmsg`, `sendmmsg`, `write`, `writev` on sockets with rings: kicks and messages.
//!
//! They leave in the supervisor's name, and only for callers with its own rights. The replies that the kernel has queued by then
//! are in the ring when the call returns.

use std::os::fd::{AsRawFd, OwnedFd};

use libc::c_long;
use nix::errno::Errno;
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::{Fd, Socket as _};
use nlmmap_ring::sys::{self, IoVec, MSG_DONTWAIT, MsgHdr, SockaddrNl};
use nlmmap_ring::tx;

use super::client::{self, Held, Span};
use super::engine::Supervisor;
use super::notify::{Call, Outcome};
use super::receive::{HEADER, vectors};
use crate::serve::socket::Credentials;

/// `sizeof(struct sockaddr_storage)`
const NAME: u64 = 128;
/// More ancillary data than netlink knows is left to the kernel.
const ANCILLARY: u64 = 1024;
const MOST_MESSAGES: u64 = 1024;

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

    /// Whether it goes to somebody else than the kernel.
    fn reaches_others(&self) -> bool {
        let at = std::mem::offset_of!(SockaddrNl, portid) / 4;
        client::word(&self.name, at) != 0 || client::word(&self.name, at + 1) != 0
    }
}

impl Supervisor {
    pub(super) fn send(&mut self, call: &Call) -> Outcome {
        let Some((held, tgid)) = self.ring_at(call, call.int(0)) else { return Outcome::Native };
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
            _ => return self.send_many(call, &held, tgid),
        };
        // What cannot be read, the kernel cannot read either, and knows the word for it.
        let Some(message) = message else { return Outcome::Native };
        self.send_one(call, &held, tgid, message)
    }

    fn send_many(&mut self, call: &Call, held: &Held, tgid: u32) -> Outcome {
        let (at, count, flags) = (call.args[1], u64::from(call.args[2] as u32).min(MOST_MESSAGES), call.args[3] as u32);
        let mut sent = 0;
        for at in (0..count).map(|i| at + i * (HEADER as u64 + 8)) {
            let outcome = match Message::of_header(call.tid, at, flags) {
                Some(message) => self.send_one(call, held, tgid, message),
                None => Outcome::from(Errno::EFAULT),
            };
            let done = match outcome {
                Outcome::Value(len) => client::write(call.tid, at + HEADER as u64, &(len as u32).to_ne_bytes()),
                _ if sent > 0 => break,
                _ => return outcome,
            };
            if done.is_err() {
                break;
            }
            sent += 1;
        }
        Outcome::Value(sent)
    }

    fn send_one(&mut self, call: &Call, held: &Held, tgid: u32, message: Message) -> Outcome {
        let Some(ring) = self.rings.get_mut(&held.cookie) else { return Outcome::Native };
        let kick = match message.spans.as_slice() {
            [span] => span.at == 0 && ring.transmits(),
            _ => false,
        };
        let others = message.reaches_others();
        // The file layer answers for no bytes before it asks the socket.
        if call.nr == libc::SYS_writev as i32 && message.spans.iter().all(|span| span.len == 0) {
            return Outcome::Native;
        }
        let data = if kick { Ok(Vec::new()) } else { client::gather(call.tid, &message.spans) };
        let Ok(data) = data else { return Outcome::Native };
        // A kick goes on where the other has ended; a message is not sent twice.
        let before = self.sent_before(call, if kick { None } else { Some(&data) });
        if let Some(value) = before.filter(|_| !kick) {
            self.sent = Some(data);
            return Outcome::Value(value);
        }
        let copy = (!kick).then(|| data.clone());
        let sent = self.on_behalf_of(call.tid, |us| us.send_as(held, tgid, message, data, kick));
        self.sent = copy;
        if others {
            // It may have gone to a ring of another of ours.
            self.take_events();
        }
        match sent {
            Ok(Outcome::Value(value)) => Outcome::Value(value + before.unwrap_or(0)),
            Ok(outcome) => outcome,
            Err(error) => Outcome::from(error),
        }
    }

    fn send_as(&mut self, held: &Held, tgid: u32, mut message: Message, mut data: Vec<u8>, kick: bool) -> Outcome {
        name_after(&held.fd, tgid);
        let flags = message.flags | MSG_DONTWAIT;
        let is_named = message.reaches_others() && message.ancillary.is_empty();
        let mut header = message.header();
        let credentials = if is_named { self.credentials_of(tgid) } else { None };
        if let Some(credentials) = &credentials {
            credentials.attach(&mut header);
        }
        let Some(ring) = self.rings.get_mut(&held.cookie) else { return Outcome::Native };
        let fd = Fd(held.fd.as_raw_fd());
        ring.endpoint.begin_send(sys::getpid());
        let sent = if kick {
            // SAFETY: the template leads to the message's own bytes.
            unsafe { ring.endpoint.kick(&fd, sys::getpid(), &header, flags) }
        } else {
            let mut vector = IoVec { base: data.as_mut_ptr(), len: data.len() };
            (header.iov, header.iovlen) = (&raw mut vector, 1);
            if let Some(control) = ring.control() {
                tx::note_request(control, &data);
            }
            // SAFETY: as above, and to the data.
            unsafe { fd.send(&header, flags) }
        };
        ring.service(&held.fd, Context::Send);
        ring.endpoint.end_send();
        match sent {
            // It would have to sleep, which the client can do itself.
            Err(nlmmap_ring::Errno::AGAIN) if !kick && message.flags & MSG_DONTWAIT == 0 => Outcome::Native,
            // Kernels from 5.17 on refuse an empty datagram; 4.5 sent it and answered 0.
            Err(nlmmap_ring::Errno::NODATA) if data.is_empty() => Outcome::Value(0),
            Err(error) => Outcome::from(error),
            Ok(len) => Outcome::Value(len as i64),
        }
    }
}

impl Supervisor {
    /// The name of a client's process beside a message to another, which only root may give.
    fn credentials_of(&self, tgid: u32) -> Option<Credentials> {
        // SAFETY: no arguments.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        (uid == 0).then(|| Credentials::new(tgid, uid, gid))
    }
}

/// A socket that is sent on without an address gets that of its process (`netlink_autobind`), and not the supervisor's.
fn name_after(fd: &OwnedFd, tgid: u32) {
    if Fd(fd.as_raw_fd()).portid() == Ok(0) {
        let name = SockaddrNl { family: sys::AF_NETLINK, portid: tgid, ..SockaddrNl::default() };
        // If it is taken, the send itself finds another.
        // SAFETY: an address and its length.
        unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), size_of_val(&name) as u32) };
    }
}
