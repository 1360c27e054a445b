//! `recv`, `recvfrom`, `recvmsg`, `recvmmsg`, `read`, `readv` on sockets with a receive ring: `COPY` messages.
//!
//! A message is looked at, written to the client, and taken only when the call could be answered: an interrupted client has lost
//! nothing.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use libc::c_long;
use nix::errno::Errno;
use nlmmap_ring::endpoint::LARGEST;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, IoVec, MSG_DONTWAIT, MSG_PEEK, MsgHdr, SOL_SOCKET};

use super::client::{self, MOST_VECTORS, Span};
use super::engine::Supervisor;
use super::notify::{Call, Outcome};
use super::wait::What;

/// `struct msghdr` and `struct mmsghdr` as the kernel has them.
pub const HEADER: usize = 56;
/// Room for whatever comes beside a message.
const ANCILLARY: usize = 512;
/// `sizeof(struct sockaddr_storage)`
const NAME: usize = 128;

/// Where a client wants a message.
struct Wanted {
    spans: Vec<Span>,
    name: Span,
    /// Where the length of the name is written to, 0 for nowhere.
    name_len_at: u64,
    ancillary: Span,
    /// Where its header is, for the rest that is written there; 0 for none.
    header: u64,
    /// Where the length of the message goes, of a call for many.
    len_at: u64,
    flags: u32,
}

/// The vectors of a client's header. `None`: the kernel shall say what is wrong with them.
pub fn vectors(tid: u32, at: u64, count: u64) -> Option<Vec<Span>> {
    let count = usize::try_from(count).ok().filter(|count| *count <= MOST_VECTORS)?;
    let bytes = client::read(tid, at, count * 16).ok()?;
    let span = |i| Span { at: client::long(&bytes, 2 * i), len: client::long(&bytes, 2 * i + 1) as usize };
    let spans: Vec<Span> = (0..count).map(span).collect();
    // A length that is none the kernel refuses before it looks at anything else.
    spans.iter().all(|span| span.len <= isize::MAX as usize).then_some(spans)
}

fn of_header(tid: u32, at: u64, flags: u32) -> Option<Wanted> {
    let header = client::read(tid, at, HEADER).ok()?;
    let (name, name_len) = (client::long(&header, 0), client::word(&header, 2) as usize);
    if name != 0 && name_len > i32::MAX as usize {
        return None;
    }
    Some(Wanted {
        spans: vectors(tid, client::long(&header, 2), client::long(&header, 3))?,
        name: Span { at: name, len: if name == 0 { 0 } else { name_len.min(NAME) } },
        name_len_at: at + 8,
        ancillary: Span { at: client::long(&header, 4), len: client::long(&header, 5) as usize },
        header: at,
        len_at: 0,
        flags,
    })
}

fn wanted(call: &Call) -> Option<Wanted> {
    let (tid, args) = (call.tid, &call.args);
    let plain = Wanted {
        spans: vec![Span { at: args[1], len: args[2] as usize }],
        name: Span::default(),
        name_len_at: 0,
        ancillary: Span::default(),
        header: 0,
        len_at: 0,
        flags: 0,
    };
    match c_long::from(call.nr) {
        libc::SYS_read if args[2] != 0 => Some(plain),
        libc::SYS_readv => {
            let spans = vectors(tid, args[1], args[2]).filter(|spans| spans.iter().any(|span| span.len > 0))?;
            Some(Wanted { spans, ..plain })
        }
        libc::SYS_recvfrom => {
            let flags = args[3] as u32 & !sys::MSG_CMSG_CLOEXEC;
            if args[4] == 0 || args[5] == 0 {
                return Some(Wanted { flags, ..plain });
            }
            let len = client::word(&client::read(tid, args[5], 4).ok()?, 0);
            let len = usize::try_from(len.cast_signed()).ok()?.min(NAME);
            Some(Wanted { flags, name: Span { at: args[4], len }, name_len_at: args[5], ..plain })
        }
        libc::SYS_recvmsg => of_header(tid, args[1], args[2] as u32),
        // One at a time: the kernel, too, may give fewer than are asked for.
        libc::SYS_recvmmsg if args[2] as u32 != 0 => {
            let wanted = of_header(tid, args[1], args[3] as u32 & !sys::MSG_WAITFORONE)?;
            Some(Wanted { len_at: args[1] + HEADER as u64, ..wanted })
        }
        _ => None,
    }
}

impl Supervisor {
    /// A receive. `None`: it waits.
    pub(super) fn receive(&mut self, call: &Call) -> Option<Outcome> {
        let Some((held, tgid)) = self.ring_at(call, call.int(0)) else { return Some(Outcome::Native) };
        if !self.rings.get(&held.cookie).is_some_and(|ring| ring.receives()) {
            return Some(Outcome::Native);
        }
        let outcome = self.receive_now(call);
        let flags = match c_long::from(call.nr) {
            libc::SYS_recvfrom | libc::SYS_recvmmsg => call.args[3] as u32,
            libc::SYS_recvmsg => call.args[2] as u32,
            _ => 0,
        };
        if outcome != Some(Outcome::Error(libc::EAGAIN)) || flags & MSG_DONTWAIT != 0 || is_nonblocking(&held.fd) {
            return outcome;
        }
        match time_limit(&held.fd, libc::SO_RCVTIMEO) {
            Ok(limit) => self.hold_call(call, tgid, limit, None, What::Receive),
            Err(error) => return Some(Outcome::from(error)),
        }
        None
    }

