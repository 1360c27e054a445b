//! One worker: what it was asked, what it is still to be told, and whether it lives.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cuse_rs::Errno;
use nix::errno::Errno as Os;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::{Then, Unasked, Workers, lock};
use crate::serve::caller::Place;
use crate::serve::limits::WorkerTicket;
use crate::serve::worker::wire::{self, Head, op};

/// One that was asked something is heard of within this time, or else pinged; and then within that time, or else killed.
const SILENCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// What is queued for one worker at most.
const QUEUED: usize = 4096;
const QUEUED_BYTES: usize = 8 << 20;

struct Out {
    head: Head,
    bytes: Vec<u8>,
    fds: Vec<Arc<OwnedFd>>,
}

#[derive(Default)]
pub struct Queue {
    packets: VecDeque<Out>,
    bytes: usize,
}

#[derive(Default)]
pub struct Asked {
    /// The worker is gone, or has not come to be, and why: nothing is asked of it any more.
    pub closed: Option<Errno>,
    pub requests: HashMap<u64, Then>,
}

/// What there was of a worker that was asked something.
pub struct Heard {
    pub last: Instant,
    /// When it was asked whether it lives, if it has said nothing since.
    pub pinged: Option<Instant>,
}

/// What its silence asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Silence {
    Nothing,
    Ping,
    Kill,
}

impl Heard {
    /// It has said something.
    pub fn note(&mut self) {
        *self = Heard { last: Instant::now(), pinged: None };
    }

    /// Whoever could not be asked is not judged by the answer: time counts from the question.
    pub fn silence(&self, now: Instant) -> Silence {
        match self.pinged {
            Some(since) if now.duration_since(since) >= PATIENCE => Silence::Kill,
            None if now.duration_since(self.last) >= SILENCE => Silence::Ping,
            _ => Silence::Nothing,
        }
    }
}

/// A worker.
pub struct Worker {
    pub(super) number: u64,
    pub place: Place,
    pub(super) channel: OwnedFd,
    pub(super) asked: Mutex<Asked>,
    pub(super) queue: Mutex<Queue>,
    pub(super) heard: Mutex<Heard>,
    /// Open files that live here, or are on their way. Raised under the table's lock only.
    pub(super) users: AtomicUsize,
    pub(super) idle_since: Mutex<Option<Instant>>,
    pub(super) process: OnceLock<OwnedFd>,
    /// Its number, for people; 0 as long as it is not known.
    pid: AtomicU32,
    /// It has become its client: from now on its words may be the client's.
    pub(super) works: AtomicBool,
    _ticket: WorkerTicket,
}

