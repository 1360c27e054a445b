//! Stopped calls but for sends, receives and waits: making sockets, options, duplicates, mappings.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_long;
use nix::errno::Errno;
use nlmmap_ring::abi::{NETLINK_RX_RING, SOL_NETLINK, nl_mmap_req};
use nlmmap_ring::control::flag;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, SOL_SOCKET};

use super::client::{self, Held};
use super::engine::Supervisor;
use super::filter::SYS_EPOLL_PWAIT2;
use super::notify::{Call, Outcome};
use super::ring::{NETLINK_ADD_MEMBERSHIP, NETLINK_NO_ENOBUFS, NETLINK_PKTINFO, Ring};
use super::{filter, shown};

impl Supervisor {
    /// What a call comes to; `None` if it waits, or has been answered. Whatever cannot be served is the kernel's.
    pub(super) fn dispatch(&mut self, call: &Call) -> Option<Outcome> {
        match c_long::from(call.nr) {
            // Of a program that has no rings nothing need be read.
            libc::SYS_poll | libc::SYS_ppoll | libc::SYS_select | libc::SYS_pselect6 if self.rings.is_empty() => {
                Some(Outcome::Native)
            }
            libc::SYS_poll | libc::SYS_ppoll => self.poll(call),
            libc::SYS_select | libc::SYS_pselect6 => self.select(call),
            libc::SYS_socket => self.make_socket(call),
            libc::SYS_setsockopt => Some(self.set_option(call)),
            libc::SYS_getsockopt => Some(self.option(call)),
            libc::SYS_dup | libc::SYS_fcntl => self.duplicate(call),
            libc::SYS_dup2 | libc::SYS_dup3 => Some(self.duplicate_to(call)),
            libc::SYS_epoll_ctl => Some(self.register(call)),
            libc::SYS_epoll_create | libc::SYS_epoll_create1 => self.make_epoll(call),
            libc::SYS_epoll_wait | libc::SYS_epoll_pwait | SYS_EPOLL_PWAIT2 => {
                self.bring_in_step();
                Some(Outcome::Native)
            }
            libc::SYS_mmap => self.map(call),
            libc::SYS_read | libc::SYS_readv | libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => {
                self.receive(call)
            }
            libc::SYS_write | libc::SYS_writev | libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg => {
                self.send(call)
            }
            _ => {
                self.rights_differ |= self.changes_rights(call);
                Some(Outcome::Native)
            }
        }
    }

    /// Whether a thread, or what it makes, may have other rights after this call.
    fn changes_rights(&self, call: &Call) -> bool {
        let flags = match c_long::from(call.nr) {
            libc::SYS_unshare | libc::SYS_clone => call.args[0],
            // 0: whatever the descriptor is.
            libc::SYS_setns if call.int(1) == 0 => return true,
            libc::SYS_setns => call.args[1],
            libc::SYS_clone3 => match client::read(call.tid, call.args[0], 8) {
                Ok(bytes) => client::long(&bytes, 0),
                // The kernel may read what this process could not.
                Err(_) => return true,
            },
            nr => return filter::RIGHTS.contains(&nr),
        };
        flags & libc::CLONE_NEWUSER as u64 != 0
    }

    /// The netlink socket at a number of a caller's, and the caller's process.
    pub(super) fn socket_at(&mut self, call: &Call, number: i32) -> Option<(Held, u32)> {
        if !self.numbers.contains(&number) {
            return None;
        }
        let process = self.meet(call.tid).ok()?;
        let held = process.hold(number).ok().filter(|held| held.cookie != 0)?;
        let tgid = process.tgid;
        if let Some(ring) = self.rings.get_mut(&held.cookie) {
            ring.seen_at(tgid, number);
        }
        Some((held, tgid))
    }

    /// As [`Self::socket_at`], of a socket with rings.
    pub(super) fn ring_at(&mut self, call: &Call, number: i32) -> Option<(Held, u32)> {
        self.socket_at(call, number).filter(|(held, _)| self.rings.contains_key(&held.cookie))
    }

    /// A supervised number that is free in the caller's process.
    fn free_number(&mut self, call: &Call) -> Option<i32> {
        let mut numbers = self.numbers.clone();
        let process = self.meet(call.tid).ok()?;
        numbers.find(|number| process.file(*number).err() == Some(Errno::EBADF))
    }

    /// Puts a file at a supervised number, which is the call's outcome.
    pub(super) fn hand_out(&mut self, call: &Call, fd: BorrowedFd<'_>, cloexec: bool) -> Option<Outcome> {
        let Some(number) = self.free_number(call) else {
            self.log.warn(format_args!("{}: no number is left for another socket that could have rings", call.tid));
            return Some(Outcome::Native);
        };
        match self.listener.put_and_answer(call.id, fd, number, cloexec) {
            Ok(()) | Err(Errno::ENOENT) => None,
            Err(_) => Some(Outcome::Native),
        }
    }

