//! The supervisor's one thread: stopped calls, sockets and time, in turns.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use libc::c_long;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nlmmap_ring::rx::Context;

use super::client::{self, Held, Process, Processes};
use super::filter::{self, SYS_EPOLL_PWAIT2};
use super::log::Log;
use super::mapping::Mapping;
use super::notify::{Call, Listener, Outcome};
use super::rights::{self, Rights};
use super::ring::Ring;
use super::shown::Shown;
use super::wait::{Waiting, What};

/// Marks the events of processes; those of sockets have their cookie, which counts from 1 up.
const PROCESS: u64 = 1 << 63;
/// And those of processes that make mappings.
pub const HELPER: u64 = 1 << 62;
const EVENTS: usize = 32;

/// A send that could not be told of.
pub struct Done {
    pub call: Call,
    pub value: i64,
    /// None of a kick.
    pub message: Option<Vec<u8>>,
}

/// All that a supervisor has.
pub struct Supervisor {
    pub(super) listener: Listener,
    pub(super) epoll: Epoll,
    /// Sockets with rings, by their cookies.
    pub(super) rings: HashMap<u64, Box<Ring>>,
    pub(super) processes: Processes,
    /// Calls that wait.
    pub(super) waiting: Vec<Waiting>,
    /// Sends that are over, and whose callers were interrupted before they could be told: they may come again.
    done: HashMap<u32, Vec<Done>>,
    /// Other calls of that kind, which are made again at once if at all.
    late: HashMap<u32, (Call, Outcome)>,
    /// Of the send that is answered now: its message, none of a kick.
    pub(super) sent: Option<Vec<u8>>,
    /// Mappings under way, by the processes that make them.
    pub(super) mappings: HashMap<u32, Mapping>,
    /// The machine was found too busy to wait for a mapping; until when that is believed.
    pub(super) busy: Option<Instant>,
    /// Processes that have made netlink sockets.
    pub(super) makers: HashSet<u32>,
    /// Waits that were interrupted, and do not go on after that, whatever the handler says.
    interrupted: HashMap<u32, Call>,
    /// Waits whose threads were stopped for a moment, and their ends.
    pub(super) paused: HashMap<u32, (Call, Option<Instant>)>,
    /// The end of the wait that is begun now, if it has been one before.
    pub(super) going_on: Option<Option<Instant>>,
    /// The supervised numbers.
    pub(super) numbers: Range<i32>,
    pub(super) strict: bool,
    pub(super) log: Log,
    pub(super) shown: Option<Shown>,
    /// Its network namespace.
    pub(super) network: File,
    /// What this process may.
    pub(super) rights: Rights,
    /// Some client may have other rights by now.
    pub(super) rights_differ: bool,
}

impl Supervisor {
    pub fn new(
        listener: Listener,
        numbers: Range<i32>,
        strict: bool,
        log: Log,
        shown: Option<Shown>,
    ) -> Result<Supervisor, Errno> {
        nlmmap_ring::lock::set_catches_signals(false);
        Ok(Supervisor {
            listener,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            rings: HashMap::new(),
            processes: Processes::default(),
            waiting: Vec::new(),
            done: HashMap::new(),
            late: HashMap::new(),
            sent: None,
            mappings: HashMap::new(),
            busy: None,
            makers: HashSet::new(),
            interrupted: HashMap::new(),
            paused: HashMap::new(),
            going_on: None,
            numbers,
            strict,
            log,
            shown,
            network: File::open("/proc/self/ns/net").map_err(|_| Errno::ENOENT)?,
            rights: Rights::of("self").ok_or(Errno::ENOENT)?,
            rights_differ: false,
        })
    }

    /// Works until no process has the filter any more.
    pub fn run(mut self) {
        loop {
            let Some((calls, events)) = self.sleep() else { return };
            // Sockets first: who asks, asks after everything that has come.
            if events {
                self.take_events();
            }
            self.look();
            self.settle();
            if calls && let Ok(call) = self.listener.take() {
                self.serve(call);
                self.settle();
            }
        }
    }

