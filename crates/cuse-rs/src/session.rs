//! Serving: reader threads on one fd, and the orderly end.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::epoll;

use crate::channel::Channel;
use crate::core::{Core, Flow};
use crate::deadlines::Deadlines;
use crate::device::Device;
use crate::error::Error;
use crate::fd::Received;
use crate::fuse::Mount;
use crate::keeper::keep;
use crate::stop::{StopOnDrop, StopToken};

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// [`StopToken::stop`] was called.
    Stopped,
    /// Somebody unmounted the file (open files or not), or the kernel ended the connection.
    Gone,
}

/// What a session holds at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open files.
    pub files: usize,
    /// Requests that were read and are not answered.
    pub unanswered: usize,
    /// Ring files: nodes that the kernel remembers.
    pub nodes: usize,
    /// Ring files: nodes with memory to map.
    pub backings: usize,
}

/// A device that exists and waits to be served. Dropped, it is taken away.
pub struct Session<D: Device> {
    core: Arc<Core<D>>,
    stop: StopToken,
    deadlines: Arc<Deadlines>,
    buffer_len: usize,
    mount: Option<Mount>,
    number: Option<(u32, u32)>,
}

impl<D: Device> Session<D> {
    pub(crate) fn new(
        core: Core<D>,
        buffer_len: usize,
        mount: Option<Mount>,
        number: Option<(u32, u32)>,
    ) -> Result<Self, Error> {
        match Self::parts() {
            Ok((stop, deadlines)) => {
                core.channel.keep_deadlines(deadlines.clone());
                Ok(Self { core: Arc::new(core), stop, deadlines, buffer_len, mount, number })
            }
            Err(error) => {
                // The error that counts is this one.
                let _ = take_away(mount, &core);
                Err(error)
            }
        }
    }

    fn parts() -> Result<(StopToken, Arc<Deadlines>), Error> {
        let stop = StopToken::new().map_err(Error::os("eventfd"))?;
        Ok((stop, Arc::new(Deadlines::new().map_err(Error::os("timerfd"))?)))
    }

    /// What ends the session.
    pub fn stop_token(&self) -> StopToken {
        self.stop.clone()
    }

    /// The device.
    pub fn device(&self) -> &Arc<D> {
        &self.core.device
    }

    /// Major and minor number of a character device, when sysfs is there to tell.
    pub fn device_number(&self) -> Option<(u32, u32)> {
        self.number
    }

    /// What the session holds.
    pub fn stats(&self) -> Stats {
        stats(&self.core)
    }

    /// Tells what the session holds while [`Session::run`] has it.
    pub fn observer(&self) -> Observer {
        let core = self.core.clone();
        Observer(Arc::new(move || stats(&core)))
    }

    /// Serves with this many reader threads (at least one) until the session ends.
    ///
    /// On return the device's node or mount is gone, requests in the kernel have failed, and
    /// [`Device::release`] has been called for every file that was still open.
    ///
    /// # Errors
    ///
    /// What went wrong in reading requests, starting threads or unmounting.
    pub fn run(mut self, threads: usize) -> Result<Ended, Error> {
        let served = self.serve(threads.max(1));
        let finished = self.finish();
        served.and_then(|ended| finished.map(|()| ended))
    }

    /// Serves in the background.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] when the thread could not be started.
    pub fn spawn(self, threads: usize) -> Result<Serving, Error> {
        let (stop, observer) = (self.stop_token(), self.observer());
        let thread = thread::Builder::new()
            .name("cuse-session".into())
            .spawn(move || self.run(threads))
            .map_err(Error::os("starting a thread"))?;
        Ok(Serving { stop, observer, thread: Some(thread) })
    }

