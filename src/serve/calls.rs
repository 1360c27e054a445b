//! What a socket call needs beside the rings: destinations, senders, ancillary data, options of any kind.
//!
//! A program that was written for a netlink socket does its socket calls on an open file of the node by these
//! (`include/nlmmap.h`, from `NLMMAP_GETPEERNAME` on).

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use cuse_rs::{Caller, Errno, NodeKind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nlmmap_ring::abi::SOL_NETLINK;
use nlmmap_ring::control::flag;
use nlmmap_ring::endpoint::Which;
use nlmmap_ring::sys::{self, IoVec, MSG_PEEK, MSG_TRUNC, MsgHdr, SOL_SOCKET, SockaddrNl};

use super::abi::{self, CONTROL_ROOM, MESSAGE_ROOM, MESSAGE_STAYS, Mapped, Message, Opt, Part, Send, State};
use super::file::{File, lock};
use super::memory;
use super::pool::Pool;
use super::rights::Rights;
use super::socket::{Credentials, Socket};

const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_DROP_MEMBERSHIP: i32 = 2;
const NETLINK_PKTINFO: i32 = 3;
const NETLINK_NO_ENOBUFS: i32 = 5;
/// Threads of one open file that may have said where their next `write` goes.
const NEXT_WRITES: usize = 64;

const CAP_SYS_ADMIN: u32 = 21;

/// Options of `SOL_SOCKET` that concern the socket alone; the kernel asks the caller's rights for those that need some.
const SOCKET_OPTIONS: [i32; 28] = [
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

/// See the module.
#[derive(Default)]
pub struct Calls {
    /// Messages received so far: the number of the one that comes next.
    received: Mutex<u64>,
    /// Where the next `write` of a thread goes.
    next: Mutex<Vec<(u32, Option<SockaddrNl>)>>,
}

impl Calls {
    /// Receives a message for good.
    pub fn take<T>(&self, receive: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let mut serial = lock(&self.received);
        let got = receive()?;
        *serial += 1;
        Ok(got)
    }
}

/// Processes that say to map an open file's rings.
#[derive(Default)]
pub struct Mappers(Vec<(u32, OwnedFd)>);

impl Mappers {
    fn note(&mut self, caller: &Caller, mapped: bool) -> Result<(), Errno> {
        let pid = memory::leader(caller.tid).map_err(memory::errno)?;
        // One that has ended is forgotten before its number is looked at.
        self.any();
        self.0.retain(|(known, _)| *known != pid);
        if mapped {
            // SAFETY: numbers only.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            let fd = nix::errno::Errno::result(fd as i32).map_err(memory::errno)?;
            // SAFETY: the kernel has just made it, and nobody else owns it.
            self.0.push((pid, unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        Ok(())
    }

    /// Whether any of them lives.
    pub fn any(&mut self) -> bool {
        self.0.retain(|(_, process)| {
            let mut entry = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            // Readable once it has ended.
            !matches!(poll(&mut entry, PollTimeout::ZERO), Ok(1))
        });
        !self.0.is_empty()
    }
}

/// Ancillary data and message of a reply, behind its head.
fn reply(head: &Message, control: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = abi::bytes(head).to_vec();
    bytes.extend_from_slice(control);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(data);
    bytes
}

impl File {
    /// What receivers shall see of the sender, where it is not what the kernel would tell. A process id may be named only by
    /// who may name any (`scm_check_creds`).
    pub(super) fn sender(&self, caller: &Caller, rights: &Rights) -> Option<Credentials> {
        let may_name = rights.caps >> CAP_SYS_ADMIN & 1 != 0 && caller.tid != 0;
        let pid =
            may_name.then(|| if caller.tid == self.client.pid { Ok(caller.tid) } else { memory::leader(caller.tid) });
        Credentials::of(rights, pid.and_then(Result::ok))
    }

    /// `NLMMAP_GETPEERNAME`
    pub fn peer(&self) -> Result<SockaddrNl, Errno> {
        self.need_socket()?.peer()
    }

    /// `NLMMAP_STATE`
    pub fn state(&self) -> Result<State, Errno> {
        let socket = self.need_socket()?;
        let rings = self.rings();
        let bit = |ring: bool, bit: u32| if ring { bit } else { 0 };
        Ok(State {
            kind: sys::getsockopt(socket.raw(), SOL_SOCKET, libc::SO_TYPE).unwrap_or(0),
            protocol: socket.family,
            rings: bit(rings.rx.is_some(), abi::STATE_RX) | bit(rings.tx.is_some(), abi::STATE_TX),
            pad: 0,
            handle: self.handle,
        })
    }

    /// `NLMMAP_MAPPED`
    pub fn note_mapped(&self, caller: &Caller, mapped: bool) -> Result<Mapped, Errno> {
        self.need_socket()?;
        let mut rings = self.rings.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (rx_len, tx_len) = (rings.len(Which::Rx) as u64, rings.len(Which::Tx) as u64);
        if mapped && rx_len + tx_len == 0 {
            return Err(Errno::EINVAL);
        }
        rings.mappers.note(caller, mapped)?;
        let how = if self.node == NodeKind::Fuse { abi::MAP_NODE } else { abi::MAP_MEMORY };
        Ok(Mapped { mapped: u32::from(mapped), how, rx_len, tx_len })
    }

    /// `write`: one message, to where this thread has said.
    pub fn write(&self, caller: &Caller, pool: &Pool, data: &[u8]) -> Result<usize, Errno> {
        let mut next = lock(&self.calls.next);
        let said = next.iter().position(|(tid, _)| *tid == caller.tid).map(|at| next.swap_remove(at).1);
        drop(next);
        self.send(caller, pool, said.flatten(), data)
    }

    /// `NLMMAP_SEND`
    pub fn send_to(&self, caller: &Caller, pool: &Pool, head: &Send, data: &[u8]) -> Result<(), Errno> {
        let dest = match head.dest_len as usize {
            0 => None,
            len if len == size_of::<SockaddrNl>() => Some(head.dest),
            _ => return Err(Errno::EINVAL),
        };
        match (head.flags, data.len()) {
            (0, _) => self.send(caller, pool, dest, data).map(drop),
            (abi::SEND_NEXT, 0) => {
                let mut next = lock(&self.calls.next);
                next.retain(|(tid, _)| *tid != caller.tid);
                if next.len() >= NEXT_WRITES {
                    // Of a thread that has ended in between, most likely.
                    next.remove(0);
                }
                next.push((caller.tid, dest));
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// `NLMMAP_RECV`, `NLMMAP_PEEK`: `size` is that of the whole argument.
    pub fn receive_message(&self, pool: &Pool, size: usize, peek: bool) -> Result<Vec<u8>, Errno> {
        let room = size.checked_sub(size_of::<Message>() + CONTROL_ROOM).ok_or(Errno::EINVAL)?;
        let room = room.min(MESSAGE_ROOM);
        let mut data = vec![0u8; room];
        let mut control = [0u64; CONTROL_ROOM / 8];
        let mut head = Message::default();
        let mut serial = lock(&self.calls.received);
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
        head.serial = *serial;
        if !peek {
            *serial += 1;
        }
        drop(serial);
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
        let answer = reply(&head, control, data.get(..head.data_len as usize).unwrap_or(&[]));
        if !peek {
            self.tell(pool);
        }
        Ok(answer)
    }

    /// `NLMMAP_PART`: `size` is that of the whole argument.
    pub fn receive_part(&self, pool: &Pool, part: &Part, size: usize) -> Result<Vec<u8>, Errno> {
        let room = size.saturating_sub(size_of::<Part>());
        let mut serial = lock(&self.calls.received);
        if *serial != part.serial {
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
            *serial += 1;
        }
        drop(serial);
        let bytes = data.get(part.offset as usize..got).unwrap_or(&[]);
        let bytes = if room == 0 { &[] } else { bytes };
        let mut answer = abi::bytes(&Part { data_len: bytes.len() as u32, ..*part }).to_vec();
        answer.extend_from_slice(bytes);
        if room == 0 {
            self.tell(pool);
        }
        Ok(answer)
    }

    /// `NLMMAP_SETOPT`
    pub fn set_any_option(&self, caller: &Caller, head: &Opt, value: &[u8]) -> Result<(), Errno> {
        self.need_socket()?;
        if head.len as usize != value.len() {
            return Err(Errno::EINVAL);
        }
        if !may_have(head.level, head.name) {
            return Err(Errno::new(libc::ENOPROTOOPT));
        }
        match (head.level, head.name) {
            (SOL_NETLINK, NETLINK_ADD_MEMBERSHIP | NETLINK_DROP_MEMBERSHIP) => {
                let group = word(value).ok_or(Errno::EINVAL)?;
                self.membership(caller, head.name == NETLINK_ADD_MEMBERSHIP, group.cast_unsigned())
            }
            (SOL_SOCKET, libc::SO_ATTACH_FILTER) => self.act(caller, |socket, _| socket.attach_filter(value)),
            _ => {
                self.act(caller, |socket, _| socket.set_bytes(head.level, head.name, value))?;
                self.after_set(head, value);
                Ok(())
            }
        }
    }

    /// What the rings need of the socket stays, whatever the client says of it.
    fn after_set(&self, head: &Opt, value: &[u8]) {
        let (Some(control), Some(socket), Some(word)) = (self.control(), self.socket(), word(value)) else {
            return;
        };
        let rings = self.rings();
        match (head.level, head.name) {
            (SOL_SOCKET, libc::SO_PASSCRED) => {
                control.set(flag::PASSCRED, word != 0);
                if rings.rx.is_some() {
                    // Never refused.
                    let _ = sys::setsockopt(socket.raw(), SOL_SOCKET, libc::SO_PASSCRED, 1);
                }
            }
            (SOL_NETLINK, NETLINK_PKTINFO) => {
                control.set(flag::PKTINFO, word != 0);
                if rings.rx.is_some() {
                    // Never refused.
                    let _ = sys::setsockopt(socket.raw(), SOL_NETLINK, NETLINK_PKTINFO, 1);
                }
            }
            (SOL_NETLINK, NETLINK_NO_ENOBUFS) => control.set(flag::NO_ENOBUFS, word != 0),
            _ => {}
        }
    }

    /// What the client has asked of the socket, before the ring asks more of it.
    pub(super) fn note_options(&self, socket: &Socket) {
        let Some(control) = self.control() else {
            return;
        };
        let on = |level, name| sys::getsockopt::<i32>(socket.raw(), level, name).is_ok_and(|value| value != 0);
        control.set(flag::PASSCRED, on(SOL_SOCKET, libc::SO_PASSCRED));
        control.set(flag::PKTINFO, on(SOL_NETLINK, NETLINK_PKTINFO));
    }

    /// `NLMMAP_GETOPT`: `size` is that of the whole argument.
    pub fn any_option(&self, head: &Opt, size: usize) -> Result<Vec<u8>, Errno> {
        let socket = self.need_socket()?;
        if head.len as usize != size.saturating_sub(size_of::<Opt>()) {
            return Err(Errno::EINVAL);
        }
        if !may_have(head.level, head.name) {
            return Err(Errno::new(libc::ENOPROTOOPT));
        }
        let mut value = vec![0u8; head.len as usize];
        let ours =
            self.control().filter(|_| self.rings().rx.is_some()).and_then(|control| match (head.level, head.name) {
                (SOL_SOCKET, libc::SO_PASSCRED) => Some(i32::from(control.has(flag::PASSCRED))),
                (SOL_NETLINK, NETLINK_PKTINFO) => Some(i32::from(control.has(flag::PKTINFO))),
                (SOL_SOCKET, libc::SO_ERROR) if control.error.load(Ordering::Relaxed) != 0 => {
                    Some(control.take_error())
                }
                _ => None,
            });
        let len = match ours {
            None => socket.get_bytes(head.level, head.name, &mut value)?,
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
