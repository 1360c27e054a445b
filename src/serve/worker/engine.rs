//! A worker's one thread: requests, sockets and time, in turns.
//!
//! What is over at once is done as it comes. What may last, kicks and pumps, stands in a line and has a slice when its turn
//! comes; between two slices everything that has come is looked at. So nobody waits longer than for one slice and for the short
//! requests before his own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use cuse_rs::Errno;
use nix::errno::Errno as Os;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nlmmap_ring::rx::Context;

use super::lent::Lent;
use super::open::{Open, ready};
use super::pass::{Next, Passes};
use super::processor;
use super::wire::{self, Head, Packet, Receiver, flag, op};
use crate::serve::abi;
use crate::serve::socket::Credentials;

const CHANNEL: u64 = u64::MAX;
/// What is heard of a socket.
const EDGES: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLERR).union(EpollFlags::EPOLLET);
const EVENTS: usize = 32;
/// Requests that are taken in before the line has its turn.
const REQUESTS: usize = 64;
/// Slices that newcomers have before the line has one.
const FAVOURS: u32 = 4;

/// All that a worker has.
pub struct Engine {
    channel: OwnedFd,
    epoll: Epoll,
    /// Where descriptor numbers begin: beside those that a message might name.
    base: i32,
    opens: HashMap<u64, Open>,
    lent: Lent,
    line: VecDeque<u64>,
    /// Those who have had no slice yet. They go first, but not always: others must not wait for ever.
    fresh: VecDeque<u64>,
    /// Slices of fresh ones since the line's last.
    favours: u32,
    times: BinaryHeap<Reverse<(Instant, u64)>>,
    start: Instant,
    receiver: Receiver,
    room: Vec<u8>,
    front_gone: bool,
    passes: Passes,
    /// User and group of a client that may name the process that sends (`scm_check_creds`).
    ids: Option<(u32, u32)>,
}

/// The descriptor with a number from `base` on, where the limits allow.
pub fn move_up(fd: OwnedFd, base: i32) -> OwnedFd {
    // SAFETY: a descriptor of ours and numbers.
    let moved = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, base) };
    // SAFETY: the kernel has just made it.
    if moved < 0 { fd } else { unsafe { OwnedFd::from_raw_fd(moved) } }
}

impl Engine {
    /// Before the process gives up its rights.
    pub fn new(channel: OwnedFd) -> std::io::Result<Engine> {
        nlmmap_ring::lock::set_catches_signals(false);
        let mut random = [0u8; 2];
        // SAFETY: the buffer is writable for its length.
        unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
        let base = 1024 + i32::from(u16::from_ne_bytes(random) % 1024);
        let channel = move_up(channel, base);
        let epoll = Epoll(move_up(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?.0, base));
        epoll.add(&channel, EpollEvent::new(EpollFlags::EPOLLIN, CHANNEL))?;
        Ok(Engine {
            channel,
            epoll,
            base,
            opens: HashMap::new(),
            lent: Lent::new(base),
            line: VecDeque::new(),
            fresh: VecDeque::new(),
            favours: 0,
            times: BinaryHeap::new(),
            start: Instant::now(),
            receiver: Receiver::new(),
            room: Vec::new(),
            front_gone: false,
            passes: Passes::new(),
            ids: None,
        })
    }

    pub fn channel(&self) -> &OwnedFd {
        &self.channel
    }

    /// From now on messages name the client's process, beside its user and group: it may name any.
    pub fn name_processes_of(&mut self, uid: u32, gid: u32) {
        self.ids = Some((uid, gid));
    }

    /// Works until the front closes the channel.
    pub fn run(mut self) {
        while !self.front_gone {
            self.wait();
            self.wake_sleepers();
            if let Some(handle) = self.next() {
                self.turn(handle);
            }
            if self.line.is_empty() && self.fresh.is_empty() && self.passes.done() {
                processor::ask_for(processor::SHORT);
                self.tell(&Head { op: op::TURN, ..Head::default() }, &[], &[]);
            }
        }
    }

    /// Whose turn it is.
    fn next(&mut self) -> Option<u64> {
        let from_line = self.fresh.is_empty() || self.favours >= FAVOURS;
        if from_line && !self.line.is_empty() && self.may_go_on() {
            self.favours = 0;
            return self.line.pop_front();
        }
        self.favours += 1;
        self.fresh.pop_front()
    }

