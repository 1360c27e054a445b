//! The workers, seen from the front: which there are, what was asked of them, and that none of them can hold the front up.
//!
//! A request is a packet and what shall happen with its answer. Packets that find no room are queued here, within bounds. One
//! thread takes in what workers say; it waits for none of them. A worker that is silent although something was asked of it is
//! pinged, and killed when it does not answer: it may be stopped, or in its client's hands.

mod listening;
mod one;
mod paying;
mod turns;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cuse_rs::{Caller, Errno};
use nix::errno::Errno as Os;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::caller::Place;
use super::limits::{Exceeded, Ledger};
use super::worker::spawner::Spawner;
use super::worker::wire::{self, Head, Packet, op};

/// Workers together, and of one user.
const MOST: usize = 512;
const MOST_OF_UID: usize = 64;
/// A worker nobody uses is kept so long.
const IDLE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
/// Packets taken from one worker before the next has its turn.
const PACKETS: usize = 64;

const STOP: u64 = 0;
const TIME: u64 = 1;
const SPAWNER: u64 = 2;
const TURNS: u64 = 3;
const FIRST: u64 = 16;

use one::Silence;
pub use one::Worker;
use turns::Turns;

/// What happens with an answer.
pub type Then = Box<dyn FnOnce(Result<Packet, Errno>) + Send>;

/// A request that could not be made: what it was for, and why.
pub type Unasked = (Then, Errno);

/// Those whose sockets live in workers: the open files, by their handles.
pub trait Residents: Send + Sync {
    /// A worker says that something has come for `who` (`worker::open::ready`).
    fn woken(&self, handle: u64, worker: u64, who: u64);

    /// A worker has let messages pass that are to be judged.
    fn heard(&self, handle: u64, worker: u64, notes: &[u8]);

    /// A worker is no more: how many have lived there.
    fn lost(&self, worker: u64) -> usize;

    /// Nothing is told any more.
    fn forget(&self);
}

/// Why there is no worker for somebody.
#[derive(Debug, thiserror::Error)]
pub enum NoWorker {
    #[error("{0} workers, of this user or of all, are the most that there are")]
    Many(usize),
    #[error("its worker would exceed {0}")]
    Exceeds(Exceeded),
    #[error("no worker at its place: {0}")]
    Failed(Errno),
}

impl From<Errno> for NoWorker {
    fn from(errno: Errno) -> NoWorker {
        NoWorker::Failed(errno)
    }
}

impl From<NoWorker> for Errno {
    fn from(why: NoWorker) -> Errno {
        match why {
            NoWorker::Many(_) => Errno::EAGAIN,
            NoWorker::Exceeds(limit) => limit.errno(),
            NoWorker::Failed(errno) => errno,
        }
    }
}

/// The right to live in a worker.
pub struct Lodging {
    pub worker: Arc<Worker>,
    workers: Arc<Workers>,
}

impl Drop for Lodging {
    fn drop(&mut self) {
        if self.worker.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            *lock(&self.worker.idle_since) = Some(Instant::now());
            self.workers.tick_on();
        }
    }
}

impl Lodging {
    pub fn is_in(&self, number: u64) -> bool {
        self.worker.number == number
    }
}

#[derive(Default)]
struct Table {
    by_place: HashMap<Place, Arc<Worker>>,
    by_number: HashMap<u64, Arc<Worker>>,
}

