//! Waits that the supervisor answers: `poll`, `ppoll`, `select`, `pselect6` on sockets with rings, and receives that sleep.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nlmmap_ring::readiness;
use nlmmap_ring::rx::Context;

use super::client::{self, Span};
use super::engine::{Done, Supervisor};
use super::notify::{Call, Outcome};
use super::send::Kicking;
use super::signals::Looks;

/// More descriptors than this are left to the kernel's own `poll`.
const MOST: u64 = 4096;
const READ: i16 = libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLHUP | libc::POLLERR;
const WRITE: i16 = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND | libc::POLLERR;

/// A call that waits.
pub struct Waiting {
    pub call: Call,
    pub tgid: u32,
    pub until: Option<Instant>,
    pub what: What,
    /// Signals that are blocked, of which some are open for the time of the wait: those that are not.
    pub mask: Option<u64>,
    /// For what has come for its thread.
    pub looks: Looks,
    /// It has been answered.
    pub over: bool,
}

pub enum What {
    /// A receive.
    Receive,
    /// A kick whose receiver has no room.
    Kick(Box<Kicking>),
    /// It is being tried.
    Nothing,
    Poll(Vec<Entry>),
    /// The entries, and how many bytes a set has.
    Select(Vec<Entry>, usize),
}

/// A descriptor of a client's that it waits for.
pub struct Entry {
    number: i32,
    events: i16,
    /// A socket with a receive ring.
    ring: Option<u64>,
    /// Any other file.
    file: Option<OwnedFd>,
}

impl Waiting {
    /// When it is to be looked at without anything having happened.
    pub fn next_look(&self) -> Option<Instant> {
        let again = if let What::Kick(kick) = &self.what { Some(kick.due) } else { None };
        [self.until, self.looks.due, again].into_iter().flatten().min()
    }

    /// What a kick has sent so far, if anything.
    pub fn kicked(&self) -> Option<Done> {
        let What::Kick(kick) = &self.what else { return None };
        (kick.total > 0).then_some(Done { call: self.call, value: kick.total, message: None })
    }

    fn entries(&self) -> &[Entry] {
        match &self.what {
            What::Receive | What::Kick(_) | What::Nothing => &[],
            What::Poll(entries) | What::Select(entries, _) => entries,
        }
    }

    /// The files to be waited for on its behalf.
    pub fn files(&self) -> impl Iterator<Item = (i32, i16)> {
        self.entries().iter().filter_map(|entry| entry.file.as_ref().map(|file| (file.as_raw_fd(), entry.events)))
    }
}

/// A time limit from now on.
fn limit(time: Option<Duration>) -> Option<Instant> {
    time.and_then(|time| Instant::now().checked_add(time))
}

impl Supervisor {
    /// Stops a call until there is an outcome.
    pub(super) fn hold_call(&mut self, call: &Call, tgid: u32, time: Option<Duration>, mask: Option<u64>, what: What) {
        // A limit that no clock can tell is none.
        let until = self.going_on.take().unwrap_or_else(|| limit(time));
        let looks = self.looks(mask);
        self.waiting.push(Waiting { call: *call, tgid, until, what, mask, looks, over: false });
    }

    /// `poll` and `ppoll`. `None`: it waits.
    pub(super) fn poll(&mut self, call: &Call) -> Option<Outcome> {
        let [at, count, ..] = call.args;
        if count == 0 || count > MOST {
            return Some(Outcome::Native);
        }
        let Ok(bytes) = client::read(call.tid, at, count as usize * 8) else {
            return Some(Outcome::Native);
        };
        let wanted: Vec<(i32, i16)> = (0..count as usize)
            .map(|i| (client::word(&bytes, 2 * i).cast_signed(), client::word(&bytes, 2 * i + 1) as u16 as i16))
            .collect();
        let is_poll = libc::c_long::from(call.nr) == libc::SYS_poll;
        let time = match (is_poll, call.int(2), call.args[2]) {
            (true, time, _) => Ok(u64::try_from(time).ok().map(Duration::from_millis)),
            (false, _, 0) => Ok(None),
            (false, _, at) => timespec(call.tid, at),
        };
        let mask = if is_poll || call.args[3] == 0 { None } else { Some(call.args[3]) };
        self.begin(call, &wanted, time, mask, What::Poll)
    }

