//! Who waits on an open file: readers, and those who poll.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use cuse_rs::{Errno, NodeKind, PollFlags, PollReply, ReadReply};

use nlmmap_ring::abi::status;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::readiness;
use nlmmap_ring::sys;
use nlmmap_ring::waits::Seen;

use super::{File, Home, NO_SOCKET, Reader, bytes_of};
use crate::serve::memory::{self, Shared};
use crate::serve::worker::open::ready;
use crate::serve::worker::wire::{flag, op};
use crate::serve::workers::Then;

/// Readers of one open file that may wait at once.
const READERS: usize = 64;
/// A read that waits longer is `EINTR`. A ring file is a regular file, whose position has a lock: another process that reads
/// the same open file waits behind this one where not even SIGKILL reaches it.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// `readiness::mask` where a frame is `VALID`.
const READY: u32 = (readiness::OUT | readiness::WRNORM | readiness::WRBAND | readiness::IN | readiness::RDNORM) as u32;

impl File {
    /// `read`: one message, now or, when the caller waits, later.
    pub fn read(self: &Arc<File>, reply: ReadReply, room: usize, wait: bool) {
        let file = self.clone();
        let flags = if wait { flag::WATCH } else { 0 };
        let then: Then = Box::new(move |answer| match bytes_of(answer) {
            Ok(message) => {
                // Undeliverable only when the caller died in between.
                let _ = reply.data(message.get(..room).unwrap_or(&message));
                if wait {
                    file.serve_reader();
                }
            }
            Err(Errno::EAGAIN) if wait => file.park(reply, room),
            Err(errno) => reply.error(errno),
        });
        self.ask(self.head(op::READ, room as u64, flags), Vec::new(), then);
    }

    fn park(&self, reply: ReadReply, room: usize) {
        let mut state = self.state();
        state.readers.retain(|reader| reader.reply.is_waiting());
        if state.readers.len() >= READERS || state.closed {
            drop(state);
            return reply.error(Errno::ENOBUFS);
        }
        let reply = match self.node {
            NodeKind::Fuse => reply.park_for(READ_PATIENCE),
            NodeKind::Cuse => reply.park(),
        };
        state.readers.push_back(Reader { reply, room });
    }

    /// The first of those who wait in `read` tries again.
    fn serve_reader(self: &Arc<File>) {
        loop {
            let Some(reader) = self.state().readers.pop_front() else {
                return;
            };
            if let Some(reply) = reader.reply.take() {
                return self.read(reply, reader.room, true);
            }
        }
    }

    /// What `poll` answers, after everything that has come is in the ring.
    pub fn poll(self: &Arc<File>, notify: bool, reply: PollReply) {
        if notify && self.answers() {
            let _ = reply.ready(PollFlags::from_bits(READY));
            return;
        }
        let then: Then = Box::new(move |answer| {
            let events = match answer {
                Ok(packet) if packet.head.error == 0 => PollFlags::from_bits(packet.head.value as u32 & 0xffff),
                Err(errno) if errno == NO_SOCKET => PollFlags::empty(),
                _ => PollFlags::ERR,
            };
            // Undeliverable: then nobody waits for it.
            let _ = reply.ready(events);
        });
        let flags = if notify { flag::WATCH } else { 0 };
        self.ask(self.head(op::POLL, 0, flags), Vec::new(), then);
    }

    /// Whether a wait is to be answered here: a worker attends to the ring, and its newest frame is there to be read.
    fn answers(&self) -> bool {
        // Most waits end here, at the cost of a look.
        let Some(control) = self.shared.get().map(Shared::control).filter(|control| control.waits.is_attended()) else {
            return false;
        };
        // One thread at a time.
        let state = self.state();
        let (Home::At(_), Some(ring)) = (&state.home, state.rings[0]) else {
            return false;
        };
        if state.changing > 0 || state.giving {
            return false;
        }
        let Ok(geometry) = Geometry::check(&ring, sys::PAGE as u32, u64::MAX) else {
            return false;
        };
        let look = || {
            let published = control.rx_published.load(Acquire);
            let newest = geometry.prev(geometry.wrap(control.rx_head.load(Acquire)));
            let (errors, copies) = (control.told.load(Acquire), control.copies.load(Relaxed));
            let alone = copies == 0 && control.error.load(Relaxed) == 0;
            alone.then_some(Seen { newest, published, errors })
        };
        // By a call, not by a mapping: the memory is in the hands of a client, who may make holes in it.
        control
            .waits
            .answers(look, |seen| memory::word(&state.memory, geometry.offset(seen.newest)) == Some(status::VALID))
    }

    /// Whether that worker has the socket.
    pub fn is_in(&self, worker: u64) -> bool {
        match &self.state().home {
            Home::At(at) => at.is_in(worker),
            Home::Moving { from, .. } => from.is_in(worker),
            _ => false,
        }
    }

    /// The worker says that something has come.
    pub fn woken(self: &Arc<File>, worker: u64, who: u64) {
        if !self.is_in(worker) {
            return;
        }
        if who & ready::POLL != 0 {
            self.notifier.notify();
        }
        if who & ready::READ != 0 {
            self.serve_reader();
        }
    }
}