/// All workers.
pub struct Workers {
    spawner: Spawner,
    epoll: Epoll,
    stop: EventFd,
    timer: TimerFd,
    ticking: AtomicBool,
    turns: Mutex<Turns>,
    /// Fires when a turn is overdue.
    turns_timer: TimerFd,
    table: Mutex<Table>,
    residents: Arc<dyn Residents>,
    ledger: Arc<Ledger>,
    next: AtomicU64,
    spawner_ended: AtomicBool,
    /// Why a client's control group was not charged for its rings, the first time that there was a reason.
    unpaid: OnceLock<String>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const GONE: Errno = Errno::new(libc::ENOTCONN);

impl Workers {
    pub fn new(spawner: Spawner, residents: Arc<dyn Residents>, ledger: Arc<Ledger>) -> io::Result<Arc<Workers>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let timer = || TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK);
        let (timer, turns_timer) = (timer()?, timer()?);
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIME))?;
        epoll.add(&turns_timer, EpollEvent::new(EpollFlags::EPOLLIN, TURNS))?;
        epoll.add(spawner.channel(), EpollEvent::new(EpollFlags::EPOLLIN, SPAWNER))?;
        Ok(Arc::new(Workers {
            spawner,
            epoll,
            stop,
            timer,
            ticking: AtomicBool::new(false),
            turns: Mutex::new(Turns::new(thread::available_parallelism().map_or(1, usize::from))),
            turns_timer,
            table: Mutex::default(),
            residents,
            ledger,
            next: AtomicU64::new(FIRST),
            spawner_ended: AtomicBool::new(false),
            unpaid: OnceLock::new(),
        }))
    }

    /// A number that no request has had.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A worker at this place, which the caller is in, and waits there for its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub fn lodge(self: &Arc<Workers>, place: &Place, caller: &Caller) -> Result<Lodging, NoWorker> {
        let mut table = lock(&self.table);
        let worker = match table.by_place.get(place) {
            Some(worker) => worker.clone(),
            None => {
                if table.most_reached(place).is_some() {
                    self.retire(&mut table, Duration::ZERO);
                }
                if let Some(most) = table.most_reached(place) {
                    return Err(NoWorker::Many(most));
                }
                let worker = Arc::new(self.make(place, caller)?);
                table.by_place.insert(place.clone(), worker.clone());
                table.by_number.insert(worker.number, worker.clone());
                worker
            }
        };
        worker.users.fetch_add(1, Ordering::AcqRel);
        *lock(&worker.idle_since) = None;
        Ok(Lodging { worker, workers: self.clone() })
    }

    fn make(&self, place: &Place, caller: &Caller) -> Result<Worker, NoWorker> {
        let ticket = self.ledger.worker(place.who.uids[1]).map_err(NoWorker::Exceeds)?;
        let os = |error: Os| Errno::new(error as i32);
        let (front, back) = wire::channel().map_err(os)?;
        wire::tell_pid(&front).map_err(os)?;
        let namespaces = place.namespaces(caller).map_err(Errno::from)?;
        self.spawner.order(&place.who, back.as_fd(), &namespaces).map_err(os)?;
        let number = self.number();
        self.epoll.add(&front, EpollEvent::new(EpollFlags::EPOLLIN, number)).map_err(os)?;
        Ok(Worker::new(number, place.clone(), front, ticket))
    }

    /// Sends workers home that nobody has used for `time`.
    fn retire(&self, table: &mut Table, time: Duration) {
        let idle: Vec<Arc<Worker>> = table.by_number.values().filter(|worker| worker.is_idle(time)).cloned().collect();
        for worker in idle {
            table.forget(&worker);
            self.dismiss(&worker);
        }
    }

    /// Nothing of this worker is listened to any more; it ends at the end of its channel. One that its client has stopped would not.
    fn dismiss(&self, worker: &Worker) {
        let _ = self.epoll.delete(&worker.channel);
        let _ = nix::sys::socket::shutdown(worker.channel.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        worker.kill();
    }

    /// From now on time is looked at, as long as there is a reason.
    fn tick_on(&self) {
        if !self.ticking.swap(true, Ordering::SeqCst) {
            let tick = Expiration::OneShot(TimeSpec::from_duration(TICK));
            let _ = self.timer.set(tick, TimerSetTimeFlags::empty());
        }
    }

    fn tick(&self) {
        let _ = self.timer.wait();
        self.ticking.store(false, Ordering::SeqCst);
        let mut table = lock(&self.table);
        self.retire(&mut table, IDLE);
        let workers: Vec<Arc<Worker>> = table.by_number.values().cloned().collect();
        drop(table);
        let mut reason = false;
        for worker in workers {
            reason |= lock(&worker.idle_since).is_some();
            // Where the kernel had no memory to tell when there is room.
            if worker.has_queued() {
                worker.send_queued(&self.epoll);
            }
            if !lock(&worker.asked).requests.is_empty() {
                reason = true;
                self.look_after(&worker);
            }
        }
        if reason {
            self.tick_on();
        }
    }

    /// Something was asked of this worker, and is not answered yet.
    fn look_after(&self, worker: &Worker) {
        let now = Instant::now();
        let silence = lock(&worker.heard).silence(now);
        match silence {
            Silence::Nothing => {}
            Silence::Kill => {
                tracing::warn!(uid = worker.place.who.uids[1], "a worker does not answer: it is killed");
                worker.kill();
            }
            Silence::Ping => {
                let ping = Head { op: op::PING, ..Head::default() };
                // Without room it has not even taken in what it was asked before. After any other failure it is asked at the next look.
                if matches!(wire::send(worker.channel.as_fd(), &ping, &[], &[]), Ok(()) | Err(Os::EAGAIN)) {
                    lock(&worker.heard).pinged = Some(now);
                }
            }
        }
    }
}

impl Table {
    /// Which number of workers stands in the way of one more.
    fn most_reached(&self, place: &Place) -> Option<usize> {
        let uid = place.who.uids[1];
        let of_uid = self.by_number.values().filter(|worker| worker.place.who.uids[1] == uid).count();
        [(self.by_number.len(), MOST), (of_uid, MOST_OF_UID)]
            .into_iter()
            .find_map(|(there, most)| (there >= most).then_some(most))
    }

    fn forget(&mut self, worker: &Worker) {
        self.by_number.remove(&worker.number);
        if self.by_place.get(&worker.place).is_some_and(|there| there.number == worker.number) {
            self.by_place.remove(&worker.place);
        }
    }
}
