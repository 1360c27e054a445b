//! Receiving in this process: one `recvmmsg` straight into free frames.
//!
//! The program and the kernel role are one thread here. So there is no head that a frame held for long would block: the pump
//! fills whatever frames are free, the lowest first, so that a program that gives back as it goes stays in a few frames that
//! the cache holds; the order of messages is kept beside, by the batch.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;

use nlmmap_ring::abi::SOL_NETLINK;
use nlmmap_ring::endpoint::LARGEST;
use nlmmap_ring::sys::{IoVec, MMsgHdr, MSG_DONTWAIT, MSG_TRUNC, MSG_WAITFORONE, MsgHdr, SockaddrNl};

use super::error::{Error, Result};
use super::frames::{Frames, Place, SPILLS};
use super::message::{Credentials, Message, Meta};

/// Messages taken by one system call at most.
pub(super) const VLEN: usize = SPILLS;
/// And at first: more are asked for when that many came.
const FEWEST: usize = 4;
/// Room for `NETLINK_PKTINFO` and `SCM_CREDENTIALS`, in words of 8 bytes: two headers of 16 bytes, and 4 and 12 bytes of data.
const CONTROL: usize = 8;

/// What one message's header leads to.
#[derive(Clone, Copy, Debug)]
struct Slot {
    iov: [IoVec; 2],
    name: SockaddrNl,
    control: [u64; CONTROL],
    /// The frame and the spill area that the message was pointed at.
    place: (u32, u32),
}

/// Headers of one batch, and how far it was handed out.
#[derive(Debug)]
struct Received {
    msgs: [MMsgHdr; VLEN],
    slots: [Slot; VLEN],
    next: usize,
    end: usize,
    window: usize,
}

// SAFETY: the pointers lead into this very value and into the frames of the same socket, and are written anew before each use.
unsafe impl Send for Received {}

/// The receiving side of a socket.
#[derive(Debug)]
pub(super) struct Receiver {
    batch: RefCell<Box<Received>>,
    /// Whether ancillary data may come: the kernel spends time on room for it.
    ancillary: Cell<bool>,
}

impl Receiver {
    pub(super) fn new(ancillary: bool) -> Receiver {
        let nothing = IoVec { base: std::ptr::null_mut(), len: 0 };
        let slot = Slot { iov: [nothing; 2], name: SockaddrNl::default(), control: [0; CONTROL], place: (0, 0) };
        let batch = Received {
            msgs: [MMsgHdr { hdr: MsgHdr::EMPTY, len: 0 }; VLEN],
            slots: [slot; VLEN],
            next: 0,
            end: 0,
            window: FEWEST,
        };
        Receiver { batch: RefCell::new(Box::new(batch)), ancillary: Cell::new(ancillary) }
    }

    /// From now on ancillary data may come.
    pub(super) fn expect_ancillary(&self) {
        self.ancillary.set(true);
    }

    /// Messages that were received and not yet handed out.
    pub(super) fn pending(&self) -> usize {
        let batch = self.batch.borrow();
        batch.end - batch.next
    }

    /// The next message that was received, without a system call.
    #[inline]
    pub(super) fn next<'a>(&self, frames: &'a Frames) -> Option<Result<Message<'a>>> {
        let mut batch = self.batch.borrow_mut();
        if batch.next == batch.end {
            return None;
        }
        let i = batch.next;
        batch.next += 1;
        batch.message(i, frames)
    }

    /// Receives what there is into free places, once everything was handed out: how many messages. With `wait` it sleeps for
    /// the first one, unless the descriptor is non-blocking.
    pub(super) fn fill(&self, fd: RawFd, frames: &Frames, wait: bool) -> Result<usize> {
        let batch = &mut **self.batch.borrow_mut();
        debug_assert_eq!(batch.next, batch.end);
        let armed = batch.arm(frames, self.ancillary.get())?;
        let flags = MSG_TRUNC | if wait { MSG_WAITFORONE } else { MSG_DONTWAIT };
        let msgs = batch.msgs.as_mut_ptr().cast();
        // SAFETY: the first `armed` headers lead to free places (F4), names and control data, all live, with their lengths.
        let result = unsafe { libc::recvmmsg(fd, msgs, armed as libc::c_uint, flags as _, std::ptr::null_mut()) };
        let received = match usize::try_from(result) {
            Ok(received) => received.min(armed),
            Err(_) => match std::io::Error::last_os_error() {
                error if error.kind() == std::io::ErrorKind::WouldBlock => 0,
                error if error.raw_os_error() == Some(libc::ENOBUFS) => return Err(Error::Overrun),
                source => return Err(Error::System { what: "recvmmsg", source }),
            },
        };
        (batch.next, batch.end) = (0, received);
        batch.window = if received == armed { (armed * 2).min(VLEN) } else { received.clamp(FEWEST, VLEN) };
        Ok(received)
    }
}