    fn serve(&self, threads: usize) -> Result<Ended, Error> {
        thread::scope(|scope| {
            let mut readers = Vec::new();
            let mut result = Ok(Ended::Stopped);
            let keeper = thread::Builder::new().name("cuse-keeper".into()).spawn_scoped(scope, || {
                let _others = StopOnDrop(&self.stop);
                keep(&self.core.channel, &self.deadlines, self.mount.as_ref(), &self.stop)
            });
            match keeper {
                Ok(keeper) => readers.push(keeper),
                Err(error) => return Err(Error::os("starting a thread")(error)),
            }
            for number in 0..threads {
                let reader = thread::Builder::new().name(format!("cuse-reader-{number}")).spawn_scoped(scope, || {
                    // However a reader ends, it takes the others with it: a panicking one too.
                    let _others = StopOnDrop(&self.stop);
                    self.read_requests()
                });
                match reader {
                    Ok(reader) => readers.push(reader),
                    Err(error) => {
                        result = Err(Error::os("starting a reader thread")(error));
                        self.stop.stop();
                        break;
                    }
                }
            }
            for reader in readers {
                match reader.join() {
                    Ok(Ok(Ended::Stopped)) => {}
                    Ok(Ok(Ended::Gone)) => result = result.map(|_| Ended::Gone),
                    Ok(Err(error)) => result = Err(Error::os("reading a request")(error)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            result
        })
    }

    /// One reader. It reads until nothing is waiting, then sleeps. `EPOLLEXCLUSIVE` makes a request
    /// wake one sleeping reader, not all.
    fn read_requests(&self) -> io::Result<Ended> {
        let mut buffer = vec![0; self.buffer_len];
        let sleep = self.sleeper()?;
        let mut events = Vec::with_capacity(2);
        loop {
            if self.stop.is_stopped() {
                return Ok(Ended::Stopped);
            }
            match self.core.channel.receive(&mut buffer)? {
                Received::Request(len) => {
                    let request = buffer.get(..len).unwrap_or_default();
                    if self.core.handle(request) == Flow::End {
                        return Ok(Ended::Gone);
                    }
                }
                Received::Closed => return Ok(Ended::Gone),
                Received::Nothing => {
                    events.clear();
                    let spare = rustix::buffer::spare_capacity(&mut events);
                    match epoll::wait(&sleep, spare, None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }

    fn sleeper(&self) -> io::Result<OwnedFd> {
        let sleep = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        let exclusive = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        self.core.channel.with_fd(|fd| Ok(epoll::add(&sleep, fd, data, exclusive)?))?;
        epoll::add(&sleep, self.stop.as_fd(), data, epoll::EventFlags::IN)?;
        Ok(sleep)
    }

    fn finish(&mut self) -> Result<(), Error> {
        take_away(self.mount.take(), &self.core)
    }
}

/// Takes the device away. The mount goes first: then no new client comes, and those that wait in
/// the kernel fail when the connection closes.
fn take_away<D: Device>(mount: Option<Mount>, core: &Core<D>) -> Result<(), Error> {
    let unmounted = mount.map_or(Ok(()), Mount::unmount);
    core.close();
    unmounted
}

impl<D: Device> Drop for Session<D> {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

impl<D: Device> fmt::Debug for Session<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

fn stats<D: Device>(core: &Core<D>) -> Stats {
    let (nodes, backings) = core.tree.as_ref().map_or((0, 0), |tree| tree.nodes.count());
    Stats { files: core.files.len(), unanswered: core.channel.unanswered(), nodes, backings }
}

/// Tells what a session holds, also when it has ended: nothing then. Cheap to clone.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn() -> Stats + Send + Sync>);

impl Observer {
    /// What the session holds at this moment.
    pub fn stats(&self) -> Stats {
        (self.0)()
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.stats()).finish()
    }
}

/// A session that is served in the background. Dropped, it is stopped.
pub struct Serving {
    stop: StopToken,
    observer: Observer,
    thread: Option<JoinHandle<Result<Ended, Error>>>,
}

impl Serving {
    /// What ends the session.
    pub fn stop_token(&self) -> StopToken {
        self.stop.clone()
    }

    /// What the session holds.
    pub fn stats(&self) -> Stats {
        self.observer.stats()
    }

    /// Whether the session has ended by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the session, and waits until the device is gone.
    ///
    /// # Errors
    ///
    /// As [`Session::run`].
    pub fn stop(self) -> Result<Ended, Error> {
        self.stop.stop();
        self.join()
    }

    /// Waits until the session ends.
    ///
    /// # Errors
    ///
    /// As [`Session::run`].
    pub fn join(mut self) -> Result<Ended, Error> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(Ended::Stopped),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.stop();
            // A panic in the device has been printed; panicking again in a drop would abort.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Waits for the kernel's greeting, which is there as soon as the device or mount is.
pub(crate) fn greeting(channel: &Channel, buffer: &mut [u8]) -> Result<usize, Error> {
    use rustix::event::{PollFd, PollFlags, poll};
    let wait = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    loop {
        let received = channel.receive(buffer).map_err(Error::os("reading the greeting"))?;
        match received {
            Received::Request(len) => return Ok(len),
            Received::Closed => {
                return Err(Error::Protocol { what: "the connection ended".into() });
            }
            Received::Nothing => {}
        }
        let ready = channel
            .with_fd(|fd| Ok(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait))?))
            .map_err(Error::os("waiting for the greeting"))?;
        if ready == 0 {
            return Err(Error::Protocol { what: "nothing came".into() });
        }
    }
}
