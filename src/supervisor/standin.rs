//! What a client's `epoll` instance holds in place of a socket with a receive ring: an eventfd that is readable as long as the ring
//! is, and new with each arrival. The wait itself is the kernel's.
//!
//! The kernel tells registrations by file and number. Each number that a socket is registered by has an eventfd of its own, which is
//! registered by the supervisor's number: so `ADD`, `MOD` and `DEL` find what they mean, and `EEXIST` and `ENOENT` are the kernel's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nlmmap_ring::control::Control;
use nlmmap_ring::endpoint::Endpoint;
use nlmmap_ring::readiness;

use super::client::{self, Held, Process};
use super::engine::Supervisor;
use super::notify::{Call, Outcome};

/// The stand-ins of one socket.
#[derive(Default)]
pub struct StandIns {
    by_number: Vec<(i32, EventFd)>,
    /// They are readable.
    pub shown: bool,
    /// Arrivals and errors that they have told of.
    told: (u32, u32),
}

impl StandIns {
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    fn at(&mut self, number: i32) -> Result<i32, Errno> {
        if let Some((_, eventfd)) = self.by_number.iter().find(|(of, _)| *of == number) {
            return Ok(eventfd.as_raw_fd());
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = EventFd::from_value_and_flags(u32::from(self.shown), flags)?;
        let raw = eventfd.as_raw_fd();
        self.by_number.push((number, eventfd));
        Ok(raw)
    }

    /// Brings them in step with the ring.
    pub fn show(&mut self, endpoint: &Endpoint, control: &Control) {
        if self.by_number.is_empty() {
            return;
        }
        let so_far = (control.rx_published.load(Ordering::Relaxed), control.told.load(Ordering::Relaxed));
        let readable = readiness::mask(endpoint, control) & (readiness::IN | readiness::ERR) != 0;
        if readable && (!self.shown || self.told != so_far) {
            for (_, eventfd) in &self.by_number {
                // Full after 2^64 arrivals.
                let _ = eventfd.write(1);
            }
        } else if !readable && self.shown {
            for (_, eventfd) in &self.by_number {
                let _ = eventfd.read();
            }
        }
        self.told = so_far;
        self.shown = readable;
    }
}

fn epoll_ctl(epoll: &OwnedFd, op: i32, fd: i32, mut event: libc::epoll_event) -> Result<(), Errno> {
    // SAFETY: the event is a local.
    Errno::result(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), op, fd, &raw mut event) }).map(drop)
}

impl Supervisor {
    /// `epoll_ctl` on a supervised number.
    pub(super) fn register(&mut self, call: &Call) -> Outcome {
        let (op, number) = (call.int(1), call.int(2));
        let Some((held, tgid)) = self.ring_at(call, number) else { return Outcome::Native };
        let Some(epoll) = self.processes.get(tgid).and_then(|process| process.file(call.int(0)).ok()) else {
            return Outcome::Native;
        };
        let Some(ring) = self.rings.get_mut(&held.cookie).filter(|ring| ring.receives()) else {
            return Outcome::Native;
        };
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        if op != libc::EPOLL_CTL_DEL {
            // Packed, of 12 bytes.
            let Ok(bytes) = client::read(call.tid, call.args[3], 12) else { return Outcome::Native };
            let data = u64::from(client::word(&bytes, 1)) | u64::from(client::word(&bytes, 2)) << 32;
            event = libc::epoll_event { events: client::word(&bytes, 0), u64: data };
        }
        if op != libc::EPOLL_CTL_DEL {
            // A wait, to a dump that goes on by waits.
            ring.service(&held.fd, nlmmap_ring::rx::Context::Wait);
        }
        let fd = ring.stand_ins.at(number);
        ring.show();
        let done = fd.and_then(|fd| epoll_ctl(&epoll, op, fd, event));
        done.map_or_else(Outcome::from, |()| Outcome::Value(0))
    }

    /// `epoll_create`. In a program that has to do with netlink, an instance gets a supervised number, so that waits for it stop.
    pub(super) fn make_epoll(&mut self, call: &Call) -> Option<Outcome> {
        let tgid = self.meet(call.tid).map_or(0, |process| process.tgid);
        let flags =
            if i64::from(call.nr) == libc::SYS_epoll_create1 { call.int(0) } else { i32::from(call.int(0) <= 0) };
        let known = self.makers.contains(&tgid) || !self.rings.is_empty();
        let flags = EpollCreateFlags::from_bits(flags).filter(|_| known);
        let Some(Ok(epoll)) = flags.map(|flags| Epoll::new(flags | EpollCreateFlags::EPOLL_CLOEXEC)) else {
            return Some(Outcome::Native);
        };
        self.hand_out(call, epoll.0.as_fd(), flags.is_some_and(|flags| !flags.is_empty()))
    }

