//! What leaves a worker: messages that name a descriptor do not (`descriptors`). They are refused with `EPERM`, as a security
//! module would refuse them, whatever the worker's table holds.
//!
//! What is judged is what is sent: bytes of a ring, which the client may change at any time, are copied first.

use std::cell::RefCell;
use std::collections::HashMap;

use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::socket::Socket;
use nlmmap_ring::sys::{IoVec, MMsgHdr, MsgHdr};

use super::descriptors::{self, GENERIC, Judge};
use crate::policy::generic::GenericIds;
use crate::policy::wire::FIRST_TYPE;

/// What a socket's messages are judged by.
pub struct Screen {
    family: u32,
    /// Generic families that are known, by their numbers, which the kernel gives to no other one as long as it runs.
    generic: RefCell<HashMap<u16, Option<Judge>>>,
    room: RefCell<Vec<u8>>,
}

impl Screen {
    pub fn new(family: u32) -> Screen {
        Screen { family, generic: RefCell::default(), room: RefCell::default() }
    }

    /// Refuses a datagram, in private memory, that names a descriptor.
    pub fn judge(&self, datagram: &[u8]) -> Result<()> {
        if !descriptors::has_any(self.family) {
            return Ok(());
        }
        let mut unknown = None;
        let is_named = descriptors::are_named(self.family, datagram, |number| {
            self.generic(number).unwrap_or_else(|error| {
                unknown = Some(error);
                None
            })
        });
        match unknown {
            _ if is_named => Err(Errno::PERM),
            // Nobody can say what it names.
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The judge of a generic family. Of one that is not there there is none: the kernel will not find it either.
    fn generic(&self, number: u16) -> Result<Option<Judge>> {
        if self.family != GENERIC || number < FIRST_TYPE {
            return Ok(None);
        }
        let mut known = self.generic.borrow_mut();
        if !known.contains_key(&number) {
            // A time that is over is no receiver without room.
            let os = |error: std::io::Error| match error.raw_os_error() {
                None | Some(libc::EAGAIN) => Errno(libc::EIO),
                Some(error) => Errno(error),
            };
            for (number, name) in GenericIds::read().map_err(os)?.families() {
                known.insert(number, descriptors::judge(name));
            }
            known.insert(crate::policy::generic::CONTROLLER, None);
        }
        Ok(known.get(&number).copied().flatten())
    }

    /// Appends what the vectors of a message point to.
    ///
    /// # Safety
    /// As [`Socket::send`].
    unsafe fn copy(room: &mut Vec<u8>, msg: &MsgHdr) {
        for at in 0..msg.iovlen {
            // SAFETY: the caller's duty: as many vectors as it says.
            let IoVec { base, len } = unsafe { msg.iov.add(at).read() };
            room.reserve(len);
            // SAFETY: the caller's duty: the vector is readable for its length; there is room behind what is there, which is
            // then as long as that.
            unsafe {
                std::ptr::copy_nonoverlapping(base, room.as_mut_ptr().add(room.len()), len);
                room.set_len(room.len() + len);
            }
        }
    }
}

/// A socket whose sends are judged.
pub struct Screened<'a, S> {
    socket: S,
    screen: &'a Screen,
}

impl<'a, S: Socket> Screened<'a, S> {
    pub fn new(socket: S, screen: &'a Screen) -> Screened<'a, S> {
        Screened { socket, screen }
    }

    fn is_open(&self) -> bool {
        !descriptors::has_any(self.screen.family)
    }
}

// SAFETY: sends read what the headers point to, within the lengths beside it; everything else is the socket's own.
unsafe impl<S: Socket> Socket for Screened<'_, S> {
    unsafe fn recv_batch(&self, msgs: &mut [MMsgHdr]) -> Result<usize> {
        // SAFETY: the caller's duty.
        unsafe { self.socket.recv_batch(msgs) }
    }

    unsafe fn recv(&self, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
        // SAFETY: the caller's duty.
        unsafe { self.socket.recv(msg, flags) }
    }