    /// Until something is to be done: whether calls have stopped, and whether sockets or processes have something. `None` at the
    /// end.
    fn sleep(&mut self) -> Option<(bool, bool)> {
        let now = Instant::now();
        let mut due: Option<Instant> = None;
        let mut at = |time: Option<Instant>| due = [due, time].into_iter().flatten().min();
        for ring in self.rings.values_mut() {
            ring.keep_looking(now);
            at(ring.look);
            at(ring.again.then_some(now));
        }
        self.waiting.iter().for_each(|waiting| at(waiting.next_look()));
        let entry = |fd: i32, events: i16| libc::pollfd { fd, events, revents: 0 };
        let mut entries =
            vec![entry(self.listener.as_fd().as_raw_fd(), libc::POLLIN), entry(self.epoll.0.as_raw_fd(), libc::POLLIN)];
        for waiting in &self.waiting {
            entries.extend(waiting.files().map(|(fd, events)| entry(fd, events)));
        }
        let left = due.map(|due| due.saturating_duration_since(now));
        let left = left.map(|left: Duration| libc::timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        });
        let limit = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the entries, a time or none, no signal set.
        unsafe { libc::ppoll(entries.as_mut_ptr(), entries.len() as u64, limit, std::ptr::null()) };
        let has = |index: usize, what: i16| entries.get(index).is_some_and(|entry| entry.revents & what != 0);
        if has(0, libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) && !has(0, libc::POLLIN) {
            return None;
        }
        Some((has(0, libc::POLLIN), has(1, libc::POLLIN)))
    }

    /// What sockets and processes have to say.
    pub(super) fn take_events(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.iter().take(count) {
            let data = event.data();
            if data & PROCESS != 0 {
                self.ended((data & !PROCESS) as u32);
            } else if data & HELPER != 0 {
                self.mapping_ended((data & !HELPER) as u32);
            } else {
                self.pump(data, Context::Background);
            }
        }
    }

    /// A process has ended: its calls are over, and perhaps its sockets.
    fn ended(&mut self, tgid: u32) {
        self.processes.forget(tgid);
        if self.processes.get(tgid).is_none() {
            let listener = &self.listener;
            self.waiting.retain(|waiting| waiting.tgid != tgid || listener.waits(waiting.call.id));
            self.makers.remove(&tgid);
            let ended = |tid: &u32| client::has_thread_ended(*tid);
            self.done.retain(|tid, _| !ended(tid));
            self.late.retain(|tid, _| !ended(tid));
            self.interrupted.retain(|tid, _| !ended(tid));
            self.paused.retain(|tid, _| !ended(tid));
            self.sweep();
        }
    }

    /// Drops the rings whose sockets nobody has any more: those that the epoll set no longer knows.
    pub(super) fn sweep(&mut self) {
        let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.epoll.0.as_raw_fd())) else { return };
        let cookie = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            words.find(|word| *word == "data:");
            words.next().and_then(|word| u64::from_str_radix(word, 16).ok())
        };
        let live: Vec<u64> = info.lines().filter(|line| line.starts_with("tfd:")).filter_map(cookie).collect();
        self.rings.retain(|cookie, _| live.contains(cookie));
    }

    /// From now on a socket's arrivals are heard of.
    pub(super) fn watch(&self, held: &Held) -> Result<(), Errno> {
        let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLET;
        match self.epoll.add(&held.fd, EpollEvent::new(edges, held.cookie)) {
            Err(Errno::EEXIST) => Ok(()),
            done => done,
        }
    }

    /// Moves what a socket has into its ring.
    pub(super) fn pump(&mut self, cookie: u64, context: Context) {
        if !self.rings.contains_key(&cookie) {
            return;
        }
        let Some(held) = self.find(cookie) else {
            self.sweep();
            // Somebody has it still, at a number that nobody has told of: its event does not come twice.
            if let Some(ring) = self.rings.get_mut(&cookie) {
                ring.missed = true;
            }
            return;
        };
        if let Some(ring) = self.rings.get_mut(&cookie) {
            ring.service(&held.fd, context);
        }
    }

    /// The socket, wherever it is.
    fn find(&mut self, cookie: u64) -> Option<Held> {
        let is = |process: &Process, number| process.hold(number).ok().filter(|held| held.cookie == cookie);
        let ring = self.rings.get(&cookie)?;
        let places = ring.places().to_vec();
        for (tgid, number) in &places {
            if let Some(process) = self.processes.get(*tgid)
                && let Some(held) = is(process, *number)
            {
                return Some(held);
            }
        }
        // Under another number, or in a process that has inherited it and not called since.
        let numbers = self.numbers.clone();
        let anywhere = |process: &Process| numbers.clone().find_map(|n| Some((process.tgid, n, is(process, n)?)));
        let found = self.processes.all().find_map(anywhere).or_else(|| {
            let names =
                fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            let heirs = names.filter_map(|tgid: u32| Process::open(tgid).ok());
            heirs.into_iter().find_map(|p| places.iter().find_map(|(_, n)| Some((p.tgid, *n, is(&p, *n)?))))
        });
        let (tgid, number, held) = found?;
        if self.processes.get(tgid).is_none() {
            self.meet(tgid).ok()?;
        }
        self.rings.get_mut(&cookie)?.seen_at(tgid, number);
        Some(held)
    }

    /// The process of a thread that waits in a call; its end will be heard of.
    pub(super) fn meet(&mut self, tid: u32) -> Result<&Process, Errno> {
        let (process, new) = self.processes.of(tid).inspect_err(|error| {
            if !matches!(error, Errno::EPERM | Errno::ESRCH | Errno::ENOENT) {
                client::note_lack(*error);
            }
        })?;
        let tgid = process.tgid;
        if new {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, PROCESS | u64::from(tgid));
            if let Err(error) = self.epoll.add(process.pidfd(), event) {
                self.processes.remove(tgid);
                client::note_lack(error);
                return Err(error);
            }
        }
        self.processes.get(tgid).ok_or(Errno::ESRCH)
    }

    /// Rings that nobody tells of.
    fn look(&mut self) {
        let now = Instant::now();
        let due = |ring: &Ring| ring.again || ring.look.is_some_and(|look| look <= now);
        let cookies: Vec<u64> = self.rings.iter().filter(|(_, ring)| due(ring)).map(|(cookie, _)| *cookie).collect();
        for cookie in cookies {
            self.pump(cookie, Context::Background);
        }
    }

    /// One stopped call.
    fn serve(&mut self, call: Call) {
        // Of a thread that has stopped again, whatever it waited for before is over.
        let mut old = None;
        while let Some(index) = self.waiting.iter().position(|waiting| waiting.call.tid == call.tid) {
            let waiting = self.waiting.swap_remove(index);
            old = Some(waiting.call).filter(|_| !goes_on(&waiting));
            waiting.kicked().into_iter().for_each(|done| self.note_done(done));
        }
        let interrupted = self.interrupted.remove(&call.tid).or(old);
        let paused = self.paused.remove(&call.tid).filter(|(before, _)| call.repeats(before));
        self.going_on = paused.map(|(_, until)| until);
        let late = self.late.remove(&call.tid).filter(|(before, _)| call.repeats(before));
        let outcome = if let Some((_, outcome)) = late {
            Some(outcome)
        } else if interrupted.is_some_and(|before| call.repeats(&before)) {
            Some(Outcome::from(Errno::EINTR))
        } else {
            client::take_lack();
            self.dispatch(&call).map(|outcome| self.whole(&call, outcome))
        };
        if let Some(outcome) = outcome {
            self.log.call(&call, outcome);
            let sent = self.sent.take();
            let answered = if is_wait(call.nr) {
                self.listener.reply(call.id, outcome)
            } else {
                self.listener.answer(call.id, outcome)
            };
            if answered.is_ok() {
                return;
            }
            if is_wait(call.nr) {
                self.interrupted.insert(call.tid, call);
            }
            if outcome != Outcome::Native
                && matches!(c_long::from(call.nr), libc::SYS_epoll_ctl | libc::SYS_setsockopt | libc::SYS_getsockopt)
            {
                self.late.insert(call.tid, (call, outcome));
            }
            if let Outcome::Value(value) = outcome
                && is_send(call.nr)
            {
                self.note_done(Done { call, value, message: sent });
            }
        }
    }

    /// What a call is not left to the kernel for: that this process could not look at what it is about. The kernel would pass over the
    /// rings.
    fn whole(&self, call: &Call, outcome: Outcome) -> Outcome {
        let lack = client::take_lack().filter(|_| outcome == Outcome::Native);
        let about_rings = !self.rings.is_empty() || filter::asks_for_ring(call);
        match lack {
            // Another's memory may be closed to this process, whose waits have nothing to do with rings.
            Some(Errno::EPERM | Errno::ESRCH) if is_wait(call.nr) => outcome,
            Some(error) if about_rings && filter::is_about_a_file(call.nr) => {
                self.log.warn(format_args!("{}: call {} cannot be looked at: {error}", call.tid, call.nr));
                Outcome::from(if error == Errno::EPERM { error } else { Errno::ENOMEM })
            }
            _ => outcome,
        }
    }

    pub(super) fn note_done(&mut self, new: Done) {
        let done = self.done.entry(new.call.tid).or_default();
        // A handler above a handler.
        done.truncate(7);
        done.insert(0, new);
    }

    /// What such a call has sent before, if its caller was interrupted then and does not know. `message`: none of a kick.
    pub(super) fn sent_before(&mut self, call: &Call, message: Option<&[u8]>) -> Option<i64> {
        let done = self.done.get_mut(&call.tid)?;
        let at = done.iter().position(|done| call.repeats(&done.call) && done.message.as_deref() == message)?;
        Some(done.remove(at).value)
    }

    /// Answers the waits that are over.
    fn settle(&mut self) {
        let mut index = 0;
        while let Some(id) = self.waiting.get(index).map(|waiting| waiting.call.id) {
            client::take_lack();
            let outcome = self.outcome_of(index);
            let call = self.waiting.get(index).map(|waiting| waiting.call);
            let outcome = outcome.map(|outcome| call.map_or(outcome, |call| self.whole(&call, outcome)));
            // A client that has ended meanwhile has taken its own with it.
            let Some(at) = self.waiting.iter().position(|waiting| waiting.call.id == id) else { continue };
            match outcome {
                None if self.waiting.get(at).is_some_and(|waiting| waiting.over) => drop(self.waiting.swap_remove(at)),
                None => index = at + 1,
                Some(outcome) => {
                    let waiting = self.waiting.swap_remove(at);
                    let answered = match waiting.what {
                        What::Poll(_) | What::Select(..) => self.listener.reply(waiting.call.id, outcome),
                        _ => self.listener.answer(waiting.call.id, outcome),
                    };
                    if answered.is_ok() {
                        self.log.call(&waiting.call, outcome);
                    } else if !goes_on(&waiting) {
                        self.interrupted.insert(waiting.call.tid, waiting.call);
                    }
                    if answered.is_err() || outcome.is_interruption() {
                        waiting.kicked().into_iter().for_each(|done| self.note_done(done));
                    }
                }
            }
        }
    }

    /// Does what a client asks for in this process's name, with the client's rights. `EPERM` if those cannot be had. `naming`: a
    /// message to another process alone, beside which the client is named.
    pub(super) fn on_behalf_of<T>(
        &mut self,
        tid: u32,
        naming: bool,
        work: impl FnOnce(&mut Supervisor) -> T,
    ) -> Result<T, Errno> {
        if !self.rights_differ {
            return Ok(work(self));
        }
        let ours = self.rights.clone();
        let done = rights::with_those_of(tid, &ours, naming, || work(self));
        if done.is_err() {
            self.log.warn(format_args!("{tid}: has rights that its supervisor cannot take on: not done"));
        }
        done
    }
}

/// Whether the kernel goes on with such a wait after a signal whose handler says so (`signal(7)`): with a receive or a send, but for
/// one with a time limit.
fn goes_on(waiting: &Waiting) -> bool {
    matches!(waiting.what, What::Receive | What::Kick(_)) && waiting.until.is_none()
}

fn is_wait(nr: i32) -> bool {
    matches!(
        c_long::from(nr),
        libc::SYS_poll
            | libc::SYS_ppoll
            | libc::SYS_select
            | libc::SYS_pselect6
            | libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | SYS_EPOLL_PWAIT2
    )
}

fn is_send(nr: i32) -> bool {
    matches!(
        c_long::from(nr),
        libc::SYS_write | libc::SYS_writev | libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg
    )
}
