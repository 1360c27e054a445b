//! What a socket call needs beside the rings: destinations, senders, ancillary data, options of any kind.
//!
//! A program that was written for a netlink socket does its socket calls on an open file of the node by these
//! (`include/nlmmap.h`, from `NLMMAP_GETPEERNAME` on).

use std::sync::atomic::Ordering;

use cuse_rs::Errno;
use nlmmap_ring::abi::SOL_NETLINK;
use nlmmap_ring::control::flag;
use nlmmap_ring::sys::{self, IoVec, MSG_PEEK, MSG_TRUNC, MsgHdr, SOL_SOCKET, SockaddrNl};

use super::open::Open;
use crate::serve::abi::{self, CONTROL_ROOM, MESSAGE_ROOM, MESSAGE_STAYS, Message, Opt, Part, State};

const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_DROP_MEMBERSHIP: i32 = 2;
const NETLINK_PKTINFO: i32 = 3;
const NETLINK_NO_ENOBUFS: i32 = 5;

/// Options of `SOL_SOCKET` that concern the socket alone; the kernel asks the caller's rights for those that need some.
const SOCKET_OPTIONS: [i32; 35] = [
    libc::SO_REUSEADDR,
    libc::SO_TYPE,
    libc::SO_ERROR,
    libc::SO_DONTROUTE,
    libc::SO_BROADCAST,
    libc::SO_SNDBUF,
    libc::SO_RCVBUF,
    libc::SO_KEEPALIVE,
    libc::SO_PRIORITY,
    libc::SO_LINGER,
    libc::SO_PASSCRED,
    libc::SO_RCVLOWAT,
    libc::SO_SNDLOWAT,
    libc::SO_RCVTIMEO,
    libc::SO_SNDTIMEO,
    libc::SO_ATTACH_FILTER,
    libc::SO_DETACH_FILTER,
    libc::SO_TIMESTAMP,
    libc::SO_ACCEPTCONN,
    libc::SO_SNDBUFFORCE,
    libc::SO_RCVBUFFORCE,
    libc::SO_PASSSEC,
    libc::SO_TIMESTAMPNS,
    libc::SO_PROTOCOL,
    libc::SO_DOMAIN,
    libc::SO_RXQ_OVFL,
    libc::SO_LOCK_FILTER,
    libc::SO_MEMINFO,
    libc::SO_COOKIE,
    libc::SO_TIMESTAMPING,
    // The same with 64-bit times, which 32-bit machines have: SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING, SO_RCVTIMEO and
    // SO_SNDTIMEO.
    63,
    64,
    65,
    66,
    67,
];
/// Those of `SOL_NETLINK`: all but the rings, which have calls of their own.
const NETLINK_OPTIONS: [i32; 10] = [1, 2, 3, 4, 5, 8, 9, 10, 11, 12];

fn may_have(level: i32, name: i32) -> bool {
    match level {
        SOL_SOCKET => SOCKET_OPTIONS.contains(&name),
        SOL_NETLINK => NETLINK_OPTIONS.contains(&name),
        _ => false,
    }
}

/// The first word of an option's value.
fn word(value: &[u8]) -> Option<i32> {
    value.first_chunk().copied().map(i32::from_ne_bytes)
}

/// Ancillary data and message of a reply, behind its head.
fn reply(head: &Message, control: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = abi::bytes(head).to_vec();
    bytes.extend_from_slice(control);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(data);
    bytes
}

impl Open {
    /// `NLMMAP_STATE`
    pub fn state(&self, handle: u64) -> State {
        let bit = |ring: bool, bit: u32| if ring { bit } else { 0 };
        let rings = self.ring_state();
        State {
            kind: sys::getsockopt(self.socket().raw(), SOL_SOCKET, libc::SO_TYPE).unwrap_or(0),
            protocol: self.socket().family,
            rings: bit(rings.rx.nm_block_nr != 0, abi::STATE_RX) | bit(rings.tx.nm_block_nr != 0, abi::STATE_TX),
            pad: 0,
            handle,
            inode: self.socket().inode(),
        }
    }

