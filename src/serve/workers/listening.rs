//! The thread that hears what workers say, and of their ends.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cuse_rs::Errno;
use nix::errno::Errno as Os;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};

use super::turns::Turns;
use super::{GONE, PACKETS, SPAWNER, STOP, TIME, TURNS, Worker, Workers, lock};
use crate::serve::worker::pass::COMPANY;
use crate::serve::worker::wire::{Head, Receiver, op};

/// The thread that listens; [`Listening::stop`] ends it and all workers.
pub struct Listening {
    workers: Arc<Workers>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts to listen. `lost` is called when workers can no longer be made.
    pub fn start(self: &Arc<Workers>, lost: impl Fn() + Send + 'static) -> io::Result<Listening> {
        let workers = self.clone();
        let thread = thread::Builder::new().name("workers".into()).spawn(move || workers.listen(&lost))?;
        Ok(Listening { workers: self.clone(), thread: Some(thread) })
    }

    fn listen(&self, lost: &dyn Fn()) {
        let mut events = [EpollEvent::empty(); 32];
        let mut receiver = Receiver::new();
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Os::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "epoll_wait failed, workers are no longer heard");
                    return lost();
                }
            };
            for event in events.iter().take(count) {
                match event.data() {
                    STOP => return,
                    TIME => self.tick(),
                    TURNS => {
                        let _ = self.turns_timer.wait();
                        self.next_turns(|_| {});
                    }
                    SPAWNER => {
                        let _ = self.epoll.delete(self.spawner.channel());
                        self.spawner_ended.store(true, Ordering::Relaxed);
                        lost();
                    }
                    number => {
                        let worker = lock(&self.table).by_number.get(&number).cloned();
                        if let Some(worker) = worker {
                            self.hear(&worker, event.events(), &mut receiver);
                        }
                    }
                }
            }
        }
    }

    /// Takes in what a worker says.
    fn hear(&self, worker: &Worker, events: EpollFlags, receiver: &mut Receiver) {
        if events.contains(EpollFlags::EPOLLOUT) {
            worker.send_queued(&self.epoll);
        }
        for _ in 0..PACKETS {
            match receiver.receive(worker.channel.as_fd()) {
                Ok(Some(packet)) => {
                    lock(&worker.heard).note();
                    match packet.head.op {
                        op::ANSWER => {
                            let then = lock(&worker.asked).requests.remove(&packet.head.id);
                            if let Some(then) = then {
                                then(Ok(packet));
                            }
                        }
                        op::READY => self.residents.woken(packet.head.handle, worker.number, packet.head.value),
                        op::HEARD => self.residents.heard(packet.head.handle, worker.number, &packet.bytes),
                        op::TURN => self.next_turns(|turns| match packet.head.value {
                            0 => turns.forget(worker.number),
                            _ => turns.ask(worker.number, worker.place.who.uids[1]),
                        }),
                        op::HERE => {
                            if let Err(errno) = worker.introduce(packet.pid) {
                                return self.buried(worker, errno);
                            }
                        }
                        op::HELLO => worker.works.store(true, Ordering::Relaxed),
                        op::FAILED if !worker.works.load(Ordering::Relaxed) => {
                            let words = String::from_utf8_lossy(&packet.bytes).into_owned();
                            let (who, error) = (&worker.place.who, packet.head.error);
                            tracing::warn!(uid = who.uids[1], "no worker at a client's place: {words}");
                            return self.buried(worker, Errno::new(if error > 0 { error } else { libc::EIO }));
                        }
                        _ => {}
                    }
                }
                // Without memory it is still there the next time.
                Err(Os::EAGAIN | Os::ENOMEM | Os::ENOBUFS) => return,
                // A worker that ends with requests unread resets the channel. What it has said before, why it ends perhaps, is still there.
                Err(Os::EINTR | Os::ECONNRESET) => {}
                Ok(None) | Err(_) => {
                    worker.kill();
                    return self.buried(worker, GONE);
                }
            }
        }
    }

    /// After a change: whoever may go on now is told.
    fn next_turns(&self, change: impl FnOnce(&mut Turns)) {
        let mut turns = lock(&self.turns);
        change(&mut turns);
        let now = Instant::now();
        while let Some(number) = turns.next(now) {
            let worker = lock(&self.table).by_number.get(&number).cloned();
            match worker {
                Some(worker) => {
                    let others = u64::from(self.is_anybody_beside(number, now));
                    worker.say(self, Head { op: op::GO_ON, value: others, ..Head::default() });
                }
                None => turns.forget(number),
            }
        }
        if let Some(due) = turns.due() {
            // Not zero, which would turn it off.
            let left = due.saturating_duration_since(now).max(Duration::from_micros(1));
            let _ =
                self.turns_timer.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty());
        }
    }

    /// Whether another worker has had something to do lately.
    fn is_anybody_beside(&self, number: u64, now: Instant) -> bool {
        let is_busy = |worker: &Arc<Worker>| now.duration_since(lock(&worker.heard).last) < COMPANY;
        lock(&self.table).by_number.values().any(|worker| worker.number != number && is_busy(worker))
    }

    /// A worker is no more.
    fn buried(&self, worker: &Worker, errno: Errno) {
        lock(&self.table).forget(worker);
        self.next_turns(|turns| turns.forget(worker.number));
        self.dismiss(worker);
        let asked = {
            let mut asked = lock(&worker.asked);
            asked.closed = Some(errno);
            std::mem::take(&mut asked.requests)
        };
        drop(std::mem::take(&mut *lock(&worker.queue)));
        let lost = self.residents.lost(worker.number);
        if lost > 0 {
            let uid = worker.place.who.uids[1];
            tracing::warn!(uid, lost, "a worker has ended: its open files answer ENOTCONN; was it killed, or stopped?");
        }
        for then in asked.into_values() {
            then(Err(errno));
        }
    }
}

impl Listening {
    /// Ends all workers, and waits for the thread and the spawner.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let _ = self.workers.stop.write(1);
        let _ = thread.join();
        let table = std::mem::take(&mut *lock(&self.workers.table));
        for worker in table.by_number.values() {
            self.workers.dismiss(worker);
            let asked = std::mem::take(&mut lock(&worker.asked).requests);
            drop(asked);
        }
        self.workers.spawner.end();
        self.workers.residents.forget();
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.end();
    }
}
