//! The table beside a model: any sequence of calls by which numbers come, go and change hands, on real sockets.
//!
//! Calls of the client's go through the routes, as its hooks would; calls behind the library's back go to the kernel. The hooks
//! themselves are not exported here, so nothing else in this process passes through them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::{MOST, all, enter, is_adopted, is_private, live};
use crate::route;
use nlmmap_ring::abi::{NETLINK_RX_RING, NETLINK_TX_RING, SOL_NETLINK, nl_mmap_req};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use syscalls::Sysno;

/// Numbers that nothing else in this process has.
const FIRST: i32 = 600;
const LAST: i32 = 615;

#[derive(Clone, Debug)]
enum Op {
    /// A netlink socket at a free number.
    Socket(i32),
    /// Something else at a free number.
    Plain(i32),
    /// Sets a ring: whether the transmit one.
    Adopt(i32, bool),
    Dup(i32),
    /// `F_DUPFD` from this number on; close-on-exec or not.
    DupFrom(i32, i32, bool),
    Dup2(i32, i32),
    Dup3(i32, i32),
    /// Sent through a socket of another family, and received under a number of its own; looked at before that, or not.
    Pass(i32, bool),
    Close(i32),
    /// With flags.
    CloseRange(i32, i32, i32),
    /// Closed where the library does not see it.
    CloseBehind(i32),
    /// Replaced where the library does not see it.
    ReplaceBehind(i32, i32),
    /// A child, whose numbers are changed before its first call: as if other threads of its parent had opened and closed them
    /// between the copies of descriptors and of memory.
    Fork(Vec<Skew>),
}

/// What happens to a number between the two copies.
#[derive(Clone, Copy, Debug)]
enum Skew {
    Closed(i32),
    Socket(i32),
    Plain(i32),
    /// The second becomes the first.
    Same(i32, i32),
}

