//! A worker's one thread: requests, sockets and time, in turns.
//!
//! What is over at once is done as it comes. What may last, kicks and pumps, stands in a line and has a slice when its turn
//! comes; between two slices everything that has come is looked at. So nobody waits longer than for one slice and for the short
//! requests before his own.

mod filling;
mod requests;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use cuse_rs::Errno;
use nix::errno::Errno as Os;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::ahead::Ahead;
use super::lent::Lent;
use super::open::Open;
use super::open::pace::{Cause, Heard};
use super::pass::{COMPANY, Next, Passes};
use super::processor;
use super::wire::{self, Head, Receiver, op};

const CHANNEL: u64 = u64::MAX;
const EVENTS: usize = 32;
/// Requests that are taken in before the line has its turn.
const REQUESTS: usize = 64;
/// Slices of kicks before a worker lets go of the processor when nobody else is known to want anything; with others it is one.
const BREATH: u32 = 4;
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
    /// Whether other workers had something to do when this one was last let go on.
    others: bool,
    /// When somebody last asked something on an open file while another one had work in the line.
    company: Option<Instant>,
    /// In this step the worker lets go of the processor.
    gives_way: bool,
    /// Slices of kicks since it last did so, or slept.
    breathless: u32,
    ahead: Ahead,
    /// User and group of a client that may name the process that sends (`scm_check_creds`).
    ids: Option<(u32, u32)>,
}

/// Hears of a socket, from now on or for the first time. Whether the kernel does: it may have no memory for it.
fn hear(epoll: &Epoll, open: &Open, what: Heard, handle: u64) -> bool {
    let mut event = EpollEvent::new(interest(what), handle);
    match epoll.modify(open.socket().fd(), &mut event) {
        Err(Os::ENOENT) => epoll.add(open.socket().fd(), event).is_ok(),
        done => done.is_ok(),
    }
}

/// As epoll has it.
fn interest(what: Heard) -> EpollFlags {
    let all = EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLET;
    match what {
        Heard::Edges => all,
        Heard::Once => all | EpollFlags::EPOLLONESHOT,
        Heard::Errors | Heard::Nothing => EpollFlags::EPOLLERR | EpollFlags::EPOLLET | EpollFlags::EPOLLONESHOT,
    }
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
            others: false,
            company: None,
            gives_way: false,
            breathless: 0,
            ahead: Ahead::new(),
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
            self.step();
        }
    }

    /// Takes in what has come, and gives one open file a slice.
    fn step(&mut self) {
        self.wait();
        self.wake_sleepers();
        if let Some((handle, lasts)) = self.next() {
            let before = lasts.then(processor::used);
            self.turn(handle);
            if let Some(before) = before {
                self.passes.spent(processor::used().saturating_sub(before));
            }
        }
        if std::mem::take(&mut self.gives_way) && !self.passes.waits() {
            // Who hears of the answer has turns as short as these, and would wait for this worker's end of them.
            processor::let_others_go();
            self.breathless = 0;
        }
        if self.line.is_empty() && self.fresh.is_empty() && self.passes.done() {
            processor::ask_for(processor::SHORT);
            self.tell(&Head { op: op::TURN, ..Head::default() }, &[], &[]);
        }
    }

    /// Whose turn it is, and whether with work that lasts.
    fn next(&mut self) -> Option<(u64, bool)> {
        let from_line = self.fresh.is_empty() || self.favours >= FAVOURS;
        if from_line && !self.line.is_empty() && self.may_go_on() {
            self.favours = 0;
            return self.line.pop_front().map(|handle| (handle, true));
        }
        self.favours += 1;
        self.fresh.pop_front().map(|handle| (handle, false))
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

    /// Whether others than those with work that lasts have asked something lately: with long turns of the processor this worker
    /// would let everybody else go before them.
    fn has_company(&self, now: Instant) -> bool {
        self.company.is_some_and(|last| now.duration_since(last) < COMPANY)
    }

    /// Notes a request of an open file.
    fn heard(&mut self, handle: u64) {
        if self.line.len() > 1 || self.line.front().is_some_and(|there| *there != handle) {
            let now = Instant::now();
            if !self.has_company(now) {
                processor::ask_for(processor::SHORT);
            }
            self.company = Some(now);
            self.gives_way = true;
        }
    }

    /// Sleeps until there is something to do, and takes it in.
    fn wait(&mut self) {
        let mut limit = EpollTimeout::NONE;
        if self.fresh.is_empty() && (self.line.is_empty() || self.passes.waits()) {
            self.breathless = 0;
        }
        let line = !self.line.is_empty() && !self.passes.waits();
        if line || !self.fresh.is_empty() {
            limit = EpollTimeout::ZERO;
        } else if let Some(left) = self.look_ahead() {
            if !left.is_zero() {
                self.sleep(left);
            }
            limit = EpollTimeout::ZERO;
        }
        // Sockets first: who asks, asks after everything that has come.
        if self.hear_sockets(limit) {
            self.take_requests();
        }
    }

    /// Hears what sockets have to say. Whether there are requests.
    fn hear_sockets(&mut self, limit: EpollTimeout) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, limit).unwrap_or(0);
        let mut requests = false;
        for event in events.iter().take(count) {
            if event.data() == CHANNEL {
                requests = true;
            } else {
                self.socket_speaks(event.data(), event.events().contains(EpollFlags::EPOLLERR));
            }
        }
        requests
    }

    /// A socket has something.
    fn socket_speaks(&mut self, handle: u64, error: bool) {
        let Some(open) = self.opens.get_mut(&handle) else {
            return;
        };
        if open.pace.heard != Heard::Edges {
            open.pace.heard = Heard::Nothing;
        }
        open.error |= error;
        if !error && open.lets_wait() {
            return self.after(handle, Cause::Wait);
        }
        open.pump = true;
        self.enqueue(handle, true);
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
                // Without memory it is still there the next time.
                Err(Os::EAGAIN | Os::ENOMEM | Os::ENOBUFS) => return,
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

    /// An open file has its slice.
    fn turn(&mut self, handle: u64) {
        let Some(open) = self.opens.get_mut(&handle) else {
            return;
        };
        open.queued = false;
        let from = if open.kick.is_some() { Cause::Client } else { Cause::Background };
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
        if self.opens.get(&handle).is_some_and(Open::kicks) {
            self.breathless += 1;
            let many = if self.others || self.has_company(Instant::now()) { 1 } else { BREATH };
            self.gives_way |= self.breathless >= many;
        }
        self.after(handle, from);
    }

    /// What every step on an open file ends with: whoever waits is told, and what is not over has its turn later.
    fn after(&mut self, handle: u64, from: Cause) {
        let Some(open) = self.opens.get_mut(&handle) else {
            return;
        };
        let heard = open.take_heard();
        if !heard.is_empty() {
            self.tell(&Head { op: op::HEARD, handle, ..Head::default() }, &heard, &[]);
        }
        let Some(open) = self.opens.get_mut(&handle) else {
            return;
        };
        let who = open.tell(from);
        let again = open.pump || open.kicks();
        if let Some(due) = open.keep_looking(self.start) {
            self.times.push(Reverse((due, handle)));
        }
        if let Some(what) = open.wants_to_hear()
            && !hear(&self.epoll, open, what, handle)
        {
            open.hears_nothing();
        }
        if let Some(due) = open.next_due() {
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
            if open.pace.due == Some(due) {
                open.is_due(now);
                if open.pump {
                    self.enqueue(handle, true);
                } else {
                    self.after(handle, Cause::Background);
                }
                continue;
            }
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
