//! Messages that the front judges before the kernel does: taken from the ring for it, and errors of those that it refuses.

use cuse_rs::Errno;
use nlmmap_ring::abi::SOL_NETLINK;
use nlmmap_ring::control::flag;
use nlmmap_ring::endpoint::LARGEST;
use nlmmap_ring::sys::{self, IoVec, MSG_PEEK, MSG_TRUNC, MsgHdr, SockaddrNl};

use super::open::{Luggage, Open, os};
use super::sifted::Sifter;
use crate::policy::wire::{self, FIRST_TYPE};
use crate::serve::abi;

const NETLINK_PKTINFO: i32 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// `NLM_F_CAPPED`: of the message, only its header comes back.
const CAPPED: u16 = 0x100;
/// Errors that wait to be read; of more, the oldest are lost.
const MOST: usize = 64;

/// The kernel's answer to a message that it refuses with `EPERM` (`netlink_ack`).
fn refusal(header: &[u8; wire::HEADER], portid: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(36);
    bytes.extend(36u32.to_ne_bytes());
    bytes.extend(NLMSG_ERROR.to_ne_bytes());
    bytes.extend(CAPPED.to_ne_bytes());
    bytes.extend(header.get(8..12).unwrap_or_default());
    bytes.extend(portid.to_ne_bytes());
    bytes.extend((-libc::EPERM).to_ne_bytes());
    bytes.extend(header);
    bytes
}