impl Received {
    /// Points as many messages as make sense at free places: how many.
    fn arm(&mut self, frames: &Frames, ancillary: bool) -> Result<usize> {
        let room = frames.room();
        let mut spills = frames.free_spills();
        let (mut armed, mut from) = (0, 0);
        for (msg, slot) in self.msgs.iter_mut().zip(&mut self.slots).take(self.window) {
            if spills == 0 {
                break;
            }
            let Some(pos) = frames.free_frame(from) else { break };
            let spill = spills.trailing_zeros();
            spills &= spills - 1;
            from = pos + 1;
            // Behind the room that it takes to bring a spilled message together.
            let front = room.min(LARGEST);
            slot.place = (pos, spill);
            slot.iov = [
                IoVec { base: frames.ring().payload(pos), len: room },
                IoVec { base: frames.spill(spill).wrapping_add(front), len: LARGEST - front },
            ];
            msg.hdr = MsgHdr {
                name: (&raw mut slot.name).cast(),
                namelen: size_of::<SockaddrNl>() as u32,
                iov: slot.iov.as_mut_ptr(),
                iovlen: 2,
                control: if ancillary { slot.control.as_mut_ptr().cast() } else { std::ptr::null_mut() },
                controllen: if ancillary { CONTROL * 8 } else { 0 },
                flags: 0,
            };
            armed += 1;
        }
        if armed == 0 {
            return Err(Error::AllHeld { large: spills == 0 });
        }
        Ok(armed)
    }

    /// Hands out message `i`.
    fn message<'a>(&self, i: usize, frames: &'a Frames) -> Option<Result<Message<'a>>> {
        let (msg, slot) = (self.msgs.get(i)?, self.slots.get(i)?);
        let (pos, spill) = slot.place;
        let (room, len) = (frames.room(), msg.len as usize);
        if len > frames.largest() {
            return Some(Err(Error::Truncated { len, room: frames.largest() }));
        }
        let place = if len <= room {
            Place::Frame(pos)
        } else {
            // SAFETY: the spill area is free and has LARGEST bytes, more than a frame's payload; the frame is free.
            unsafe { frames.ring().read_payload(pos, frames.spill(spill), room) };
            Place::Spill(spill)
        };
        let name = &slot.name;
        let mut meta = Meta {
            portid: Some(name.portid),
            group: if name.groups == 0 { 0 } else { name.groups.trailing_zeros() + 1 },
            credentials: (name.portid == 0).then(Credentials::default),
        };
        let words = msg.hdr.controllen.div_ceil(8);
        read_control(slot.control.get(..words).unwrap_or_default(), &mut meta);
        // SAFETY: the place was free when it was armed and has not been lent since: each message is handed out once, and the
        // batch is armed anew only when all are. The kernel has written `len` bytes there.
        Some(Ok(Message::new(unsafe { frames.lend(place, len) }, meta)))
    }
}

/// Reads `struct cmsghdr` after `struct cmsghdr` (bytes in the first word, level and type in the second, then data).
fn read_control(control: &[u64], meta: &mut Meta) {
    const NETLINK_PKTINFO: i32 = 3;
    let halves = |word: u64| {
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
    };
    let mut rest = control;
    while let [len, kind, data @ ..] = rest {
        let [level, kind] = halves(*kind).map(u32::cast_signed);
        match (level, kind, data) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS, [ids, gid, ..]) => {
                let [pid, uid] = halves(*ids);
                let [gid, _] = halves(*gid);
                meta.credentials = Some(Credentials { pid, uid, gid });
            }
            (SOL_NETLINK, NETLINK_PKTINFO, [group, ..]) => [meta.group, _] = halves(*group),
            _ => {}
        }
        let words = usize::try_from(*len).map_or(usize::MAX, |len| len.div_ceil(8)).max(2);
        rest = rest.get(words..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(low: u32, high: u32) -> u64 {
        let [a, b, c, d] = low.to_ne_bytes();
        let [e, f, g, h] = high.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    #[test]
    fn ancillary_data() {
        let read = |control: &[u64]| {
            let mut meta = Meta { portid: Some(5), group: 0, credentials: None };
            read_control(control, &mut meta);
            (meta.group, meta.credentials)
        };
        let all = [20, word(270, 3), word(40, 0), 28, word(1, 2), word(7, 1000), word(1001, 0)];
        let credentials = Credentials { pid: 7, uid: 1000, gid: 1001 };
        assert_eq!(read(&all), (40, Some(credentials)));
        assert_eq!(read(&all[3..]), (0, Some(credentials)));
        assert_eq!(read(&all[..6]), (40, None));
        assert_eq!(read(&[u64::MAX, word(9, 9), 0]), (0, None));
        assert_eq!(read(&[0, 0, 0]), (0, None));
        assert_eq!(read(&[]), (0, None));
    }
}
