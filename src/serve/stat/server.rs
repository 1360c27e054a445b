//! The control socket: one question at a time, each for a bounded time, and none in the way of the end.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cuse_rs::Observer;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::SockType;

use super::snapshot;
use crate::serve::device::Netlink;
use crate::serve::local;

/// A client that connects and does not read gets no more than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// The control socket. Dropped, it is gone.
pub struct Server {
    path: PathBuf,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`, which nobody else serves: the caller holds the daemon's lock, so a socket that lies there is
    /// stale.
    pub fn start(path: &Path, name: &str, device: Arc<Netlink>, session: Observer) -> io::Result<Server> {
        local::clear(path)?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let listener = local::listen(path, SockType::Stream, None)?;
        let (stopped, name) = (stop.clone(), name.to_owned());
        // From here on the file goes with it.
        let mut server = Server { path: path.into(), stop, thread: None };
        let thread = thread::Builder::new().name("control".into()).spawn(move || {
            while ready(&listener, PollFlags::POLLIN, &stopped, None) {
                match listener.accept().and_then(|(stream, _)| {
                    let text = serde_json::to_vec(&snapshot(&name, &device, &session))?;
                    answer(&stream, &stopped, text)
                }) {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::debug!(%error, "control socket");
                        // Without descriptors to accept with, this would come at once again.
                        if error.raw_os_error().is_some_and(|error| error == libc::EMFILE || error == libc::ENFILE) {
                            thread::sleep(Duration::from_millis(100));
                        }
                    }
                }
            }
        })?;
        server.thread = Some(thread);
        Ok(server)
    }
}

/// Waits for an event, until a time. False when it has passed, or the end has come.
fn ready(fd: &impl AsFd, events: PollFlags, stop: &EventFd, until: Option<Instant>) -> bool {
    loop {
        let timeout = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
            }
        };
        let mut fds = [PollFd::new(fd.as_fd(), events), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Err(_) | Ok(0) => return false,
            Ok(_) => return !fds.get(1).and_then(PollFd::any).unwrap_or(false),
        }
    }
}

fn answer(stream: &UnixStream, stop: &EventFd, mut text: Vec<u8>) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    text.push(b'\n');
    let (mut rest, mut to, until) = (text.as_slice(), stream, Instant::now() + PATIENCE);
    while !rest.is_empty() && ready(stream, PollFlags::POLLOUT, stop, Some(until)) {
        match to.write(rest) {
            Ok(len) => rest = rest.get(len..).unwrap_or_default(),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        // Never read, so that it stays.
        let _ = self.stop.write(1);
        local::remove(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