    /// Whether the line may have a slice, which is work that lasts.
    fn may_go_on(&mut self) -> bool {
        let next = self.passes.next(Instant::now());
        if next == Next::Ask {
            // While it waits it answers.
            processor::ask_for(processor::SHORT);
            self.tell(&Head { op: op::TURN, value: 1, ..Head::default() }, &[], &[]);
        }
        next == Next::GoOn
    }

    /// Sleeps until there is something to do, and takes it in.
    fn wait(&mut self) {
        let mut limit = EpollTimeout::NONE;
        let line = !self.line.is_empty() && !self.passes.waits();
        if line || !self.fresh.is_empty() {
            limit = EpollTimeout::ZERO;
        } else if let Some(Reverse((due, _))) = self.times.peek() {
            let left = due.saturating_duration_since(Instant::now());
            self.sleep(left);
            limit = EpollTimeout::ZERO;
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, limit).unwrap_or(0);
        let mut requests = false;
        for event in events.iter().take(count) {
            if event.data() == CHANNEL {
                requests = true;
            } else if let Some(open) = self.opens.get_mut(&event.data()) {
                open.pump = true;
                open.error |= event.events().contains(EpollFlags::EPOLLERR);
                self.enqueue(event.data(), true);
            }
        }
        // Sockets first: who asks, asks after everything that has come.
        if requests {
            self.take_requests();
        }
    }

    /// Finer than `epoll_wait` can.
    fn sleep(&self, time: Duration) {
        let limit = libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().into() };
        let mut entry = libc::pollfd { fd: self.epoll.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, a time, no signal set.
        unsafe { libc::ppoll(&raw mut entry, 1, &raw const limit, std::ptr::null()) };
    }

    fn take_requests(&mut self) {
        for _ in 0..REQUESTS {
            match self.receiver.receive(self.channel.as_fd()) {
                Ok(Some(packet)) => self.request(packet),
                Err(Os::EAGAIN) => return,
                Err(Os::EINTR | Os::EBADMSG) => {}
                Ok(None) | Err(_) => {
                    self.front_gone = true;
                    return;
                }
            }
        }
    }

    /// Puts an open file in the line, or, when it has had no slice for what it now wants, before it.
    fn enqueue(&mut self, handle: u64, fresh: bool) {
        if let Some(open) = self.opens.get_mut(&handle)
            && !std::mem::replace(&mut open.queued, true)
        {
            if fresh { &mut self.fresh } else { &mut self.line }.push_back(handle);
        }
    }