fn skew() -> impl Strategy<Value = Skew> {
    let fd = || FIRST..=LAST;
    prop_oneof![
        3 => fd().prop_map(Skew::Closed),
        3 => fd().prop_map(Skew::Socket),
        1 => fd().prop_map(Skew::Plain),
        1 => (fd(), fd()).prop_map(|(f, to)| Skew::Same(f, to)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let fd = || FIRST..=LAST;
    prop_oneof![
        4 => fd().prop_map(Op::Socket),
        1 => fd().prop_map(Op::Plain),
        5 => (fd(), any::<bool>()).prop_map(|(f, tx)| Op::Adopt(f, tx)),
        1 => fd().prop_map(Op::Dup),
        2 => (fd(), fd(), any::<bool>()).prop_map(|(f, from, c)| Op::DupFrom(f, from, c)),
        3 => (fd(), fd()).prop_map(|(f, to)| Op::Dup2(f, to)),
        1 => (fd(), fd()).prop_map(|(f, to)| Op::Dup3(f, to)),
        2 => (fd(), any::<bool>()).prop_map(|(f, peek)| Op::Pass(f, peek)),
        3 => fd().prop_map(Op::Close),
        1 => (fd(), fd(), prop_oneof![3 => Just(0), 1 => Just(4), 1 => Just(8)]).prop_map(|(a, b, f)| Op::CloseRange(a, b, f)),
        1 => fd().prop_map(Op::CloseBehind),
        1 => (fd(), fd()).prop_map(|(f, to)| Op::ReplaceBehind(f, to)),
        1 => prop::collection::vec(skew(), 0..8).prop_map(Op::Fork),
    ]
}

fn call(nr: Sysno, args: [i32; 3]) -> Result<i32> {
    let [a, b, c] = args.map(|n| n as usize);
    // SAFETY: numbers only.
    unsafe { sys::call(nr, [a, b, c, 0, 0, 0]) }.map(|n| n as i32)
}

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// By its cookie.
    Netlink(u64),
}

#[derive(Default)]
struct Model {
    open: BTreeMap<i32, Kind>,
    /// Cookies of sockets with rings: receive, transmit.
    rings: BTreeMap<u64, [bool; 2]>,
}

impl Model {
    fn adopted(&self, fd: i32) -> Option<u64> {
        match self.open.get(&fd) {
            Some(Kind::Netlink(cookie)) if self.rings.contains_key(cookie) => Some(*cookie),
            _ => None,
        }
    }

    /// Rings end with the last number of their socket.
    fn forget_closed(&mut self) {
        let open: BTreeSet<u64> =
            self.open.values().filter_map(|k| if let Kind::Netlink(c) = k { Some(*c) } else { None }).collect();
        self.rings.retain(|cookie, _| open.contains(cookie));
    }

    /// Puts a descriptor made here at a free number, by the kernel alone.
    fn put(&mut self, fd: i32, made: i32, kind: Kind) {
        assert_eq!(call(Sysno::dup3, [made, fd, 0]), Ok(fd));
        sys::close(made);
        self.open.insert(fd, kind);
    }

    fn duplicate(&mut self, fd: i32, new: i32) {
        match self.open.get(&fd).copied() {
            Some(kind) => {
                assert!(new >= 0);
                self.open.insert(new, kind);
            }
            None => assert_eq!(new, -1),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Socket(fd) if !self.open.contains_key(&fd) => {
                // AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK
                let made = call(Sysno::socket, [16, 3, 2]).unwrap();
                self.put(fd, made, Kind::Netlink(sys::cookie(made).unwrap()));
            }
            Op::Plain(fd) if !self.open.contains_key(&fd) => {
                let made = call(Sysno::epoll_create1, [0, 0, 0]).unwrap();
                self.put(fd, made, Kind::Plain);
            }
            Op::Socket(_) | Op::Plain(_) => {}
            Op::Fork(ref skews) => self.fork(skews),
            Op::Adopt(fd, tx) => self.adopt(fd, tx),
            Op::Dup(fd) => {
                // SAFETY: takes a number.
                let new = unsafe { route::dup(fd) };
                self.duplicate(fd, new);
            }
            Op::DupFrom(fd, from, cloexec) => {
                let cmd = if cloexec { 1030 } else { 0 };
                // SAFETY: takes numbers.
                let new = unsafe { route::fcntl(fd, cmd, from as u64) };
                assert!(new == -1 || new >= from);
                self.duplicate(fd, new);
            }
            Op::Dup2(fd, to) => {
                // SAFETY: takes numbers.
                let new = unsafe { route::dup2(fd, to) };
                assert!(new == to || new == -1);
                self.duplicate(fd, new);
            }
            Op::Dup3(fd, to) => {
                // SAFETY: takes numbers.
                let new = unsafe { route::dup3(fd, to, 0o2_000_000) };
                if fd != to {
                    self.duplicate(fd, new);
                } else {
                    assert_eq!(new, -1);
                }
            }
            Op::Pass(fd, peek) => self.pass(fd, peek),
            Op::Close(fd) => {
                // SAFETY: takes a number.
                let result = unsafe { route::close(fd) };
                assert_eq!(result == 0, self.open.remove(&fd).is_some());
            }
            Op::CloseRange(first, last, flags) => {
                // SAFETY: takes numbers.
                let result = unsafe { route::close_range(first as u32, last as u32, flags) };
                // CLOSE_RANGE_CLOEXEC (4) closes nothing now, 8 is no flag.
                assert_eq!(result == 0, first <= last && flags != 8, "{first}..={last}");
                if flags == 0 {
                    self.open.retain(|fd, _| !(first..=last).contains(fd));
                }
            }
            Op::CloseBehind(fd) => {
                if self.open.remove(&fd).is_some() {
                    sys::close(fd);
                }
            }
            Op::ReplaceBehind(fd, to) => {
                if fd != to && self.open.contains_key(&fd) {
                    assert_eq!(call(Sysno::dup3, [fd, to, 0]), Ok(to));
                    let kind = self.open[&fd];
                    // A duplicate that the library did not see made is not ours until its socket is asked for a ring.
                    self.open.insert(to, kind);
                    if self.adopted(to).is_some() {
                        self.show(to);
                    }
                }
            }
        }
        self.forget_closed();
    }

    /// `SCM_RIGHTS`: whoever looks first (`MSG_PEEK`) gets a number of its own, too.
    fn pass(&mut self, fd: i32, peek: bool) {
        /// `struct cmsghdr` with one descriptor.
        #[repr(C, align(8))]
        struct Control {
            len: usize,
            level: i32,
            kind: i32,
            fd: i32,
        }
        const ROOM: usize = size_of::<Control>();
        let mut pair = [0i32; 2];
        // SAFETY: two numbers, a local. AF_UNIX, SOCK_SEQPACKET.
        unsafe { sys::call(Sysno::socketpair, [1, 5, 0, pair.as_mut_ptr() as usize, 0, 0]) }.unwrap();
        let [from, to] = pair;
        let mut byte = 1u8;
        let mut control = Control { len: 20, level: 1, kind: 1, fd };
        let mut vector = sys::IoVec { base: &raw mut byte, len: 1 };
        let mut header = sys::MsgHdr {
            iov: &raw mut vector,
            iovlen: 1,
            control: (&raw mut control).cast(),
            controllen: ROOM,
            ..sys::MsgHdr::EMPTY
        };
        // SAFETY: everything the header points to is a local.
        let sent = unsafe { sys::call(Sysno::sendmsg, [from as usize, &raw const header as usize, 0, 0, 0, 0]) };
        assert_eq!(sent, if self.open.contains_key(&fd) { Ok(1) } else { Err(Errno::BADF) });
        let flags = if peek { vec![sys::MSG_PEEK, 0] } else { vec![0] };
        for flags in flags.into_iter().filter(|_| sent.is_ok()) {
            control.fd = -1;
            (header.control, header.controllen) = ((&raw mut control).cast(), ROOM);
            // SAFETY: as above.
            assert_eq!(unsafe { route::recvmsg(to, &raw mut header, flags as i32) }, 1);
            self.duplicate(fd, control.fd);
        }
        sys::close(from);
        sys::close(to);
    }

    /// In the child each number leads to an endpoint if it did in the parent and is still the same socket, and new rings work.
    fn fork(&self, skews: &[Skew]) {
        // SAFETY: fork without the C library's handlers; the child makes few calls and ends.
        let pid = unsafe { sys::call(Sysno::fork, [0; 6]) }.unwrap();
        if pid == 0 {
            let held = std::panic::catch_unwind(|| self.child(skews)).is_ok();
            // SAFETY: numbers only.
            let _ = unsafe { sys::call(Sysno::exit_group, [usize::from(!held), 0, 0, 0, 0, 0]) };
        }
        let mut status = 0i32;
        let waited = loop {
            // SAFETY: one word, a local.
            match unsafe { sys::call(Sysno::wait4, [pid, &raw mut status as usize, 0, 0, 0, 0]) } {
                // A fuzzer has an alarm.
                Err(Errno::INTR) => {}
                waited => break waited,
            }
        };
        assert_eq!((waited, status), (Ok(pid), 0), "the child, after {skews:?}");
    }

    fn child(&self, skews: &[Skew]) {
        let mut here = Model { open: self.open.clone(), rings: self.rings.clone() };
        let led = |fd: i32| self.adopted(fd);
        for skew in skews {
            match *skew {
                Skew::Closed(fd) => {
                    here.open.remove(&fd);
                    sys::close(fd);
                }
                Skew::Socket(fd) => {
                    let made = call(Sysno::socket, [16, 3, 2]).unwrap();
                    here.put(fd, made, Kind::Netlink(sys::cookie(made).unwrap()));
                }
                Skew::Plain(fd) => {
                    let made = call(Sysno::epoll_create1, [0, 0, 0]).unwrap();
                    here.put(fd, made, Kind::Plain);
                }
                Skew::Same(fd, to) if fd != to && here.open.contains_key(&fd) => {
                    assert_eq!(call(Sysno::dup3, [fd, to, 0]), Ok(to));
                    here.open.insert(to, here.open[&fd]);
                }
                Skew::Same(..) => {}
            }
        }
        for fd in FIRST..=LAST {
            let found = enter(fd).map(|local| {
                let cookie = local.cookie.load(Relaxed);
                local.leave();
                cookie
            });
            let want = here.adopted(fd).filter(|cookie| led(fd) == Some(*cookie));
            assert_eq!(found, want, "the endpoint of {fd} in a child");
        }
        for local in all() {
            let led_here = (FIRST..=LAST).filter(|fd| super::leads_to(*fd, local)).count();
            assert!(local.users.count() == 0, "nobody is at work in a child");
            assert!(local.fds.load(Relaxed) as usize >= led_here, "descriptors of an endpoint in a child");
        }
        // As a program would go on.
        for fd in FIRST..=LAST {
            if let Some(Kind::Netlink(cookie)) = here.open.get(&fd).copied()
                && !here.rings.contains_key(&cookie)
            {
                assert_eq!(set_ring(fd, false, 1, 8), Ok(()), "a ring of {fd} in a child");
                assert_eq!(set_ring(fd, false, 1, 8), Err(Errno::BUSY));
                here.rings.insert(cookie, [true, false]);
            }
            // SAFETY: takes a number.
            let result = unsafe { route::close(fd) };
            assert_eq!(result == 0, here.open.contains_key(&fd), "close of {fd} in a child");
        }
    }

    /// Asks for a ring by a number that the library may not know: it joins the endpoint of its socket.
    fn show(&mut self, fd: i32) {
        assert_eq!(set_ring(fd, false, 0, 1), Err(Errno::INVAL));
    }

    fn adopt(&mut self, fd: i32, tx: bool) {
        let answer = set_ring(fd, tx, 1, 8);
        let want = match self.open.get(&fd) {
            None => Err(Errno::BADF),
            // The kernel's own answers for what is no netlink socket.
            Some(Kind::Plain) => Err(Errno::NOTSOCK),
            Some(Kind::Netlink(cookie)) => {
                let rings = self.rings.entry(*cookie).or_default();
                if std::mem::replace(&mut rings[usize::from(tx)], true) { Err(Errno::BUSY) } else { Ok(()) }
            }
        };
        assert_eq!(answer, want, "ring of {fd}");
    }

    fn compare(&self) {
        let numbers: BTreeSet<i32> = (FIRST..=LAST).chain(self.open.keys().copied()).collect();
        for fd in numbers {
            let found = enter(fd).map(|local| {
                let cookie = local.cookie.load(Relaxed);
                local.leave();
                cookie
            });
            assert_eq!(found, self.adopted(fd), "the endpoint of {fd}");
            assert_eq!(is_adopted(fd), found.is_some());
            assert_eq!(call(Sysno::fcntl, [fd, 1, 0]).is_ok(), self.open.contains_key(&fd), "whether {fd} is open");
        }
        let mut alive: BTreeMap<u64, u32> = BTreeMap::new();
        for local in all().filter(|l| l.live.load(Relaxed)) {
            assert_eq!(local.users.count(), 0, "nobody is at work");
            assert!(alive.insert(local.cookie.load(Relaxed), local.fds.load(Relaxed)).is_none());
        }
        let mut want: BTreeMap<u64, u32> = BTreeMap::new();
        self.open.keys().filter_map(|fd| self.adopted(*fd)).for_each(|c| *want.entry(c).or_default() += 1);
        assert_eq!(alive, want, "descriptors of each endpoint");
    }
}

/// One ring of frames of 512 bytes, or a request that is refused after the socket has been looked up.
fn set_ring(fd: i32, tx: bool, blocks: u32, frames: u32) -> Result<()> {
    let mut req = nl_mmap_req { nm_block_size: 4096, nm_block_nr: blocks, nm_frame_size: 512, nm_frame_nr: frames };
    let name = if tx { NETLINK_TX_RING } else { NETLINK_RX_RING };
    // SAFETY: the request is a local.
    let result = unsafe { route::setsockopt(fd, SOL_NETLINK, name, (&raw mut req).cast(), 16) };
    if result == 0 { Ok(()) } else { Err(crate::next::errno()) }
}

/// The numbers that the table leads somewhere.
fn used() -> impl Iterator<Item = i32> {
    let next = |from: u32| super::next_used(from, MOST as u32);
    std::iter::successors(next(0), move |fd| next(fd + 1)).map(|fd| fd as i32)
}

fn run(ops: &[Op]) {
    // What a run that failed has left behind.
    for fd in used().filter(|fd| is_adopted(*fd)).chain(FIRST..=LAST) {
        // SAFETY: takes a number.
        unsafe { route::close(fd) };
    }
    let mut model = Model::default();
    for op in ops {
        model.apply(op);
        model.compare();
    }
    for fd in model.open.clone().into_keys() {
        model.apply(&Op::Close(fd));
    }
    model.compare();
    let private = used().filter(|fd| is_private(*fd)).count();
    assert_eq!(live() as usize, private, "the count of numbers in the table");
}

#[cfg(fuzzing)]
include!("../../../../fuzz/fuzz_targets/source.rs");

/// One run, by the choices of a fuzzer.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    run(&Source(bytes).all(op));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_follows_every_call(ops in prop::collection::vec(op(), 1..80)) {
        run(&ops);
    }
}