    /// `select` and `pselect6`. `None`: it waits.
    pub(super) fn select(&mut self, call: &Call) -> Option<Outcome> {
        let count = call.int(0).clamp(0, 1024) as usize;
        let len = count.div_ceil(64) * 8;
        let set = |at: u64| if at == 0 { Ok(vec![0; len]) } else { client::read(call.tid, at, len) };
        let [_, read, write, except, time, mask] = call.args;
        let (Ok(read), Ok(write), Ok(except)) = (set(read), set(write), set(except)) else {
            return Some(Outcome::Native);
        };
        let has = |set: &[u8], n: usize| set.get(n / 8).is_some_and(|byte| byte & 1 << (n % 8) != 0);
        let wanted: Vec<(i32, i16)> = (0..count)
            .map(|n| {
                let read = if has(&read, n) { libc::POLLIN } else { 0 };
                let write = if has(&write, n) { libc::POLLOUT } else { 0 };
                (n as i32, read | write | if has(&except, n) { libc::POLLPRI } else { 0 })
            })
            .filter(|(_, events)| *events != 0)
            .collect();
        let is_select = libc::c_long::from(call.nr) == libc::SYS_select;
        let mask =
            if is_select || mask == 0 { Ok(0) } else { client::read(call.tid, mask, 8).map(|b| client::long(&b, 0)) };
        let Ok(mask) = mask.map(|mask| Some(mask).filter(|mask| *mask != 0)) else { return Some(Outcome::Native) };
        // `select` writes back what is left of its time: the kernel does that for itself where it is left to it.
        let limit = match time {
            0 => Ok(None),
            at if is_select => timeval(call.tid, at),
            at => timespec(call.tid, at),
        };
        self.begin(call, &wanted, limit, mask, |entries| What::Select(entries, len))
    }

    fn begin(
        &mut self,
        call: &Call,
        wanted: &[(i32, i16)],
        time: Result<Option<Duration>, Errno>,
        mask_at: Option<u64>,
        what: impl FnOnce(Vec<Entry>) -> What,
    ) -> Option<Outcome> {
        let numbers = self.numbers.clone();
        if !wanted.iter().any(|(number, _)| numbers.contains(number)) {
            return Some(Outcome::Native);
        }
        let (Ok(time), Ok(process)) = (time, self.meet(call.tid)) else {
            return Some(Outcome::Native);
        };
        let tgid = process.tgid;
        let mut ours = Vec::new();
        for (number, _) in wanted.iter().filter(|(number, _)| numbers.contains(number)) {
            match process.hold(*number) {
                Ok(held) if held.cookie != 0 => ours.push((*number, held)),
                // What cannot be looked at may be one with rings.
                Ok(_) | Err(Errno::EBADF | Errno::EPERM | Errno::ESRCH) => {}
                Err(_) => return Some(Outcome::Native),
            }
        }
        self.bring_in_step();
        ours.retain(|(_, held)| self.rings.get(&held.cookie).is_some_and(|ring| ring.receives()));
        if ours.is_empty() {
            return Some(Outcome::Native);
        }
        for (number, held) in &ours {
            if let Some(ring) = self.rings.get_mut(&held.cookie) {
                ring.seen_at(tgid, *number);
                ring.service(&held.fd, Context::Wait);
            }
        }
        let Some(process) = self.processes.get(tgid) else { return Some(Outcome::Native) };
        let entry = |&(number, events): &(i32, i16)| {
            let ring = ours.iter().find(|(ours, _)| *ours == number).map(|(_, held)| held.cookie);
            let file = match process.file(number) {
                _ if ring.is_some() || number < 0 => None,
                Err(Errno::EBADF) => None,
                file => Some(file?),
            };
            Ok(Entry { number, events, ring, file })
        };
        // A descriptor that is there is not told to be none.
        let entries: Result<Vec<Entry>, Errno> = wanted.iter().map(entry).collect();
        let what = match entries {
            Ok(entries) => what(entries),
            Err(_) => return Some(Outcome::Native),
        };
        let mask = mask_at.map(|at| client::read(call.tid, at, 8).map(|bytes| client::long(&bytes, 0))).transpose();
        let Ok(mask) = mask else { return Some(Outcome::Native) };
        self.hold_call(call, tgid, time, mask, what);
        None
    }

    /// The outcome of a wait, if it is over.
    pub(super) fn outcome_of(&mut self, index: usize) -> Option<Outcome> {
        let id = self.waiting.get(index)?.call.id;
        self.result_of(index).or_else(|| self.interruption(id))
    }