    /// `NLMMAP_RECV`, `NLMMAP_PEEK`: `size` is that of the whole argument.
    pub fn receive_message(&mut self, size: usize, peek: bool) -> Result<Vec<u8>, Errno> {
        let room = size.checked_sub(size_of::<Message>() + CONTROL_ROOM).ok_or(Errno::EINVAL)?;
        let room = room.min(MESSAGE_ROOM);
        let mut data = vec![0u8; room];
        let mut control = [0u64; CONTROL_ROOM / 8];
        let mut head = Message::default();
        let mut stays = false;
        if room == MESSAGE_ROOM && !peek {
            let mut nothing = MsgHdr::EMPTY;
            // SAFETY: a header without any room.
            stays = unsafe { self.receive_into(&mut nothing, MSG_PEEK | MSG_TRUNC) }? > room;
        }
        let mut vector = IoVec { base: data.as_mut_ptr(), len: room };
        let mut message = MsgHdr {
            name: (&raw mut head.name).cast(),
            namelen: size_of::<SockaddrNl>() as u32,
            iov: &raw mut vector,
            iovlen: 1,
            control: control.as_mut_ptr().cast(),
            controllen: CONTROL_ROOM,
            flags: 0,
        };
        let peek = peek || stays;
        // SAFETY: the header points to locals of the stated lengths.
        let len = unsafe { self.receive_into(&mut message, MSG_TRUNC | if peek { MSG_PEEK } else { 0 }) }?;
        head.serial = self.received;
        if !peek {
            self.received += 1;
        }
        head.len = len as u32;
        head.data_len = len.min(room) as u32;
        head.control_len = message.controllen.min(CONTROL_ROOM) as u32;
        head.flags = message.flags & !sys::MSG_CMSG_CLOEXEC & !MESSAGE_STAYS;
        if stays {
            head.flags = head.flags & !MSG_TRUNC | MESSAGE_STAYS;
        } else if len > room {
            head.flags |= MSG_TRUNC;
        }
        // SAFETY: as many bytes as the words have; integers.
        let control = unsafe { std::slice::from_raw_parts(control.as_ptr().cast::<u8>(), head.control_len as usize) };
        Ok(reply(&head, control, data.get(..head.data_len as usize).unwrap_or(&[])))
    }

    /// `NLMMAP_PART`: `size` is that of the whole argument.
    pub fn receive_part(&mut self, part: &Part, size: usize) -> Result<Vec<u8>, Errno> {
        let room = size.saturating_sub(size_of::<Part>());
        if self.received != part.serial {
            return Err(Errno::ESTALE);
        }
        // At most what the engine takes whole.
        let mut data = vec![0u8; (part.offset as usize).min(nlmmap_ring::endpoint::LARGEST) + room];
        let mut vector = IoVec { base: data.as_mut_ptr(), len: data.len() };
        let mut message = MsgHdr { iov: &raw mut vector, iovlen: 1, ..MsgHdr::EMPTY };
        let flags = if room == 0 { 0 } else { MSG_PEEK };
        // SAFETY: the header points to the buffer.
        let got = unsafe { self.receive_into(&mut message, flags) }?;
        if room == 0 {
            self.received += 1;
        }
        let bytes = data.get(part.offset as usize..got).unwrap_or(&[]);
        let bytes = if room == 0 { &[] } else { bytes };
        let mut answer = abi::bytes(&Part { data_len: bytes.len() as u32, ..*part }).to_vec();
        answer.extend_from_slice(bytes);
        Ok(answer)
    }

    /// `NLMMAP_SETOPT`
    pub fn set_any_option(&self, head: &Opt, value: &[u8]) -> Result<(), Errno> {
        if head.len as usize != value.len() {
            return Err(Errno::EINVAL);
        }
        if !may_have(head.level, head.name) {
            return Err(Errno::new(libc::ENOPROTOOPT));
        }
        match (head.level, head.name) {
            (SOL_NETLINK, NETLINK_ADD_MEMBERSHIP | NETLINK_DROP_MEMBERSHIP) => {
                let group = word(value).ok_or(Errno::EINVAL)?;
                let add = head.name == NETLINK_ADD_MEMBERSHIP;
                self.socket().membership(add, group.cast_unsigned(), self.ring_state().rx.nm_block_nr != 0)
            }
            (SOL_SOCKET, libc::SO_ATTACH_FILTER) => self.socket().attach_filter(value),
            _ => {
                self.socket().set_bytes(head.level, head.name, value)?;
                self.after_set(head, value);
                Ok(())
            }
        }
    }

