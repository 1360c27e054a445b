//! A socket with a sieve (`policy::sieve`): what policy grants the sending of, and not the receiving, does not leave it.
//!
//! Each datagram is received into private memory, judged there message by message, and only what may arrive is handed on, as
//! if the kernel had sent no more. Without a sieve every call is the socket's own.

use std::cell::{Cell, RefCell};

use nlmmap_ring::abi::SOL_NETLINK;
use nlmmap_ring::control::Control;
use nlmmap_ring::endpoint::LARGEST;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::message::NLMSG_GOODSIZE;
use nlmmap_ring::socket::{Fd, Socket};
use nlmmap_ring::sys::{IoVec, MMsgHdr, MSG_CTRUNC, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MsgHdr, SockaddrNl};

use crate::policy::sieve::Sieve;

/// Datagrams of which nothing is left that are received in one go: then others have their turn.
const MOST_GONE: u32 = 256;
const PKTINFO: i32 = 3;
/// `struct cmsghdr`
const CMSG: usize = 16;

/// A sieve, and what it takes to use it.
pub struct Sifter {
    pub sieve: RefCell<Sieve>,
    family: u32,
    /// The socket tells groups beside messages for the sieve's sake: a client that has not asked is not told.
    pub hides_groups: Cell<bool>,
    room: RefCell<Vec<u8>>,
    /// The most that the client itself has had room for: the kernel makes the parts of a dump as large as that.
    most: Cell<usize>,
    /// How many more may go for nothing before others have their turn.
    left: Cell<u32>,
    /// What the socket said behind messages of the same batch.
    error: Cell<Option<Errno>>,
}

impl Sifter {
    pub fn new(family: u32) -> Sifter {
        Sifter {
            sieve: RefCell::default(),
            family,
            hides_groups: Cell::new(false),
            room: RefCell::default(),
            most: Cell::new(NLMSG_GOODSIZE as usize),
            left: Cell::new(MOST_GONE),
            error: Cell::new(None),
        }
    }

    /// An error that a look has taken from the socket.
    pub fn has_error(&self) -> bool {
        let error = self.error.take();
        self.error.set(error);
        error.is_some()
    }

    pub fn take_error(&self) -> i32 {
        self.error.take().map_or(0, |error| error.0)
    }

    /// Whether something may be left behind what has gone for nothing: the socket will not tell of it again.
    pub fn is_tired(&self) -> bool {
        self.left.get() == 0
    }
}

/// The socket of an open file, for the engine.
pub struct Sifted<'a> {
    fd: Fd,
    sifter: Option<&'a Sifter>,
    control: Option<&'a Control>,
    ring: bool,
}

