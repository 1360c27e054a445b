//! Memory that a client's control group is charged for, by a process that enters it, allocates, and ends.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use cuse_rs::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::{Then, Unasked, Worker, Workers, lock};
use crate::serve::caller::Place;
use crate::serve::worker::wire;

impl Workers {
    /// Has the first `len` bytes of a memory allocated in a control group, by a process that ends then. It counts as a worker of the
    /// place meanwhile: how many there are has a limit, and one that is silent is killed.
    pub fn pay(
        &self,
        place: &Place,
        group: BorrowedFd<'_>,
        memory: BorrowedFd<'_>,
        len: u64,
        then: Then,
    ) -> Result<(), Unasked> {
        let mut table = lock(&self.table);
        if table.most_reached(place).is_some() {
            self.retire(&mut table, Duration::ZERO);
        }
        if table.most_reached(place).is_some() {
            return Err((then, Errno::EAGAIN));
        }
        let ticket = match self.ledger.worker(place.who.uids[1]) {
            Ok(ticket) => ticket,
            Err(limit) => return Err((then, limit.errno())),
        };
        let id = self.number();
        let ordered = wire::channel().and_then(|(front, back)| {
            wire::tell_pid(&front)?;
            self.epoll.add(&front, EpollEvent::new(EpollFlags::EPOLLIN, id))?;
            self.spawner.pay(id, len, &[back.as_fd(), group, memory])?;
            Ok(front)
        });
        match ordered {
            Err(error) => Err((then, Errno::new(error as i32))),
            Ok(front) => {
                let payer = Arc::new(Worker::new(id, place.clone(), front, ticket));
                lock(&payer.asked).requests.insert(id, then);
                table.by_number.insert(id, payer);
                drop(table);
                self.tick_on();
                Ok(())
            }
        }
    }

    /// The daemon's control group is charged for a client's rings. Said once.
    pub fn note_unpaid(&self, why: &str) {
        if self.unpaid.set(why.to_owned()).is_ok() {
            tracing::info!("rings are charged to the daemon's control group, where the client's cannot be: {why}");
        }
    }

    pub fn unpaid(&self) -> Option<&str> {
        self.unpaid.get().map(String::as_str)
    }
}