    /// Up to the first that is refused.
    unsafe fn send_batch(&self, msgs: &mut [MMsgHdr], flags: u32) -> Result<usize> {
        if self.is_open() {
            // SAFETY: the caller's duty.
            return unsafe { self.socket.send_batch(msgs, flags) };
        }
        let mut room = self.screen.room.borrow_mut();
        room.clear();
        let mut parts = Vec::with_capacity(msgs.len());
        for msg in &*msgs {
            let start = room.len();
            // SAFETY: the caller's duty.
            unsafe { Screen::copy(&mut room, &msg.hdr) };
            match self.screen.judge(room.get(start..).unwrap_or_default()) {
                Ok(()) => parts.push((start, room.len() - start)),
                Err(error) if parts.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        // It does not grow any more, so addresses stay.
        let base = room.as_mut_ptr();
        let vector = |(start, len)| IoVec { base: base.wrapping_add(start), len };
        let mut vectors: Vec<IoVec> = parts.into_iter().map(vector).collect();
        let mut private: Vec<MMsgHdr> = vectors
            .iter_mut()
            .zip(&*msgs)
            .map(|(vector, msg)| MMsgHdr { hdr: MsgHdr { iov: vector, iovlen: 1, ..msg.hdr }, len: 0 })
            .collect();
        // SAFETY: the vectors point into the room, the rest is the caller's duty.
        unsafe { self.socket.send_batch(&mut private, flags) }
    }

    unsafe fn send(&self, msg: &MsgHdr, flags: u32) -> Result<usize> {
        if self.is_open() {
            // SAFETY: the caller's duty.
            return unsafe { self.socket.send(msg, flags) };
        }
        let mut room = self.screen.room.borrow_mut();
        room.clear();
        // SAFETY: the caller's duty.
        unsafe { Screen::copy(&mut room, msg) };
        self.screen.judge(&room)?;
        let mut vector = IoVec { base: room.as_mut_ptr(), len: room.len() };
        let msg = MsgHdr { iov: &raw mut vector, iovlen: 1, ..*msg };
        // SAFETY: the vector is the room's, the rest is the caller's duty.
        unsafe { self.socket.send(&msg, flags) }
    }

    #[inline]
    unsafe fn send_to(&self, buf: *mut u8, len: usize, flags: u32, name: *mut u8, namelen: u32) -> Result<usize> {
        if self.is_open() {
            // SAFETY: the caller's duty.
            return unsafe { self.socket.send_to(buf, len, flags, name, namelen) };
        }
        let mut vector = IoVec { base: buf, len };
        let mut room = self.screen.room.borrow_mut();
        room.clear();
        // SAFETY: the caller's duty.
        unsafe { Screen::copy(&mut room, &MsgHdr { iov: &raw mut vector, iovlen: 1, ..MsgHdr::EMPTY }) };
        self.screen.judge(&room)?;
        // SAFETY: the room is as long as that, the rest is the caller's duty.
        unsafe { self.socket.send_to(room.as_mut_ptr(), room.len(), flags, name, namelen) }
    }

    unsafe fn would_send(&self, template: &MsgHdr, flags: u32) -> Result<()> {
        // SAFETY: the caller's duty.
        unsafe { self.socket.would_send(template, flags) }
    }

    fn queued(&self) -> Result<u32> {
        self.socket.queued()
    }

    fn take_error(&self) -> i32 {
        self.socket.take_error()
    }

    fn portid(&self) -> Result<u32> {
        self.socket.portid()
    }

    fn autobind(&self) -> Result<u32> {
        self.socket.autobind()
    }

    fn set_receive_room(&self, bytes: u32) -> Result<u32> {
        self.socket.set_receive_room(bytes)
    }

    fn make_send_room(&self, len: usize) -> Option<u32> {
        self.socket.make_send_room(len)
    }

    fn restore_send_room(&self, before: u32) {
        self.socket.restore_send_room(before);
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::without_descriptors;
    use super::*;
    use crate::policy::wire::Builder;

    /// Where the families could not be read, a message went out unjudged.
    #[test]
    fn what_cannot_be_judged_is_not_sent() {
        // Of the controller's, which names none; and of one that is not there.
        let [ours, nobodys, control] = [16, 999, 1].map(|kind| Builder::default().message(kind, 1, &[1, 2, 0, 0]).0);
        assert!(without_descriptors(|| {
            let screen = Screen::new(GENERIC);
            [&ours, &nobodys].iter().all(|message| screen.judge(message) == Err(Errno(libc::EMFILE)))
                && screen.judge(&control) == Ok(())
                && Screen::new(0).judge(&ours) == Ok(())
        }));
        let screen = Screen::new(GENERIC);
        assert_eq!([&ours, &nobodys].map(|message| screen.judge(message)), [Ok(()), Ok(())]);
    }
}