    fn answer(&mut self, id: u64, result: Result<&[u8], Errno>, value: u64, fds: &[std::os::fd::BorrowedFd<'_>]) {
        let error = result.err().map_or(0, |errno| errno.number());
        let head = Head { op: op::ANSWER, error, id, value, ..Head::default() };
        self.tell(&head, result.unwrap_or_default(), fds);
    }

    fn tell(&mut self, head: &Head, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) {
        match wire::send_waiting(&self.channel, head, bytes, fds) {
            Ok(()) => {}
            // Too many descriptors of this user are on their way: without them it is an error, but an answer.
            Err(Os::ETOOMANYREFS) if !fds.is_empty() => {
                let head = Head { error: libc::ETOOMANYREFS, ..*head };
                self.tell(&head, &[], &[]);
            }
            Err(_) => self.front_gone = true,
        }
    }

    fn request(&mut self, packet: Packet) {
        let Head { op, id, handle, value, .. } = packet.head;
        match op {
            op::SOCKET | op::ADOPT => {
                let made = self.make(packet);
                self.answer(id, made.map(|()| &[][..]), 0, &[]);
                self.after(handle, false);
            }
            op::PING => self.answer(id, Ok(&[]), 0, &[]),
            op::GO_ON => {
                if self.passes.granted(Instant::now()) {
                    processor::ask_for(processor::LONG);
                }
            }
            op::BORROW | op::RETURN | op::GRANTED | op::JOIN => {
                let done = self.lent.request(packet);
                self.answer(id, done.map(|()| &[][..]), 0, &[]);
            }
            op::CLOSE => {
                if let Some(open) = self.opens.remove(&handle) {
                    // Somebody else may still have it, to send on.
                    let _ = self.epoll.delete(open.socket().fd());
                }
                self.answer(id, Ok(&[]), 0, &[]);
            }
            op::CANCEL => {
                if let Some(open) = self.opens.get_mut(&handle) {
                    open.cancel_kick(value);
                    self.after(handle, true);
                }
            }
            _ => self.on_open(packet),
        }
    }

    fn make(&mut self, packet: Packet) -> Result<(), Errno> {
        let Head { op, handle, value, .. } = packet.head;
        let mut fds = packet.fds.into_iter();
        let mut next = || fds.next().ok_or(Errno::EBADF);
        let open = if op == op::SOCKET {
            let wanted = abi::read(&packet.bytes).ok_or(Errno::EINVAL)?;
            Open::make(value != 0, &wanted, self.base, &next()?)?
        } else {
            let (luggage, own): (super::open::Luggage, _) = abi::split(&packet.bytes).ok_or(Errno::EINVAL)?;
            let (socket, memory, state) = (next()?, next()?, next()?);
            let mut open = Open::adopt(&luggage, self.base, socket, &memory, &state)?;
            open.unpack(luggage.sieve, own)?;
            open
        };
        self.epoll.add(open.socket().fd(), EpollEvent::new(EDGES, handle)).map_err(|e| Errno::new(e as i32))?;
        let pump = open.pump;
        self.opens.insert(handle, open);
        if pump {
            self.enqueue(handle, true);
        }
        Ok(())
    }

    /// A request of an open file that has its socket.
    fn on_open(&mut self, packet: Packet) {
        let Head { op, id, handle, value, flags, pid, .. } = packet.head;
        let cmd = value as u32;
        let Some(open) = self.opens.get_mut(&handle) else {
            return self.answer(id, Err(Errno::new(libc::ENOTSOCK)), 0, &[]);
        };
        let aside = match op {
            op::POLL | op::READ => true,
            op::IOCTL => abi::only_asks(cmd),
            _ => false,
        };
        let ids = self.ids;
        let sender = ids.filter(|_| pid != 0).map(|(uid, gid)| Credentials::new(pid, uid, gid));
        if open.kick.is_some() && !aside {
            if open.wait(packet).is_err() {
                self.answer(id, Err(Errno::ENOBUFS), 0, &[]);
            }
            return;
        }
        let watch = flags & flag::WATCH != 0;
        match op {
            op::POLL => {
                open.service(Context::Wait);
                let events = open.events();
                if watch {
                    open.watch |= ready::POLL;
                }
                self.answer(id, Ok(&[]), u64::from(events), &[]);
                return self.after(handle, true);
            }
            op::READ => {
                let mut room = std::mem::take(&mut self.room);
                let most = usize::try_from(value).unwrap_or(0).min(1 << 20);
                room.resize(room.len().max(most), 0);
                let got = open.receive(room.get_mut(..most).unwrap_or_default());
                if watch && got == Err(Errno::EAGAIN) {
                    open.watch |= ready::READ;
                }
                let bytes = got.map(|len| room.get(..len.min(most)).unwrap_or_default());
                self.answer(id, bytes, 0, &[]);
                self.room = room;
            }
            op::WRITE => {
                let sent = open.send(&packet.bytes, sender);
                self.answer(id, sent.map(|_| &[][..]), 0, &[]);
            }
            op::TAKE => {
                let mut room = std::mem::take(&mut self.room);
                let taken = open.take_frame(&mut room);
                let value = u64::from(matches!(taken, Ok(Some(_))));
                let bytes = taken.map(|len| room.get(..len.unwrap_or(0)).unwrap_or_default());
                self.answer(id, bytes, value, &[]);
                self.room = room;
            }
            op::SHARE => {
                let (beginning, notes) = packet.bytes.split_at_checked(flags as usize).unwrap_or((&packet.bytes, &[]));
                open.note_request(beginning);
                if let Err(errno) = open.note_grant(notes) {
                    return self.answer(id, Err(errno), 0, &[]);
                }
                match (value != 0).then(|| open.socket().fd().try_clone()).transpose() {
                    Ok(Some(fd)) => self.answer(id, Ok(&[]), 0, &[fd.as_fd()]),
                    Ok(None) => self.answer(id, Ok(&[]), 0, &[]),
                    Err(error) => self.answer(id, Err(error.into()), 0, &[]),
                }
            }
            op::SERVICE => {
                open.granted(value as u32);
                open.service(Context::Send);
                self.answer(id, Ok(&[]), 0, &[]);
            }
            op::REFUSE => {
                open.refuse(&packet.bytes);
                self.answer(id, Ok(&[]), 0, &[]);
            }
            op::IOCTL if cmd == abi::KICK => match open.begin_kick(id, &packet.bytes, sender) {
                Ok(()) => return self.enqueue(handle, true),
                Err(errno) => self.answer(id, Err(errno), 0, &[]),
            },
            op::IOCTL => {
                let laid = open.laid();
                let mut answer = open.ioctl(handle, cmd, &packet.bytes, &packet.fds);
                if matches!(cmd, abi::RX_RING | abi::TX_RING) {
                    // Told whatever became of it: the front keeps the books.
                    let state = open.ring_state();
                    let error = answer.err().map_or(0, |errno| errno.number());
                    let value = u64::from(open.laid() != laid);
                    let head = Head { op: op::ANSWER, error, id, value, ..Head::default() };
                    answer = Ok(Vec::new());
                    self.tell(&head, abi::bytes(&state), &[]);
                } else {
                    self.answer(id, answer.as_deref().map_err(|errno| *errno), 0, &[]);
                }
                drop(answer);
            }
            op::EVICT => {
                // The socket lives on elsewhere, and would go on to be heard of here.
                let _ = self.epoll.delete(open.socket().fd());
                let bytes = open.pack();
                let head = Head { op: op::ANSWER, id, ..Head::default() };
                match wire::send_waiting(&self.channel, &head, &bytes, &[open.socket().fd().as_fd()]) {
                    Ok(()) => {
                        self.opens.remove(&handle);
                    }
                    // Too many descriptors of this user are on their way: it stays.
                    Err(Os::ETOOMANYREFS) => {
                        let watched = self.epoll.add(open.socket().fd(), EpollEvent::new(EDGES, handle));
                        open.pump = true;
                        let error = watched.err().unwrap_or(Os::ETOOMANYREFS);
                        self.answer(id, Err(Errno::new(error as i32)), 0, &[]);
                        self.enqueue(handle, true);
                    }
                    Err(_) => self.front_gone = true,
                }
                return;
            }
            _ => self.answer(id, Err(Errno::EINVAL), 0, &[]),
        }
        if let Some(open) = self.opens.get_mut(&handle) {
            open.seen();
        }
        self.after(handle, false);
    }

    /// An open file has its slice.
    fn turn(&mut self, handle: u64) {
        let Some(open) = self.opens.get_mut(&handle) else {
            return;
        };
        open.queued = false;
        if open.pump {
            open.moved();
        }
        let slept = open.kick.as_ref().and_then(|kick| kick.nap_until);
        let over = open.go_on();
        if let Some(due) = open.kick.as_ref().and_then(|kick| kick.nap_until)
            && slept != Some(due)
        {
            self.times.push(Reverse((due, handle)));
        }
        if let Some((id, result)) = over {
            self.answer(id, result.as_deref().map_err(|errno| *errno), 0, &[]);
            while let Some(packet) = self.opens.get_mut(&handle).and_then(Open::next_waiting) {
                self.on_open(packet);
            }
        }
        self.after(handle, false);
    }

    /// What every step on an open file ends with: whoever waits is told, and what is not over has its turn later.
    fn after(&mut self, handle: u64, quietly: bool) {
        let Some(open) = self.opens.get_mut(&handle) else {
            return;
        };
        let who = if quietly { 0 } else { open.tell() };
        let again = open.pump || open.kicks();
        if let Some(due) = open.keep_looking(self.start) {
            self.times.push(Reverse((due, handle)));
        }
        if who != 0 {
            self.tell(&Head { op: op::READY, handle, value: who, ..Head::default() }, &[], &[]);
        }
        if again {
            self.enqueue(handle, false);
        }
    }

    /// Full rings whose time has come are looked at.
    fn wake_sleepers(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((due, handle))) = self.times.peek()
            && due <= now
        {
            self.times.pop();
            let Some(open) = self.opens.get_mut(&handle) else {
                continue;
            };
            let kick = open.kick.as_mut().filter(|kick| kick.nap_until == Some(due));
            let wakes = kick.map(|kick| kick.nap_until = None).is_some();
            if open.nap_until == Some(due) {
                open.nap_until = None;
                open.pump = true;
            } else if !wakes {
                continue;
            }
            self.enqueue(handle, true);
        }
    }
}