/// The refusals of all requests in a datagram, as far as it can be read.
fn refusals(datagram: &[u8], portid: u32) -> Vec<Vec<u8>> {
    let (mut rest, mut found) = (datagram, Vec::new());
    while let Some(header) = rest.first_chunk::<{ wire::HEADER }>() {
        let (len, kind, flags) = (wire::u32_at(header, 0), wire::u16_at(header, 4), wire::u16_at(header, 6));
        let (Some(len), Some(kind), Some(flags)) = (len, kind, flags) else { break };
        let len = len as usize;
        if flags & NLM_F_REQUEST != 0 && kind >= FIRST_TYPE {
            found.push(refusal(header, portid));
        }
        if len < wire::HEADER || len > rest.len() || found.len() >= MOST {
            break;
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

impl Open {
    /// The next TX frame, copied to the beginning of `room`; what its predecessors brought is in the ring by then.
    pub fn take_frame(&mut self, room: &mut Vec<u8>) -> Result<Option<usize>, Errno> {
        if !self.transmits() {
            return Err(Errno::EINVAL);
        }
        self.service(nlmmap_ring::rx::Context::Send);
        room.resize(room.len().max(LARGEST), 0);
        self.endpoint.take_frame(self.pid, room).map_err(os)
    }

    /// Somebody else is about to send a message that begins so.
    pub fn note_request(&self, beginning: &[u8]) {
        if let Some(control) = self.control() {
            nlmmap_ring::tx::note_request(control, beginning);
        }
    }

    /// What policy lets through of what it is about to grant. Before that is sent or joined.
    pub fn note_grant(&mut self, notes: &[u8]) -> Result<(), Errno> {
        if notes.is_empty() {
            return Ok(());
        }
        let family = self.socket().family;
        self.sifter.get_or_insert_with(|| Box::new(Sifter::new(family))).sieve.get_mut().note(notes);
        self.tell_groups()
    }

    /// A grant has been sent.
    pub fn granted(&mut self, number: u32) {
        if let Some(sifter) = &mut self.sifter {
            sifter.sieve.get_mut().sent(number);
        }
    }

    /// What an audit has heard of since the last time.
    pub fn take_heard(&mut self) -> Vec<u8> {
        self.sifter.as_mut().map(|sifter| sifter.sieve.get_mut().take_heard()).unwrap_or_default()
    }

    /// A sieve has to know the group of a message, and only those up to 32 are in its address.
    fn tell_groups(&mut self) -> Result<(), Errno> {
        let Some(sifter) = self.sifter.as_ref().filter(|sifter| !sifter.hides_groups.get()) else {
            return Ok(());
        };
        if !sifter.sieve.borrow().has_far_groups() {
            return Ok(());
        }
        if !self.receives() {
            self.note_options();
        }
        sys::setsockopt(self.socket().raw(), SOL_NETLINK, NETLINK_PKTINFO, 1).map_err(os)?;
        sifter.hides_groups.set(!self.control().is_some_and(|control| control.has(flag::PKTINFO)));
        Ok(())
    }

    /// A datagram is not sent: each request in it is answered with an error.
    pub fn refuse(&mut self, datagram: &[u8]) {
        let portid = self.socket().name().unwrap_or_default().portid;
        for message in refusals(datagram, portid) {
            if self.receives() {
                // Without room it is lost, as an answer of the kernel's would be.
                let _ = self.endpoint.put(&self.sifted(), self.pid, &message);
            } else {
                self.keep_own(message);
            }
        }
    }

    fn keep_own(&mut self, message: Vec<u8>) {
        if self.own.len() >= MOST {
            self.own.pop_front();
        }
        self.own.push_back(message);
    }

    /// Messages of our own come before those of the socket. `None` when there is none.
    ///
    /// # Safety
    /// The header's pointers are valid for the lengths beside them.
    pub unsafe fn receive_own(&mut self, message: &mut MsgHdr, flags: u32) -> Option<Result<usize, Errno>> {
        let bytes = self.own.front().filter(|_| !self.receives())?;
        let mut rest = bytes.as_slice();
        for at in 0..message.iovlen {
            // SAFETY: the caller's duty: as many vectors as it says.
            let IoVec { base, len } = unsafe { message.iov.add(at).read() };
            let (now, later) = rest.split_at(len.min(rest.len()));
            // SAFETY: the caller's duty: each vector is writable for its length.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), base, now.len()) };
            rest = later;
        }
        if !message.name.is_null() && message.namelen as usize >= size_of::<SockaddrNl>() {
            let kernel = SockaddrNl { family: libc::AF_NETLINK as u16, ..SockaddrNl::default() };
            // SAFETY: the caller's duty: writable for `namelen` bytes.
            unsafe { message.name.cast::<SockaddrNl>().write_unaligned(kernel) };
            message.namelen = size_of::<SockaddrNl>() as u32;
        }
        message.controllen = 0;
        let (whole, copied) = (bytes.len(), bytes.len() - rest.len());
        message.flags |= if copied < whole { MSG_TRUNC } else { 0 };
        if flags & MSG_PEEK == 0 {
            self.own.pop_front();
        }
        Some(Ok(if flags & MSG_TRUNC != 0 { whole } else { copied }))
    }

    /// What an open file takes along: luggage, sieve, messages of our own.
    pub fn pack(&self) -> Vec<u8> {
        let sieve = self.sifter.as_ref().map(|sifter| sifter.sieve.borrow().pack()).unwrap_or_default();
        let luggage = Luggage { sieve: sieve.len() as u32, ..self.luggage() };
        let mut bytes = [abi::bytes(&luggage), &sieve].concat();
        for message in &self.own {
            bytes.extend((message.len() as u32).to_ne_bytes());
            bytes.extend(message);
        }
        bytes
    }

    /// The other half.
    pub fn unpack(&mut self, sieve: u32, bytes: &[u8]) -> Result<(), Errno> {
        let (notes, mut bytes) = bytes.split_at_checked(sieve as usize).ok_or(Errno::EINVAL)?;
        self.note_grant(notes)?;
        while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
            let (message, rest) = rest.split_at_checked(u32::from_ne_bytes(*len) as usize).ok_or(Errno::EINVAL)?;
            self.keep_own(message.to_vec());
            bytes = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::wire::{Builder, messages};

    #[test]
    fn each_request_has_its_refusal() {
        let datagram = Builder::default().message(16, 5, &[1; 9]).message(3, 1, &[]).message(18, 0x301, &[0; 16]).0;
        let mut numbered = datagram.clone();
        numbered[8..12].copy_from_slice(&77u32.to_ne_bytes());
        let found = refusals(&numbered, 4242);
        assert_eq!(found.len(), 2, "control messages have none");
        let first = messages(&found[0]).unwrap()[0];
        assert_eq!((first.kind, first.payload.len(), found[0].len()), (NLMSG_ERROR, 20, 36));
        assert_eq!(wire::u32_at(&found[0], 8), Some(77), "the sequence number");
        assert_eq!(wire::u32_at(&found[0], 12), Some(4242));
        assert_eq!(first.payload[..4], (-libc::EPERM).to_ne_bytes());
        assert_eq!(&first.payload[4..], &numbered[..16]);
        for len in 0..datagram.len() {
            assert!(refusals(&datagram[..len], 0).len() <= 2);
        }
        let many: Vec<u8> = (0..1000).flat_map(|_| Builder::default().message(16, 5, &[]).0).collect();
        assert_eq!(refusals(&many, 0).len(), MOST);
    }
}