impl Worker {
    pub(super) fn new(number: u64, place: Place, channel: OwnedFd, ticket: WorkerTicket) -> Worker {
        Worker {
            number,
            place,
            channel,
            asked: Mutex::default(),
            queue: Mutex::default(),
            heard: Mutex::new(Heard { last: Instant::now(), pinged: None }),
            users: AtomicUsize::new(0),
            idle_since: Mutex::new(None),
            process: OnceLock::new(),
            pid: AtomicU32::new(0),
            works: AtomicBool::new(false),
            _ticket: ticket,
        }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether something can be asked of it.
    pub fn is_alive(&self) -> bool {
        lock(&self.asked).closed.is_none()
    }

    pub(super) fn is_idle(&self, time: Duration) -> bool {
        self.users.load(Ordering::Acquire) == 0
            && lock(&self.idle_since).is_some_and(|since| since.elapsed() >= time)
            && lock(&self.asked).requests.is_empty()
    }

    /// Asks something. Does not wait.
    pub fn ask(
        &self,
        workers: &Workers,
        head: Head,
        bytes: Vec<u8>,
        fds: Vec<Arc<OwnedFd>>,
        then: Then,
    ) -> Result<(), Unasked> {
        let id = head.id;
        {
            let mut asked = lock(&self.asked);
            if let Some(errno) = asked.closed {
                return Err((then, errno));
            }
            if asked.requests.is_empty() {
                // It had nothing to say until now.
                lock(&self.heard).last = Instant::now();
            }
            asked.requests.insert(id, then);
        }
        workers.tick_on();
        let must = !matches!(head.op, op::IOCTL | op::READ | op::WRITE | op::POLL);
        match self.send(&workers.epoll, Out { head, bytes, fds }, must) {
            Ok(()) => Ok(()),
            // None: it is dead, and whoever buried it has answered.
            Err(errno) => match lock(&self.asked).requests.remove(&id) {
                Some(then) => Err((then, errno)),
                None => Ok(()),
            },
        }
    }

    /// Says something that has no answer. Of those there are no more than of requests and turns, so that each finds room.
    pub fn say(&self, workers: &Workers, head: Head) {
        let _ = self.send(&workers.epoll, Out { head, bytes: Vec::new(), fds: Vec::new() }, true);
    }

    fn send(&self, epoll: &Epoll, out: Out, must: bool) -> Result<(), Errno> {
        let mut queue = lock(&self.queue);
        if queue.packets.is_empty() {
            match self.send_now(&out) {
                Ok(()) => return Ok(()),
                Err(Os::EAGAIN | Os::ENOBUFS | Os::ENOMEM) => {}
                // Its end is found, and told, by whoever listens.
                Err(Os::EPIPE | Os::ECONNRESET) => return Ok(()),
                Err(error) => return Err(Errno::new(error as i32)),
            }
            let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
            let _ = epoll.modify(&self.channel, &mut EpollEvent::new(events, self.number));
        }
        if !must && (queue.packets.len() >= QUEUED || queue.bytes + out.bytes.len() > QUEUED_BYTES) {
            return Err(Errno::ENOBUFS);
        }
        queue.bytes += out.bytes.len();
        queue.packets.push_back(out);
        Ok(())
    }

    fn send_now(&self, out: &Out) -> Result<(), Os> {
        let fds: Vec<_> = out.fds.iter().map(AsFd::as_fd).collect();
        wire::send(self.channel.as_fd(), &out.head, &out.bytes, &fds)
    }

    pub(super) fn has_queued(&self) -> bool {
        !lock(&self.queue).packets.is_empty()
    }

    /// What there is room for now. Who asked what can never be sent is told so.
    pub(super) fn send_queued(&self, epoll: &Epoll) {
        let mut unsent = Vec::new();
        let mut queue = lock(&self.queue);
        while let Some(out) = queue.packets.front() {
            match self.send_now(out) {
                Err(Os::EAGAIN | Os::ENOBUFS | Os::ENOMEM) => break,
                // The end of the channel is heard elsewhere.
                Ok(()) | Err(Os::EPIPE | Os::ECONNRESET) => {}
                Err(error) => unsent.push((out.head.id, Errno::new(error as i32))),
            }
            let len = out.bytes.len();
            queue.bytes -= len;
            queue.packets.pop_front();
        }
        if queue.packets.is_empty() {
            let _ = epoll.modify(&self.channel, &mut EpollEvent::new(EpollFlags::EPOLLIN, self.number));
        }
        drop(queue);
        for (id, errno) in unsent {
            let then = lock(&self.asked).requests.remove(&id);
            if let Some(then) = then {
                then(Err(errno));
            }
        }
    }

    /// Its process id, told by the kernel. That it is still its own is seen from the channel, which would have ended with it.
    ///
    /// # Errors
    /// It lives, and there is nothing to kill it by once its client stops it.
    pub(super) fn introduce(&self, pid: i32) -> Result<(), Errno> {
        // SAFETY: numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
        if fd < 0 {
            return match Os::last() {
                // Its end is found, and told, by whoever listens.
                Os::ESRCH => Ok(()),
                error => Err(Errno::new(error as i32)),
            };
        }
        // SAFETY: the kernel has just made it.
        let process = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut entry = libc::pollfd { fd: self.channel.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one entry, no waiting.
        unsafe { libc::poll(&raw mut entry, 1, 0) };
        if entry.revents & libc::POLLHUP == 0 {
            let _ = self.process.set(process);
            self.pid.store(pid.cast_unsigned(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    pub(super) fn kill(&self) {
        if let Some(process) = self.process.get() {
            // SAFETY: a pidfd, a signal, no more.
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, 0, 0) };
        } else {
            let _ = nix::sys::socket::shutdown(self.channel.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that could not be asked, or was asked long after it had last said something, was killed for its silence.
    #[test]
    fn time_to_answer_counts_from_the_question() {
        let last = Instant::now();
        let mut heard = Heard { last, pinged: None };
        let seconds = |seconds| last + Duration::from_secs(seconds);
        assert_eq!(heard.silence(seconds(4)), Silence::Nothing);
        assert_eq!([heard.silence(seconds(5)), heard.silence(seconds(60))], [Silence::Ping, Silence::Ping]);
        heard.pinged = Some(seconds(60));
        assert_eq!([heard.silence(seconds(69)), heard.silence(seconds(70))], [Silence::Nothing, Silence::Kill]);
        heard.note();
        assert_eq!(heard.silence(heard.last), Silence::Nothing);
    }
}
