//! The thread that answers.
//!
//! A client may be slow, may never read, may come a thousand times at once: each connection has a time to be over in, and there
//! are so many of them at most; for one more the oldest goes. A text is made once a second at most, and there are so many of them
//! at most. What the thread looks at is what `nlmmap stat` looks at: no message waits for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cuse_rs::Observer;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};

use super::Listener;
use super::http::{self, Answer};
use crate::see::prometheus;
use crate::serve::device::Netlink;
use crate::serve::stat::snapshot;

/// A connection is over by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// At a time.
const CONNECTIONS: usize = 16;
/// A text is of now for so long.
const FRESH: Duration = Duration::from_secs(1);
/// Texts that are still being sent, at a time.
const TEXTS: usize = 3;
/// What a client may go on to send when it has its answer: closing at once would take that away from it.
const IGNORED: usize = 1 << 20;

/// See the module. Dropped, it has ended.
pub struct Server {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers whoever connects.
    ///
    /// # Errors
    /// Threads or descriptors that cannot be had.
    pub fn start(listener: Listener, name: &str, device: Arc<Netlink>, session: Observer) -> io::Result<Server> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let at = listener.at().to_owned();
        let text = Text { name: name.to_owned(), device, session, last: None, sent: Vec::new() };
        let mut all = All { listener, stop: stop.clone(), connections: Vec::new(), text };
        let thread = thread::Builder::new().name("metrics".into()).spawn(move || while all.turn() {})?;
        tracing::info!(at, "metrics");
        Ok(Server { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Never read, so that it stays.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The metrics as they were a moment ago.
struct Text {
    name: String,
    device: Arc<Netlink>,
    session: Observer,
    last: Option<Made>,
    sent: Vec<Weak<[u8]>>,
}

#[derive(Clone)]
struct Made {
    at: Instant,
    bytes: Arc<[u8]>,
    head: usize,
}

impl Text {
    fn now(&mut self) -> Made {
        self.sent.retain(|text| text.strong_count() > 0);
        if let Some(last) = &self.last
            && (last.at.elapsed() < FRESH || self.sent.len() >= TEXTS)
        {
            return last.clone();
        }
        let text = prometheus::text(Some(&snapshot(&self.name, &self.device, &self.session)), std::iter::empty());
        let (bytes, head) = http::metrics(&text);
        let made = Made { at: Instant::now(), bytes: bytes.into(), head };
        self.sent.push(Arc::downgrade(&made.bytes));
        self.last = Some(made.clone());
        made
    }

    fn reply(&mut self, answer: Answer) -> Step {
        let (bytes, len) = match answer {
            Answer::Metrics(head) => {
                let made = self.now();
                let len = if head { made.head } else { made.bytes.len() };
                (made.bytes, len)
            }
            Answer::Refusal(status, more, text) => {
                let bytes: Arc<[u8]> = http::refusal(status, more, text).into();
                let len = bytes.len();
                (bytes, len)
            }
        };
        Step::Writing { bytes, len, done: 0 }
    }
}

enum Step {
    Reading(Vec<u8>),
    Writing {
        bytes: Arc<[u8]>,
        len: usize,
        done: usize,
    },
    /// It has its answer; bytes of what else it may send.
    Ending(usize),
}

struct Connection {
    fd: OwnedFd,
    until: Instant,
    step: Step,
}

impl Connection {
    fn events(&self) -> PollFlags {
        match self.step {
            Step::Writing { .. } => PollFlags::POLLOUT,
            Step::Reading(_) | Step::Ending(_) => PollFlags::POLLIN,
        }
    }

    /// Goes on. Whether there is more to come.
    fn go_on(&mut self, text: &mut Text) -> nix::Result<bool> {
        match &mut self.step {
            Step::Reading(head) => {
                let mut part = [0; http::HEAD];
                let room = part.get_mut(..http::HEAD - head.len()).unwrap_or_default();
                let got = recv(self.fd.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT)?;
                head.extend_from_slice(room.get(..got).unwrap_or_default());
                if let Some(answer) = http::judge(head) {
                    self.step = text.reply(answer);
                } else if got == 0 {
                    return Ok(false);
                }
            }
            Step::Writing { bytes, len, done } => {
                let rest = bytes.get(*done..*len).unwrap_or_default();
                *done += send(self.fd.as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
                if done >= len {
                    shutdown(self.fd.as_raw_fd(), Shutdown::Write)?;
                    self.step = Step::Ending(IGNORED);
                }
            }
            Step::Ending(left) => {
                let mut part = [0; http::HEAD];
                match recv(self.fd.as_raw_fd(), &mut part, MsgFlags::MSG_DONTWAIT)? {
                    0 => return Ok(false),
                    got => *left = left.saturating_sub(got),
                }
                return Ok(*left > 0);
            }
        }
        Ok(true)
    }
}

struct All {
    listener: Listener,
    stop: Arc<EventFd>,
    /// The oldest first.
    connections: Vec<Connection>,
    text: Text,
}

impl All {
    /// Waits for something to do, and does it. Whether to go on.
    fn turn(&mut self) -> bool {
        let soonest = self.connections.iter().map(|connection| connection.until).min();
        let timeout = soonest.map_or(PollTimeout::NONE, |until| {
            // A millisecond more: it has passed then.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut fds =
            vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.fd(), PollFlags::POLLIN)];
        fds.extend(self.connections.iter().map(|c| PollFd::new(c.fd.as_fd(), c.events())));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "metrics are served no more");
                return false;
            }
        }
        let is_ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut is_ready = is_ready.into_iter();
        let (stopped, comes) = (is_ready.next() == Some(true), is_ready.next() == Some(true));
        if stopped {
            return false;
        }
        let (now, text) = (Instant::now(), &mut self.text);
        self.connections.retain_mut(|connection| {
            let goes_on = match is_ready.next() {
                Some(true) => connection.go_on(text),
                _ => Ok(true),
            };
            now < connection.until && matches!(goes_on, Ok(true) | Err(Errno::EAGAIN | Errno::EINTR))
        });
        if comes {
            self.accept();
        }
        true
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok(fd) => {
                if self.connections.len() >= CONNECTIONS {
                    self.connections.remove(0);
                }
                let until = Instant::now() + PATIENCE;
                self.connections.push(Connection { fd, until, step: Step::Reading(Vec::new()) });
            }
            Err(error) => {
                tracing::debug!(%error, "metrics");
                // Without descriptors to accept with, this would come at once again.
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) {
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}