impl<'a> Sifted<'a> {
    /// `ring`: whoever reads is the engine, which hides itself what the client has not asked for.
    pub fn new(fd: i32, sifter: Option<&'a Sifter>, control: Option<&'a Control>, ring: bool) -> Sifted<'a> {
        if let Some(sifter) = sifter {
            sifter.left.set(MOST_GONE);
        }
        Sifted { fd: Fd(fd), sifter, control, ring }
    }

    /// Takes away what stands in front and may not arrive, so that nobody is told of it. Moves nothing else.
    pub fn clear_front(&self) {
        let Some(sifter) = self.sifter.filter(|sifter| !sifter.has_error()) else {
            return;
        };
        let mut nothing = MsgHdr::EMPTY;
        // SAFETY: a header without any room.
        match unsafe { self.recv(&mut nothing, MSG_PEEK | MSG_DONTWAIT) } {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            // It is the client's to see.
            Err(error) => sifter.error.set(Some(error)),
        }
    }

    /// # Safety
    /// As [`Socket::recv`].
    unsafe fn sift(&self, sifter: &Sifter, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
        if let Some(error) = sifter.error.take() {
            return Err(error);
        }
        // SAFETY: the caller's duty: as many vectors as it says.
        let vectors = (0..msg.iovlen).map(|at| unsafe { msg.iov.add(at).read() });
        let total = vectors.clone().fold(0usize, |sum, vector| sum.saturating_add(vector.len));
        let peek = flags & MSG_PEEK != 0;
        if !peek {
            sifter.most.set(sifter.most.get().max(total.min(LARGEST)));
        }
        // A look without room is one at whole messages, and never at more than the client would take: see `most`.
        let len = if peek { total.max(sifter.most.get()) } else { total }.min(LARGEST);
        let mut room = sifter.room.borrow_mut();
        if room.len() < len {
            // Zeroed by the kernel, as far as it is used.
            *room = vec![0; len];
        }
        while sifter.left.get() > 0 {
            let mut control = [0u64; 32];
            let mut name = SockaddrNl::default();
            let mut vector = IoVec { base: room.as_mut_ptr(), len };
            let mut private = MsgHdr {
                name: (&raw mut name).cast(),
                namelen: size_of::<SockaddrNl>() as u32,
                iov: &raw mut vector,
                iovlen: 1,
                control: control.as_mut_ptr().cast(),
                controllen: size_of_val(&control),
                flags: 0,
            };
            // SAFETY: the header points to locals and to the room, of the stated lengths.
            let whole = match unsafe { self.fd.recv(&mut private, flags | MSG_TRUNC | MSG_DONTWAIT) } {
                Ok(whole) => whole,
                Err(error) => {
                    if error == Errno::AGAIN {
                        sifter.sieve.borrow_mut().drained();
                    }
                    return Err(error);
                }
            };
            // SAFETY: as many bytes as the words have; integers.
            let control = unsafe { std::slice::from_raw_parts(control.as_ptr().cast::<u8>(), size_of_val(&control)) };
            let control = control.get(..private.controllen).unwrap_or(control);
            let got = room.get_mut(..whole.min(len)).unwrap_or_default();
            let group = group_of(control).unwrap_or(match name.groups {
                0 => 0,
                mask => mask.trailing_zeros() + 1,
            });
            let (kept, gone) = match total == 0 && !peek {
                // It is only taken away.
                true => (got.len(), 0),
                false => sifter.sieve.borrow_mut().sift(sifter.family, (name.portid, group), got, whole > len),
            };
            if let (Some(control), false) = (self.control, peek && kept > 0) {
                control.count(&control.counters.policy_drops, gone);
            }
            if gone > 0 && kept == 0 {
                sifter.left.set(sifter.left.get() - 1);
                if peek {
                    // SAFETY: a header without any room: the message goes.
                    unsafe { self.fd.recv(&mut { MsgHdr::EMPTY }, MSG_DONTWAIT) }?;
                }
                continue;
            }
            // What was cut off is not there to be judged, and not there to be had.
            let kept_whole = kept + (whole - got.len());
            let mut rest = got.get(..kept).unwrap_or_default();
            for IoVec { base, len } in vectors {
                let (now, later) = rest.split_at(len.min(rest.len()));
                // SAFETY: the caller's duty: each vector is writable for its length.
                unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), base, now.len()) };
                rest = later;
            }
            msg.flags = private.flags & !MSG_TRUNC | if kept_whole > total { MSG_TRUNC } else { 0 };
            // SAFETY: the caller's duty.
            unsafe { self.tell(sifter, msg, &name, control) };
            return Ok(if flags & MSG_TRUNC != 0 { kept_whole } else { kept_whole.min(total) });
        }
        Err(Errno::INTR)
    }

    /// Sender and ancillary data, as the kernel would write them.
    ///
    /// # Safety
    /// As [`Socket::recv`].
    unsafe fn tell(&self, sifter: &Sifter, msg: &mut MsgHdr, name: &SockaddrNl, control: &[u8]) {
        if !msg.name.is_null() {
            let len = (msg.namelen as usize).min(size_of::<SockaddrNl>());
            // SAFETY: the caller's duty: writable for `namelen` bytes.
            unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(name).cast::<u8>(), msg.name, len) };
            msg.namelen = size_of::<SockaddrNl>() as u32;
        }
        let room = if msg.control.is_null() { 0 } else { msg.controllen };
        let mut at = 0;
        let hides = sifter.hides_groups.get() && !self.ring;
        let is_hidden = |level: i32, kind: i32| hides && (level, kind) == (SOL_NETLINK, PKTINFO);
        for (_, _, piece) in pieces(control).filter(|(level, kind, _)| !is_hidden(*level, *kind)) {
            // A piece is told whole or not at all.
            if room - at < piece.len() {
                msg.flags |= MSG_CTRUNC;
                break;
            }
            // SAFETY: the caller's duty, and the look above.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), msg.control.add(at), piece.len()) };
            at = (at + piece.len().next_multiple_of(8)).min(room);
        }
        msg.controllen = at;
    }
}

/// The control messages in ancillary data of the kernel's: level, type, and all of it.
fn pieces(mut control: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    std::iter::from_fn(move || {
        let head = control.first_chunk::<CMSG>()?;
        let word = |at: usize| head.get(at..at + 4).and_then(|word| word.try_into().ok()).map(i32::from_ne_bytes);
        let len = head.first_chunk::<8>().map(|len| usize::from_ne_bytes(*len))?;
        let piece = control.get(..len.clamp(CMSG, control.len()))?;
        control = control.get(piece.len().next_multiple_of(8)..).unwrap_or_default();
        Some((word(8)?, word(12)?, piece))
    })
}