    /// `epoll_wait` and its relatives, on a supervised number: the kernel waits, but for nothing that is over.
    pub(super) fn bring_in_step(&mut self) {
        let registered = self.rings.iter().filter(|(_, ring)| !ring.stand_ins.is_empty());
        for cookie in registered.map(|(cookie, _)| *cookie).collect::<Vec<_>>() {
            self.pump(cookie, nlmmap_ring::rx::Context::Wait);
        }
    }

    /// Where a process has registered a socket itself.
    pub(super) fn registrations(&self, held: &Held, tgid: u32) -> Result<Vec<Registration>, Errno> {
        let inode = nix::sys::stat::fstat(&held.fd)?.st_ino;
        let process = self.processes.get(tgid).ok_or(Errno::ESRCH)?;
        registrations(process, inode).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// A socket has got a receive ring: where it is registered itself, a stand-in is from now on. On an error nothing has changed.
    pub(super) fn replace(&mut self, held: &Held, tgid: u32, registered: &[Registration]) -> Result<(), Errno> {
        let Some(ring) = self.rings.get_mut(&held.cookie) else { return Ok(()) };
        for (nth, (epoll, number, event)) in registered.iter().enumerate() {
            let added = ring.stand_ins.at(*number).and_then(|fd| epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, *event));
            if let Err(error) = added
                && error != Errno::EEXIST
            {
                for (epoll, number, event) in registered.iter().take(nth) {
                    let fd = ring.stand_ins.at(*number);
                    let _ = fd.and_then(|fd| epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, *event));
                }
                return Err(error);
            }
        }
        ring.show();
        for (epoll, number, _) in registered {
            if let Err(error) = forget(epoll, held, *number) {
                self.log.warn(format_args!("{tgid}: descriptor {number} is in an epoll set twice: {error}"));
            }
        }
        Ok(())
    }
}

/// An epoll instance, the number by which a file is registered there, and for what.
pub type Registration = (OwnedFd, i32, libc::epoll_event);

/// Where a process has registered the file of this inode.
fn registrations(process: &Process, inode: u64) -> io::Result<Vec<Registration>> {
    // What is closed meanwhile is registered no longer.
    let there = |error: &io::Error| !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EBADF));
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", process.tgid))? {
        let entry = entry?;
        let is_epoll = match fs::read_link(entry.path()) {
            Err(error) if there(&error) => return Err(error),
            link => link.is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]"),
        };
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if !is_epoll {
            continue;
        }
        let info = match fs::read_to_string(format!("/proc/{}/fdinfo/{number}", process.tgid)) {
            Err(error) if there(&error) => return Err(error),
            info => info.unwrap_or_default(),
        };
        for line in info.lines().filter(|line| line.starts_with("tfd:")) {
            let Some((registered, event)) = registration(line, inode) else { continue };
            match process.file(number).map_err(io::Error::from) {
                Err(error) if there(&error) => return Err(error),
                Ok(epoll) => found.push((epoll, registered, event)),
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// A line of an epoll instance's fdinfo, if it is about this file.
fn registration(line: &str, inode: u64) -> Option<(i32, libc::epoll_event)> {
    let spaced = line.replace(':', " ");
    let words: Vec<&str> = spaced.split_ascii_whitespace().collect();
    let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
    if u64::from_str_radix(after("ino")?, 16) != Ok(inode) {
        return None;
    }
    let events = u32::from_str_radix(after("events")?, 16).ok()?;
    let data = u64::from_str_radix(after("data")?, 16).ok()?;
    Some((after("tfd")?.parse().ok()?, libc::epoll_event { events, u64: data }))
}

/// Takes a registration of the file itself away. The kernel knows it by the client's number.
fn forget(epoll: &OwnedFd, held: &Held, number: i32) -> Result<(), Errno> {
    // SAFETY: numbers only.
    let taken = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    if taken {
        return Err(Errno::EBUSY);
    }
    // SAFETY: nothing is at that number.
    let same = Errno::result(unsafe { libc::dup3(held.fd.as_raw_fd(), number, libc::O_CLOEXEC) })?;
    // SAFETY: the kernel has just made it.
    let same = unsafe { OwnedFd::from_raw_fd(same) };
    epoll_ctl(epoll, libc::EPOLL_CTL_DEL, same.as_raw_fd(), libc::epoll_event { events: 0, u64: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_read_as_the_kernel_tells_it() {
        let line = "tfd:      800 events: 80000019 data: 1122334455667788  pos:0 ino:2f10 sdev:9";
        let (number, event) = registration(line, 0x2f10).unwrap();
        assert_eq!((number, { event.events }, { event.u64 }), (800, 0x8000_0019, 0x1122_3344_5566_7788));
        assert!(registration(line, 0x2f11).is_none() && registration("tfd: x", 1).is_none());
    }
}
