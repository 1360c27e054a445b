//! Who waits on an open file: readers, and those who poll.

use std::sync::Arc;
use std::time::Duration;

use cuse_rs::{Errno, NodeKind, PollFlags, PollReply, ReadReply};

use super::{File, Home, NO_SOCKET, Reader, bytes_of};
use crate::serve::worker::open::ready;
use crate::serve::worker::wire::{flag, op};
use crate::serve::workers::Then;

/// Readers of one open file that may wait at once.
const READERS: usize = 64;
/// A read that waits longer is `EINTR`. A ring file is a regular file, whose position has a lock: another process that reads
/// the same open file waits behind this one where not even SIGKILL reaches it.
const READ_PATIENCE: Duration = Duration::from_secs(5);

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