/// The group that a message was sent to, where the socket tells (`NETLINK_PKTINFO`).
fn group_of(control: &[u8]) -> Option<u32> {
    let (_, _, piece) = pieces(control).find(|piece| (piece.0, piece.1) == (SOL_NETLINK, PKTINFO))?;
    piece.get(CMSG..CMSG + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

// SAFETY: what is received goes to the given vectors, name and control within their lengths; the rest are the socket's own calls.
unsafe impl Socket for Sifted<'_> {
    unsafe fn recv_batch(&self, msgs: &mut [MMsgHdr]) -> Result<usize> {
        let Some(sifter) = self.sifter else {
            // SAFETY: the caller's duty.
            return unsafe { self.fd.recv_batch(msgs) };
        };
        let mut done = 0;
        for msg in msgs {
            // SAFETY: the caller's duty.
            match unsafe { self.sift(sifter, &mut msg.hdr, 0) } {
                Ok(len) => msg.len = len as u32,
                Err(error) if done == 0 => return Err(error),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => {
                    // As the kernel does: told by the next call.
                    sifter.error.set(Some(error));
                    break;
                }
            }
            done += 1;
        }
        Ok(done)
    }

    unsafe fn recv(&self, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
        match self.sifter {
            // SAFETY: the caller's duty.
            Some(sifter) => unsafe { self.sift(sifter, msg, flags) },
            // SAFETY: the caller's duty.
            None => unsafe { self.fd.recv(msg, flags) },
        }
    }

    unsafe fn send_batch(&self, msgs: &mut [MMsgHdr], flags: u32) -> Result<usize> {
        // SAFETY: the caller's duty.
        unsafe { self.fd.send_batch(msgs, flags) }
    }

    unsafe fn send(&self, msg: &MsgHdr, flags: u32) -> Result<usize> {
        // SAFETY: the caller's duty.
        unsafe { self.fd.send(msg, flags) }
    }

    unsafe fn send_to(&self, buf: *mut u8, len: usize, flags: u32, name: *mut u8, namelen: u32) -> Result<usize> {
        // SAFETY: the caller's duty.
        unsafe { self.fd.send_to(buf, len, flags, name, namelen) }
    }

    unsafe fn would_send(&self, template: &MsgHdr, flags: u32) -> Result<()> {
        // SAFETY: the caller's duty.
        unsafe { self.fd.would_send(template, flags) }
    }

    fn queued(&self) -> Result<u32> {
        self.fd.queued()
    }

    fn take_error(&self) -> i32 {
        match self.sifter.map_or(0, Sifter::take_error) {
            0 => self.fd.take_error(),
            error => error,
        }
    }

    fn portid(&self) -> Result<u32> {
        self.fd.portid()
    }

    fn autobind(&self) -> Result<u32> {
        self.fd.autobind()
    }

    fn set_receive_room(&self, bytes: u32) -> Result<u32> {
        self.fd.set_receive_room(bytes)
    }

    fn make_send_room(&self, len: usize) -> Option<u32> {
        self.fd.make_send_room(len)
    }

    fn restore_send_room(&self, before: u32) {
        self.fd.restore_send_room(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (CMSG + data.len()).to_ne_bytes().to_vec();
        bytes.extend([level, kind].map(i32::to_ne_bytes).concat());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn a_group_is_found_among_ancillary_data() {
        let credentials = piece(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[1; 12]);
        let group = piece(SOL_NETLINK, PKTINFO, &40u32.to_ne_bytes());
        assert_eq!(group_of(&[credentials.clone(), group.clone()].concat()), Some(40));
        assert_eq!(group_of(&group), Some(40));
        assert_eq!(group_of(&credentials), None);
        let all = [group, credentials].concat();
        for len in 0..all.len() {
            let found = group_of(&all[..len]);
            assert!(found.is_none() || len >= 20, "{len}");
        }
        assert_eq!(pieces(&[0xff; 64]).count(), 1);
        assert_eq!(pieces(&[0; 64]).count(), 4);
    }

    #[test]
    fn without_a_sieve_calls_are_the_sockets_own() {
        let socket = Sifted::new(-1, None, None, false);
        // SAFETY: a header without any room.
        assert_eq!(unsafe { socket.recv(&mut { MsgHdr::EMPTY }, 0) }, Err(Errno::BADF));
        let sifter = Sifter::new(0);
        let socket = Sifted::new(-1, Some(&sifter), None, false);
        // SAFETY: as above.
        assert_eq!(unsafe { socket.recv(&mut { MsgHdr::EMPTY }, 0) }, Err(Errno::BADF));
        socket.clear_front();
        assert!(sifter.has_error(), "an error that a look has met is kept");
        assert_eq!((socket.take_error(), sifter.has_error()), (Errno::BADF.0, false));
    }
}
