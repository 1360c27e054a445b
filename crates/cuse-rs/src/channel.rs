//! One connection to the kernel: requests in, replies and notifications out, until it is closed.
//!
//! Replies outlive sessions: a daemon may hold one while the session ends. The device must vanish
//! at once then, so the channel closes its fd under a lock, and later answers find it gone.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use zerocopy::IntoBytes;

use crate::Errno;
use crate::deadlines::Deadlines;
use crate::fd::{self, Received};
use crate::protocol::abi::{NotifyPollWakeupOut, OutHeader};
use crate::protocol::opcode;

/// What is called when the caller of a request was interrupted.
pub(crate) type Hook = Box<dyn FnOnce() + Send>;

enum Hooks {
    /// Nobody wants to know of an interrupt (yet).
    Plain,
    Hooked(Hook),
    /// The interrupt has come.
    Interrupted,
}

struct Waiting {
    hooks: Hooks,
    /// When it is given up, if ever.
    until: Option<Instant>,
}

pub(crate) struct Channel {
    fd: RwLock<Option<OwnedFd>>,
    /// Set by the session that keeps them.
    deadlines: OnceLock<Arc<Deadlines>>,
    /// Requests that were read and not answered, by their id.
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// Locks, also after a panic elsewhere: every critical section of the crate leaves its data whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> io::Error {
    io::Error::from(Errno::ENODEV)
}

impl Channel {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd: RwLock::new(Some(fd)), deadlines: OnceLock::new(), waiting: Mutex::default() }
    }

    /// From now on replies can be given up at a time.
    pub(crate) fn keep_deadlines(&self, deadlines: Arc<Deadlines>) {
        // Set once: a channel has one session.
        let _ = self.deadlines.set(deadlines);
    }

    /// Calls `f` with the fd, unless the channel is closed.
    pub(crate) fn with_fd<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        let fd = self.fd.read().unwrap_or_else(PoisonError::into_inner);
        f(fd.as_ref().ok_or_else(gone)?.as_fd())
    }

    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.with_fd(|fd| fd::receive(fd, buffer))
    }

    /// Answers a request with success and the given body.
    pub(crate) fn reply(&self, unique: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.send(unique, 0, parts)
    }

    /// Answers a request with an error.
    pub(crate) fn reply_error(&self, unique: u64, errno: Errno) -> io::Result<()> {
        self.send(unique, -errno.number(), &[])
    }

    /// Wakes whoever polls the open file with this kernel handle. The kernel looks the handle up
    /// and never gives one out twice, so one of a closed file is harmless.
    pub(crate) fn notify_poll(&self, kh: u64) -> io::Result<()> {
        self.send(0, opcode::NOTIFY_POLL, &[NotifyPollWakeupOut { kh }.as_bytes()])
    }

    fn send(&self, unique: u64, error: i32, parts: &[&[u8]]) -> io::Result<()> {
        debug_assert!(parts.len() <= 2);
        let body: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(size_of::<OutHeader>() + body).map_err(|_| io::Error::from(Errno::EMSGSIZE))?;
        let header = OutHeader { len, error, unique };
        let mut slices = [IoSlice::new(&[]); 3];
        slices[0] = IoSlice::new(header.as_bytes());
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        self.with_fd(|fd| fd::send(fd, &slices))
    }

    /// From now on an interrupt of this request finds it.
    pub(crate) fn expect_answer(&self, unique: u64) {
        lock(&self.waiting).insert(unique, Waiting { hooks: Hooks::Plain, until: None });
    }

    /// The request is about to be answered; interrupts no longer find it.
    pub(crate) fn answered(&self, unique: u64) {
        let forgotten = lock(&self.waiting).remove(&unique);
        if let (Some(Waiting { until: Some(at), .. }), Some(deadlines)) = (&forgotten, self.deadlines.get()) {
            deadlines.remove(*at, unique);
        }
        // A hook may own things whose drop locks: never under our lock.
        drop(forgotten);
    }

    /// Sets what an interrupt of this request calls; at once when it has come already.
    pub(crate) fn on_interrupt(&self, unique: u64, hook: Hook) {
        let mut waiting = lock(&self.waiting);
        match waiting.get_mut(&unique).map(|waiting| &mut waiting.hooks) {
            Some(Hooks::Interrupted) => {
                drop(waiting);
                hook();
            }
            Some(hooks) => {
                let old = std::mem::replace(hooks, Hooks::Hooked(hook));
                drop(waiting);
                drop(old);
            }
            None => {}
        }
    }

    pub(crate) fn is_interrupted(&self, unique: u64) -> bool {
        matches!(lock(&self.waiting).get(&unique), Some(Waiting { hooks: Hooks::Interrupted, .. }))
    }

    /// An interrupt for `unique` has arrived as request `interrupt`.
    ///
    /// When the request is not here, another thread has read it and not yet noted it, or is just
    /// answering it: `EAGAIN` makes the kernel ask again as long as the request is unanswered.
    pub(crate) fn interrupt(&self, interrupt: u64, unique: u64) {
        if !self.give_up(unique) {
            // ENOENT here means that it was answered in between.
            let _ = self.reply_error(interrupt, Errno::EAGAIN);
        }
    }

    /// Does with an unanswered request what an interrupt does. False when it is not here.
    pub(crate) fn give_up(&self, unique: u64) -> bool {
        let mut waiting = lock(&self.waiting);
        let Some(request) = waiting.get_mut(&unique) else {
            return false;
        };
        let old = std::mem::replace(&mut request.hooks, Hooks::Interrupted);
        drop(waiting);
        if let Hooks::Hooked(hook) = old {
            hook();
        }
        true
    }

    /// At this time an unanswered request is given up.
    pub(crate) fn give_up_at(&self, unique: u64, at: Instant) {
        let mut waiting = lock(&self.waiting);
        if let (Some(request), Some(deadlines)) = (waiting.get_mut(&unique), self.deadlines.get())
            && request.until.is_none()
        {
            request.until = Some(at);
            deadlines.add(at, unique);
        }
    }

    /// Requests read and not answered.
    pub(crate) fn unanswered(&self) -> usize {
        lock(&self.waiting).len()
    }

    /// Ends the connection: the kernel fails what is unanswered, and the device is gone on return.
    pub(crate) fn close(&self) {
        let fd = self.fd.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(fd);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        drop(waiting);
    }
}