    fn make_socket(&mut self, call: &Call) -> Option<Outcome> {
        if !self.rings.is_empty() {
            self.sweep();
        }
        let (kind, protocol) = (call.int(1), call.int(2));
        if let Ok(process) = self.meet(call.tid) {
            let tgid = process.tgid;
            self.makers.insert(tgid);
        }
        // SAFETY: numbers only.
        let socket = || Errno::result(unsafe { libc::socket(libc::AF_NETLINK, kind | libc::SOCK_CLOEXEC, protocol) });
        let made = if client::is_in_our_network(call.tid) {
            self.on_behalf_of(call.tid, false, |_| socket())
        } else {
            let network = self.network.try_clone();
            let network = network.map_err(|_| Errno::EMFILE);
            let made = network.and_then(|ours| {
                client::in_network_of(call.tid, &ours, || self.on_behalf_of(call.tid, false, |_| socket()))
                    .and_then(|made| made)
            });
            if let Err(error) = &made {
                self.log.warn(format_args!("{}: no rings in this network namespace: {error}", call.tid));
            }
            made
        };
        let fd = match made {
            Err(_) => return Some(Outcome::Native),
            Ok(Err(error)) => return Some(Outcome::from(error)),
            // SAFETY: the kernel has just made it.
            Ok(Ok(fd)) => unsafe { OwnedFd::from_raw_fd(fd) },
        };
        self.hand_out(call, fd.as_fd(), kind & libc::SOCK_CLOEXEC != 0)
    }

    fn duplicate(&mut self, call: &Call) -> Option<Outcome> {
        let is_dup = c_long::from(call.nr) == libc::SYS_dup;
        if !is_dup && !matches!(call.int(1), libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
            return Some(Outcome::Native);
        }
        let Some((held, _)) = self.socket_at(call, call.int(0)) else { return Some(Outcome::Native) };
        self.hand_out(call, held.fd.as_fd(), !is_dup && call.int(1) == libc::F_DUPFD_CLOEXEC)
    }

    fn duplicate_to(&mut self, call: &Call) -> Outcome {
        if self.ring_at(call, call.int(0)).is_some() && !self.numbers.contains(&call.int(1)) {
            self.log.warn(format_args!(
                "{}: dup2 of a socket with rings to {}, where it has none",
                call.tid,
                call.int(1)
            ));
        }
        Outcome::Native
    }

    fn set_option(&mut self, call: &Call) -> Outcome {
        let [_, _, _, at, len, _] = call.args;
        let (number, level, name) = (call.int(0), call.int(1), call.int(2));
        let asks_for_ring = filter::asks_for_ring(call);
        let found = if asks_for_ring { self.socket_at(call, number) } else { self.ring_at(call, number) };
        let Some((held, tgid)) = found else {
            if asks_for_ring {
                // As a kernel that has rings.
                if self.strict
                    && let Err(error) = may_set_rings(call.tid)
                {
                    return Outcome::from(error);
                }
                self.log.warn(format_args!("{}: ring on descriptor {number}, which no rings are served on", call.tid));
            }
            return Outcome::Native;
        };
        if asks_for_ring {
            return match self.set_ring(call, &held, tgid) {
                Ok(()) => Outcome::Value(0),
                Err(error) => Outcome::from(error),
            };
        }
        let ours = matches!(
            (level, name),
            (SOL_SOCKET, libc::SO_PASSCRED)
                | (SOL_NETLINK, NETLINK_PKTINFO | NETLINK_NO_ENOBUFS | NETLINK_ADD_MEMBERSHIP)
        );
        let word = if ours && len as u32 >= 4 { client::read(call.tid, at, 4).ok() } else { None };
        let Some(value) = word.map(|bytes| client::word(&bytes, 0).cast_signed()) else {
            return Outcome::Native;
        };
        let fd = held.fd.as_raw_fd();
        if let Err(error) = sys::setsockopt(fd, level, name, value) {
            return Outcome::from(error);
        }
        let Some(ring) = self.rings.get(&held.cookie) else { return Outcome::Value(0) };
        let Some(control) = ring.control() else { return Outcome::Value(0) };
        match name {
            libc::SO_PASSCRED if level == SOL_SOCKET => {
                control.set(flag::PASSCRED, value != 0);
                if ring.receives() {
                    let _ = sys::setsockopt(fd, SOL_SOCKET, libc::SO_PASSCRED, 1);
                }
            }
            NETLINK_PKTINFO => control.set(flag::PKTINFO, value != 0),
            NETLINK_NO_ENOBUFS => {
                control.set(flag::NO_ENOBUFS, value != 0);
                if value != 0 {
                    ring.endpoint.forgive(&Fd(fd), sys::getpid());
                }
            }
            // Groups above 32 are told by ancillary data only.
            _ if value > 32 => drop(sys::setsockopt(fd, SOL_NETLINK, NETLINK_PKTINFO, 1)),
            _ => {}
        }
        Outcome::Value(0)
    }