    /// A receive of what is there, or `EAGAIN`. `None`: it was answered, or its caller is gone.
    pub(super) fn receive_now(&mut self, call: &Call) -> Option<Outcome> {
        let (Some((held, _)), Some(wanted)) = (self.ring_at(call, call.int(0)), wanted(call)) else {
            return Some(Outcome::Native);
        };
        let ring = self.rings.get(&held.cookie).filter(|ring| ring.receives())?;
        let most = wanted.spans.iter().fold(0usize, |sum, span| sum.saturating_add(span.len));
        let mut room = vec![0u8; most.min(LARGEST)];
        let mut name = [0u8; NAME];
        let mut ancillary = [0u64; ANCILLARY / 8];
        let mut vector = IoVec { base: room.as_mut_ptr(), len: room.len() };
        let mut message = MsgHdr { iov: &raw mut vector, iovlen: 1, ..MsgHdr::EMPTY };
        if wanted.name.at != 0 {
            (message.name, message.namelen) = (name.as_mut_ptr(), wanted.name.len as u32);
        }
        if wanted.ancillary.at != 0 {
            message.control = ancillary.as_mut_ptr().cast();
            message.controllen = wanted.ancillary.len.min(ANCILLARY);
        }
        let fd = Fd(held.fd.as_raw_fd());
        // SAFETY: the header points to locals of the stated lengths.
        let got = match unsafe { ring.endpoint.receive(&fd, sys::getpid(), &mut message, wanted.flags | MSG_PEEK) } {
            Ok(got) => got,
            Err(error) => return Some(Outcome::from(error)),
        };
        if !self.listener.waits(call.id) {
            self.forget(call.id);
            return None;
        }
        let bytes = room.get(..got.min(room.len())).unwrap_or_default();
        let written = hand_over(call.tid, &wanted, &message, bytes, &name, &ancillary);
        let outcome = match written {
            Ok(()) if wanted.len_at != 0 => client::write(call.tid, wanted.len_at, &(got as u32).to_ne_bytes())
                .map_or_else(Outcome::from, |()| Outcome::Value(1)),
            Ok(()) => Outcome::Value(got as i64),
            // The message is gone all the same, as in the kernel.
            Err(error) => Outcome::from(error),
        };
        // What could not be written for want of memory is there for the next call.
        let is_over = !matches!(outcome, Outcome::Error(error) if error != libc::EFAULT);
        if self.listener.answer(call.id, outcome).is_ok() {
            self.log.call(call, outcome);
            if wanted.flags & MSG_PEEK == 0 && is_over {
                let mut nothing = MsgHdr::EMPTY;
                // SAFETY: a header that leads nowhere.
                let _ = unsafe { ring.endpoint.receive(&fd, sys::getpid(), &mut nothing, MSG_DONTWAIT) };
            }
        }
        if let Some(ring) = self.rings.get_mut(&held.cookie) {
            ring.show();
        }
        self.forget(call.id);
        None
    }

    /// The call was answered.
    fn forget(&mut self, id: u64) {
        self.waiting.iter_mut().filter(|waiting| waiting.call.id == id).for_each(|waiting| waiting.over = true);
    }
}

fn hand_over(
    tid: u32,
    wanted: &Wanted,
    message: &MsgHdr,
    bytes: &[u8],
    name: &[u8],
    ancillary: &[u64],
) -> Result<(), Errno> {
    client::scatter(tid, &wanted.spans, bytes)?;
    if wanted.name.at != 0 {
        let len = wanted.name.len.min(message.namelen as usize);
        client::write(tid, wanted.name.at, name.get(..len).unwrap_or_default())?;
        client::write(tid, wanted.name_len_at, &message.namelen.to_ne_bytes())?;
    }
    if wanted.header != 0 {
        let len = if wanted.ancillary.at == 0 { 0 } else { message.controllen };
        let ancillary: Vec<u8> = ancillary.iter().flat_map(|word| word.to_ne_bytes()).take(len).collect();
        client::write(tid, wanted.ancillary.at, &ancillary)?;
        client::write(tid, wanted.header + 40, &(len as u64).to_ne_bytes())?;
        client::write(tid, wanted.header + 48, &message.flags.to_ne_bytes())?;
    }
    Ok(())
}

/// `SO_RCVTIMEO`, `SO_SNDTIMEO`: none is for ever.
pub fn time_limit(fd: &OwnedFd, name: i32) -> Result<Option<Duration>, nlmmap_ring::Errno> {
    let [seconds, micros] = sys::getsockopt::<[u64; 2]>(fd.as_raw_fd(), SOL_SOCKET, name)?;
    Ok(Some(Duration::from_secs(seconds) + Duration::from_micros(micros)).filter(|time| !time.is_zero()))
}

pub fn is_nonblocking(fd: &OwnedFd) -> bool {
    // SAFETY: numbers only.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) & libc::O_NONBLOCK != 0 }
}