    /// What the rings need of the socket stays, whatever the client says of it.
    fn after_set(&self, head: &Opt, value: &[u8]) {
        let (Some(control), Some(word)) = (self.control(), word(value)) else {
            return;
        };
        let (socket, has_ring) = (self.socket(), self.ring_state().rx.nm_block_nr != 0);
        match (head.level, head.name) {
            (SOL_SOCKET, libc::SO_PASSCRED) => {
                control.set(flag::PASSCRED, word != 0);
                if has_ring {
                    // Never refused.
                    let _ = sys::setsockopt(socket.raw(), SOL_SOCKET, libc::SO_PASSCRED, 1);
                }
            }
            (SOL_NETLINK, NETLINK_PKTINFO) => {
                control.set(flag::PKTINFO, word != 0);
                let sifter = self.sifter.as_ref().filter(|sifter| sifter.sieve.borrow().has_far_groups());
                if let Some(sifter) = sifter {
                    sifter.hides_groups.set(word == 0);
                }
                if has_ring || sifter.is_some() {
                    // Never refused.
                    let _ = sys::setsockopt(socket.raw(), SOL_NETLINK, NETLINK_PKTINFO, 1);
                }
            }
            (SOL_NETLINK, NETLINK_NO_ENOBUFS) => control.set(flag::NO_ENOBUFS, word != 0),
            _ => {}
        }
    }

    /// What the client has asked of the socket, before the ring asks more of it.
    pub fn note_options(&self) {
        let Some(control) = self.control() else {
            return;
        };
        let on = |level, name| sys::getsockopt::<i32>(self.socket().raw(), level, name).is_ok_and(|value| value != 0);
        control.set(flag::PASSCRED, on(SOL_SOCKET, libc::SO_PASSCRED));
        let hides = self.sifter.as_ref().is_some_and(|sifter| sifter.hides_groups.get());
        control.set(flag::PKTINFO, on(SOL_NETLINK, NETLINK_PKTINFO) && !hides);
    }

    /// `NLMMAP_GETOPT`: `size` is that of the whole argument.
    pub fn any_option(&self, head: &Opt, size: usize) -> Result<Vec<u8>, Errno> {
        if head.len as usize != size.saturating_sub(size_of::<Opt>()) {
            return Err(Errno::EINVAL);
        }
        if !may_have(head.level, head.name) {
            return Err(Errno::new(libc::ENOPROTOOPT));
        }
        let mut value = vec![0u8; head.len as usize];
        let hides = self.sifter.as_ref().is_some_and(|sifter| sifter.hides_groups.get());
        let has_ring = self.ring_state().rx.nm_block_nr != 0;
        let ours = self.control().filter(|_| has_ring || hides).and_then(|control| match (head.level, head.name) {
            (SOL_SOCKET, libc::SO_PASSCRED) if has_ring => Some(i32::from(control.has(flag::PASSCRED))),
            (SOL_NETLINK, NETLINK_PKTINFO) => Some(i32::from(control.has(flag::PKTINFO))),
            (SOL_SOCKET, libc::SO_ERROR) if has_ring && control.error.load(Ordering::Relaxed) != 0 => {
                Some(control.take_error())
            }
            _ => None,
        });
        let len = match ours {
            None => self.socket().get_bytes(head.level, head.name, &mut value)?,
            Some(word) => {
                let len = value.len().min(4);
                for (to, from) in value.iter_mut().zip(word.to_ne_bytes()) {
                    *to = from;
                }
                len
            }
        };
        // The length that getsockopt gives back may be more than fits (NETLINK_LIST_MEMBERSHIPS).
        let mut answer = abi::bytes(&Opt { len: len as u32, ..*head }).to_vec();
        answer.extend_from_slice(value.get(..len.min(value.len())).unwrap_or(&[]));
        Ok(answer)
    }
}