    fn set_ring(&mut self, call: &Call, held: &Held, tgid: u32) -> Result<(), nlmmap_ring::Errno> {
        use nlmmap_ring::Errno as E;
        let os = |error: Errno| E(error as i32);
        let (at, len) = (call.args[3], call.args[4] as u32);
        if self.strict {
            may_set_rings(call.tid)?;
        }
        if len < size_of::<nl_mmap_req>() as u32 {
            return Err(E::INVAL);
        }
        let bytes = client::read(call.tid, at, size_of::<nl_mmap_req>()).map_err(os)?;
        let wanted = nl_mmap_req {
            nm_block_size: client::word(&bytes, 0),
            nm_block_nr: client::word(&bytes, 1),
            nm_frame_size: client::word(&bytes, 2),
            nm_frame_nr: client::word(&bytes, 3),
        };
        let receives = call.int(2) == NETLINK_RX_RING && wanted.nm_block_nr != 0;
        let registered = if receives { self.registrations(held, tgid).map_err(os)? } else { Vec::new() };
        if !self.rings.contains_key(&held.cookie) {
            // Freeing nothing is fine, with whatever else in the request.
            if wanted.nm_block_nr == 0 {
                return if wanted.nm_frame_nr == 0 { Ok(()) } else { Err(E::INVAL) };
            }
            self.sweep();
            let mut ring = Ring::new(&held.fd, self.strict, self.shown.as_ref(), tgid)?;
            ring.set(&held.fd, call.int(2), &wanted, false)?;
            self.watch(held).map_err(os)?;
            ring.seen_at(tgid, call.int(0));
            shown::describe(&ring.endpoint, tgid, call.int(0), held.cookie);
            self.log.info(format_args!("{tgid}: rings on descriptor {}", call.int(0)));
            self.rings.insert(held.cookie, ring);
        } else {
            let mapped = self.is_mapped(held.cookie).map_err(|_| E::NOMEM)?;
            let Some(ring) = self.rings.get_mut(&held.cookie) else { return Err(E::BADF) };
            ring.set(&held.fd, call.int(2), &wanted, mapped)?;
        }
        if receives && let Err(error) = self.replace(held, tgid, &registered) {
            // Waits would be for what the socket has, which the ring takes from it.
            if let Some(ring) = self.rings.get_mut(&held.cookie) {
                ring.set(&held.fd, NETLINK_RX_RING, &nl_mmap_req::default(), false)?;
            }
            return Err(os(error));
        }
        Ok(())
    }

    /// Whether any process that has been seen has these rings mapped.
    fn is_mapped(&self, cookie: u64) -> std::io::Result<bool> {
        let inodes = self.rings.get(&cookie).map(|ring| ring.inodes()).unwrap_or_default();
        self.processes.all().try_fold(false, |mapped, process| Ok(mapped || process.maps(&inodes)?))
    }

    fn option(&mut self, call: &Call) -> Outcome {
        let [_, _, _, at, len_at, _] = call.args;
        let Some((held, _)) = self.ring_at(call, call.int(0)) else { return Outcome::Native };
        let Some(ring) = self.rings.get(&held.cookie).filter(|ring| ring.receives()) else { return Outcome::Native };
        let Some(control) = ring.control() else { return Outcome::Native };
        let Ok(room) = client::read(call.tid, len_at, 4) else { return Outcome::Native };
        let room = client::word(&room, 0).cast_signed();
        let is_error = (call.int(1), call.int(2)) == (SOL_SOCKET, libc::SO_ERROR);
        if room < 0 {
            return Outcome::Native;
        }
        let word = match (call.int(1), call.int(2)) {
            (SOL_SOCKET, libc::SO_PASSCRED) => i32::from(control.has(flag::PASSCRED)),
            (SOL_NETLINK, NETLINK_PKTINFO) if room >= 4 => i32::from(control.has(flag::PKTINFO)),
            _ if is_error => {
                // A socket has one error: the kernel's and ours are told and cleared together.
                let fd = Fd(held.fd.as_raw_fd());
                match nlmmap_ring::socket::Socket::take_error(&fd) {
                    0 => {}
                    error => ring.endpoint.pass_on(control, nlmmap_ring::Errno(error)),
                }
                control.take_error()
            }
            _ => return Outcome::Native,
        };
        let len = room.min(4);
        let written = client::write(call.tid, at, word.to_ne_bytes().get(..len as usize).unwrap_or_default())
            .and_then(|()| client::write(call.tid, len_at, &len.to_ne_bytes()));
        written.map_or_else(Outcome::from, |()| Outcome::Value(0))
    }
}

/// Whether the kernel of 4.5 would have let this thread set rings.
fn may_set_rings(tid: u32) -> Result<(), nlmmap_ring::Errno> {
    const NET_ADMIN: u64 = 1 << 12;
    let unknown = |_| nlmmap_ring::Errno::NOMEM;
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).map_err(unknown)?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let has =
        effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & NET_ADMIN != 0);
    let initial =
        std::fs::read_link(format!("/proc/{tid}/ns/user")).map_or(true, |ns| ns.as_os_str() == "user:[4026531837]");
    if has && initial { Ok(()) } else { Err(nlmmap_ring::Errno::PERM) }
}
