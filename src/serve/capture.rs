//! Captures of open files: who has connected to the capture socket gives memory for copies, an open file at a time, and reads it.
//!
//! The socket is root's alone (observing.md, "Capture"). The front hands the memory to the worker that has the open file's socket,
//! and to the next one; what is copied it never sees. When a capture ends, however it ends, its connection does, and nothing
//! is copied any more.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cuse_rs::Errno;
use nix::errno::Errno as Os;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nlmmap_ring::tap;

use super::device::Netlink;
use super::local;
use super::memory;
use super::worker::wire::{self, Head, Receiver, op};

/// Captures at a time, and open files that they capture: each is a descriptor here.
const CAPTURES: usize = 4;
const TAPS: usize = 64;

/// The capture socket of the daemon called `name`.
pub fn socket_of(runtime: &Path, name: &str) -> PathBuf {
    runtime.join(format!("{name}.capture"))
}

/// One that captures.
struct Capture {
    channel: OwnedFd,
    receiver: Receiver,
    handles: Vec<u64>,
}

/// See the module. Dropped, the socket is gone.
pub struct Server {
    path: PathBuf,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`. The caller holds the daemon's lock.
    ///
    /// # Errors
    /// Sockets or threads that cannot be had.
    pub fn start(path: &Path, device: Arc<Netlink>) -> io::Result<Server> {
        local::clear(path)?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let listener = local::listen(path, SockType::SeqPacket, None)?;
        let mut all = All { listener, stop: stop.clone(), device, captures: Vec::new() };
        // From here on the file goes with it.
        let mut server = Server { path: path.into(), stop, thread: None };
        server.thread = Some(thread::Builder::new().name("capture".into()).spawn(move || while all.turn() {})?);
        Ok(server)
    }
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

struct All {
    listener: UnixListener,
    stop: Arc<EventFd>,
    device: Arc<Netlink>,
    captures: Vec<Capture>,
}

impl All {
    /// Waits for something to do, and does it. Whether to go on.
    fn turn(&mut self) -> bool {
        let mut fds = vec![
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.captures.iter().map(|capture| PollFd::new(capture.channel.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Os::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "nothing is captured any more");
                return false;
            }
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut ready = ready.into_iter();
        let (stopped, comes) = (ready.next() == Some(true), ready.next() == Some(true));
        if stopped {
            return false;
        }
        let mut at = 0;
        for is_ready in ready {
            if is_ready && !self.serve(at) {
                self.end(at);
            } else {
                at += 1;
            }
        }
        if comes {
            self.accept();
        }
        true
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            // One more than there may be hears the end at once.
            Ok((stream, _)) if self.captures.len() < CAPTURES => {
                let (channel, receiver) = (stream.into(), Receiver::new());
                self.captures.push(Capture { channel, receiver, handles: Vec::new() });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "capture socket");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// One request of a capture. False at its end.
    fn serve(&mut self, at: usize) -> bool {
        let taps: usize = self.captures.iter().map(|capture| capture.handles.len()).sum();
        let Some(capture) = self.captures.get_mut(at) else { return false };
        let packet = match capture.receiver.receive(capture.channel.as_fd()) {
            Ok(Some(packet)) => packet,
            Err(Os::EAGAIN | Os::EINTR | Os::EBADMSG) => return true,
            Ok(None) | Err(_) => return false,
        };
        let handle = packet.head.handle;
        let done = match (packet.head.op, packet.fds.into_iter().next()) {
            (op::TAP, Some(memory)) if taps < TAPS => begin(&self.device, handle, memory).map(|()| {
                tracing::info!(handle, "captured from now on");
                capture.handles.push(handle);
            }),
            (op::TAP, Some(_)) => Err(Errno::ENFILE),
            (op::TAP, None) => {
                if let Some(place) = capture.handles.iter().position(|tapped| *tapped == handle) {
                    capture.handles.swap_remove(place);
                    end(&self.device, handle);
                }
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        };
        let error = done.err().map_or(0, |errno| errno.number());
        let head = Head { op: op::ANSWER, error, handle, ..Head::default() };
        // Who does not read its answers has captured enough.
        wire::send(capture.channel.as_fd(), &head, &[], &[]).is_ok()
    }

    fn end(&mut self, at: usize) {
        for handle in self.captures.remove(at).handles {
            end(&self.device, handle);
        }
    }
}

fn begin(device: &Netlink, handle: u64, memory: OwnedFd) -> Result<(), Errno> {
    memory::judge(&memory, tap::LEN)?;
    device.files.find(handle).ok_or(Errno::ENOENT)?.tap(Some(memory))
}

fn end(device: &Netlink, handle: u64) {
    if let Some(file) = device.files.find(handle) {
        // Ending is never refused.
        let _ = file.tap(None);
        tracing::info!(handle, "captured no more");
    }
}

/// The capture's end of a connection.
pub struct Channel {
    channel: OwnedFd,
    receiver: Receiver,
}

impl Channel {
    /// Connects to a daemon's capture socket.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(path: &Path) -> io::Result<Channel> {
        let channel = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(channel.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Channel { channel, receiver: Receiver::new() })
    }

    /// Asks for copies of what passes through an open file, or for an end of that.
    ///
    /// # Errors
    /// The daemon's answer; `ECONNRESET` when it is gone, `ETIMEDOUT` when it does not answer.
    pub fn tap(&mut self, handle: u64, memory: Option<&OwnedFd>) -> io::Result<()> {
        let head = Head { op: op::TAP, handle, ..Head::default() };
        let fds: Vec<_> = memory.map(AsFd::as_fd).into_iter().collect();
        wire::send(self.channel.as_fd(), &head, &[], &fds)?;
        let answer = loop {
            if !self.waits_until(Duration::from_secs(5))? {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            match self.receiver.receive(self.channel.as_fd()) {
                Err(Os::EAGAIN | Os::EINTR) => {}
                answer => break answer?,
            }
        };
        match answer.map(|packet| packet.head.error) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error)),
            None => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
        }
    }

    fn waits_until(&self, time: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)) {
                Err(Os::EINTR) => {}
                done => return Ok(done? > 0),
            }
        }
    }

    /// Whether the daemon is still there.
    pub fn is_open(&self) -> bool {
        let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::empty())];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0) | Err(Os::EINTR))
    }
}