    /// What it waits for, or that its time is over.
    fn result_of(&mut self, index: usize) -> Option<Outcome> {
        let waiting = self.waiting.get_mut(index)?;
        let expired = waiting.until.is_some_and(|until| until <= Instant::now());
        if let What::Receive = waiting.what {
            let call = waiting.call;
            let outcome = self.receive_now(&call);
            return if outcome == Some(Outcome::Error(libc::EAGAIN)) && !expired { None } else { outcome };
        }
        if let What::Kick(_) = waiting.what {
            let call = waiting.call;
            let What::Kick(mut kick) = std::mem::replace(&mut waiting.what, What::Nothing) else { return None };
            let outcome = self.kick_again(&call, &mut kick, expired);
            if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.call.id == call.id) {
                waiting.what = What::Kick(kick);
            }
            return outcome;
        }
        self.answer_to(self.waiting.get(index)?, expired)
    }

    fn answer_to(&self, waiting: &Waiting, expired: bool) -> Option<Outcome> {
        let revents: Vec<i16> = waiting.entries().iter().map(|entry| self.events(entry)).collect();
        if revents.iter().all(|events| *events == 0) && !expired {
            return None;
        }
        // Read or not: the answer is the thread's, as long as it waits.
        if !self.listener.waits(waiting.call.id) {
            return Some(Outcome::from(Errno::EINTR));
        }
        Some(match &waiting.what {
            What::Select(entries, len) => self.answer_select(&waiting.call, entries, &revents, *len),
            _ => answer_poll(&waiting.call, &revents),
        })
    }

    /// What `poll` says of a descriptor.
    fn events(&self, entry: &Entry) -> i16 {
        let always = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        if entry.number < 0 {
            return 0;
        }
        if let Some(ring) = entry.ring.and_then(|cookie| self.rings.get(&cookie)) {
            return ring.control().map_or(0, |control| readiness::mask(&ring.endpoint, control))
                & (entry.events | always);
        }
        let Some(file) = &entry.file else { return libc::POLLNVAL };
        let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: entry.events, revents: 0 };
        // SAFETY: one entry, no waiting.
        unsafe { libc::poll(&raw mut poll, 1, 0) };
        poll.revents
    }

    fn answer_select(&self, call: &Call, entries: &[Entry], revents: &[i16], len: usize) -> Outcome {
        if revents.iter().any(|events| events & libc::POLLNVAL != 0) {
            return Outcome::from(Errno::EBADF);
        }
        let mut count = 0;
        let wanted = [libc::POLLIN, libc::POLLOUT, libc::POLLPRI];
        for ((at, wanted), shown) in call.args[1..4].iter().zip(wanted).zip([READ, WRITE, libc::POLLPRI]) {
            if *at == 0 {
                continue;
            }
            let mut set = vec![0u8; len];
            for (entry, events) in entries.iter().zip(revents) {
                if entry.events & wanted != 0
                    && events & shown != 0
                    && let Some(byte) = set.get_mut(entry.number as usize / 8)
                {
                    *byte |= 1 << (entry.number % 8);
                    count += 1;
                }
            }
            if let Err(error) = client::write(call.tid, *at, &set) {
                return Outcome::from(error);
            }
        }
        Outcome::Value(count)
    }
}

fn answer_poll(call: &Call, revents: &[i16]) -> Outcome {
    let spans: Vec<Span> = (0..revents.len() as u64).map(|i| Span { at: call.args[0] + 8 * i + 6, len: 2 }).collect();
    for (spans, revents) in spans.chunks(client::MOST_VECTORS).zip(revents.chunks(client::MOST_VECTORS)) {
        let bytes: Vec<u8> = revents.iter().flat_map(|events| events.to_ne_bytes()).collect();
        if let Err(error) = client::scatter(call.tid, spans, &bytes) {
            return Outcome::from(error);
        }
    }
    Outcome::Value(revents.iter().filter(|events| **events != 0).count() as i64)
}

fn two(tid: u32, at: u64) -> Result<(u64, u64), Errno> {
    let bytes = client::read(tid, at, 16)?;
    Ok((client::long(&bytes, 0), client::long(&bytes, 1)))
}

/// `EINVAL` is the kernel's to say.
fn timespec(tid: u32, at: u64) -> Result<Option<Duration>, Errno> {
    match two(tid, at)? {
        (seconds, nanos) if seconds < 1 << 62 && nanos < 1_000_000_000 => {
            Ok(Some(Duration::new(seconds, nanos as u32)))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn timeval(tid: u32, at: u64) -> Result<Option<Duration>, Errno> {
    match two(tid, at)? {
        (seconds, micros) if seconds < 1 << 62 && micros < 1_000_000 => {
            Ok(Some(Duration::new(seconds, micros as u32 * 1000)))
        }
        _ => Err(Errno::EINVAL),
    }
}
