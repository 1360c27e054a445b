//! The backing threads: a few, for any number of endpoints.
//!
//! Each sleeps in `epoll_wait` on all real sockets, which are registered edge triggered: a datagram wakes one thread, which
//! moves it into its ring and tells whoever waits on the node. A socket whose ring is full stays unread; the time keeper
//! looks at it again, at growing distances, since nothing announces that a client has released a frame.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::file::File;

const STOP: u64 = u64::MAX;
const EVENTS: usize = 16;

struct Times {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    stop: bool,
}

/// What the threads share.
pub struct Pool {
    epoll: Epoll,
    stop: EventFd,
    files: RwLock<HashMap<u64, Arc<File>>>,
    times: Mutex<Times>,
    sooner: Condvar,
}

/// The threads; [`Threads::stop`] ends them.
pub struct Threads {
    pool: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub fn new() -> io::Result<Arc<Pool>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let times = Mutex::new(Times { heap: BinaryHeap::new(), stop: false });
        Ok(Arc::new(Pool { epoll, stop, files: RwLock::default(), times, sooner: Condvar::new() }))
    }

    /// Starts `count` pumps and the time keeper.
    pub fn start(self: &Arc<Pool>, count: usize) -> io::Result<Threads> {
        let mut threads = Threads { pool: self.clone(), threads: Vec::new() };
        for number in 0..count.max(1) {
            let pool = self.clone();
            threads.threads.push(thread::Builder::new().name(format!("pump-{number}")).spawn(move || pool.pump())?);
        }
        let pool = self.clone();
        threads.threads.push(thread::Builder::new().name("time-keeper".into()).spawn(move || pool.keep_time())?);
        Ok(threads)
    }

    /// A file is open.
    pub fn add(&self, file: &Arc<File>) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(file.handle, file.clone());
    }

    /// A file has got its socket.
    pub fn watch(&self, handle: u64, socket: impl AsFd) -> Result<(), nix::errno::Errno> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLET;
        self.epoll.add(socket, EpollEvent::new(flags, handle))
    }

    /// A file is closed. Its socket may live on for a moment, in a request that is not over.
    pub fn remove(&self, file: &File) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&file.handle);
        if let Some(socket) = file.socket() {
            // Fails only for one that was never watched.
            let _ = self.epoll.delete(socket.fd());
        }
    }

    /// All open files.
    pub fn files(&self) -> Vec<Arc<File>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn find(&self, handle: u64) -> Option<Arc<File>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a file again after `delay`.
    pub fn later(&self, handle: u64, delay: Duration) {
        let due = Instant::now() + delay;
        let mut times = self.times();
        let first = times.heap.peek().is_none_or(|Reverse((time, _))| due < *time);
        times.heap.push(Reverse((due, handle)));
        if first {
            self.sooner.notify_one();
        }
    }

    fn pump(&self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "epoll_wait failed, a backing thread ends");
                    return;
                }
            };
            for event in events.iter().take(count) {
                if event.data() == STOP {
                    return;
                }
                if let Some(file) = self.find(event.data()) {
                    file.moved(self, event.events().contains(EpollFlags::EPOLLERR));
                }
            }
        }
    }

    fn keep_time(&self) {
        let mut times = self.times();
        while !times.stop {
            let now = Instant::now();
            match times.heap.peek().map(|Reverse(first)| *first) {
                None => times = self.sooner.wait(times).unwrap_or_else(PoisonError::into_inner),
                Some((due, _)) if due > now => {
                    let waited = self.sooner.wait_timeout(times, due - now);
                    times = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Some((_, handle)) => {
                    times.heap.pop();
                    drop(times);
                    if let Some(file) = self.find(handle) {
                        file.timer_fired();
                        file.moved(self, false);
                    }
                    times = self.times();
                }
            }
        }
    }
}

impl Threads {
    /// Ends all threads, and waits for them.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Never read, so that it wakes every thread.
        let _ = self.pool.stop.write(1);
        self.pool.times().stop = true;
        self.pool.sooner.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}
