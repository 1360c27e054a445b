//! An open file goes from one worker to another, or loses the one it is in.

use std::collections::VecDeque;
use std::sync::Arc;

use cuse_rs::Errno;

use super::{File, GONE, Home, Job, Reader, State, bytes_of, fail};
use crate::serve::log;
use crate::serve::worker::wire::{Packet, op};
use crate::serve::workers::{Lodging, Then, Unasked};

impl File {
    /// The open file goes to where `job` has to be done. Everything later waits until it is there.
    pub(super) fn begin_move(self: &Arc<File>, state: &mut State, mut job: Job) -> Result<(), Unasked> {
        let home = std::mem::replace(&mut state.home, Home::Lost);
        let (Home::At(from), Some(to)) = (home, job.lodging.take()) else {
            return Err((job.then, GONE));
        };
        let file = self.clone();
        let then: Then = Box::new(move |answer| file.moved_out(answer));
        if let Err((_, errno)) =
            from.worker.ask(&self.workers, self.head(op::EVICT, 0, 0), Vec::new(), Vec::new(), then)
        {
            state.home = if errno == GONE { Home::Lost } else { Home::At(from) };
            return Err((job.then, errno));
        }
        state.home = Home::Moving { from, to };
        state.waiting.push_back(job);
        Ok(())
    }

    /// The old worker has let go: the new one takes over, and then what has waited.
    fn moved_out(self: &Arc<File>, answer: Result<Packet, Errno>) {
        let answer = answer.and_then(|packet| match packet.head.error {
            0 => Ok(packet),
            error => Err(Errno::new(error)),
        });
        let mut state = self.state();
        let waiting = std::mem::take(&mut state.waiting);
        let home = std::mem::replace(&mut state.home, Home::Lost);
        let (moving, errno) = match (home, answer) {
            (Home::Moving { to, .. }, Ok(packet)) => match self.move_in(&state, &to, packet) {
                Ok(()) => {
                    state.home = Home::At(to);
                    (true, GONE)
                }
                Err(errno) => {
                    log::lost(&self.client, errno);
                    (false, errno)
                }
            },
            (Home::Moving { from, .. }, Err(errno)) if errno != GONE => {
                // It could not let go (too many descriptors on their way): the socket is where it was.
                state.home = Home::At(from);
                (false, errno)
            }
            _ => (false, GONE),
        };
        let mut unasked = Vec::new();
        for job in waiting {
            if moving {
                unasked.extend(self.place(&mut state, job).err());
            } else {
                unasked.push((job.then, errno));
            }
        }
        let lost = matches!(state.home, Home::Lost).then(|| std::mem::take(&mut state.readers));
        drop(state);
        fail(unasked);
        if let Some(readers) = lost {
            self.tell_lost(readers);
        }
    }

    fn move_in(self: &Arc<File>, state: &State, to: &Lodging, mut packet: Packet) -> Result<(), Errno> {
        let missing = if packet.lacks { Errno::new(libc::EMFILE) } else { GONE };
        let (socket, shared) = (packet.fds.pop().ok_or(missing)?, self.shared.get().ok_or(GONE)?);
        let fds = vec![Arc::new(socket), state.memory.clone(), shared.memory().clone()];
        let (file, number) = (self.clone(), to.worker.number());
        let then: Then = Box::new(move |answer| {
            if let Err(errno) = bytes_of(answer) {
                log::lost(&file.client, errno);
                file.lost(number);
            }
        });
        let asked = to.worker.ask(&self.workers, self.head(op::ADOPT, 0, 0), packet.bytes, fds, then);
        asked.map_err(|(_, errno)| errno)?;
        // Behind it, and before anything is moved there.
        self.go_on_tapping(state, to, false);
        Ok(())
    }

    /// A worker has died. Whether the socket was there, and is gone.
    pub fn lost(&self, number: u64) -> bool {
        let mut state = self.state();
        let is_there = match &state.home {
            Home::At(at) => at.is_in(number),
            Home::Moving { from, .. } => from.is_in(number),
            // The request that makes it is answered with why not.
            Home::None | Home::Making(_) | Home::Lost => false,
        };
        if !is_there {
            return false;
        }
        let home = std::mem::replace(&mut state.home, Home::Lost);
        let (readers, waiting) = (std::mem::take(&mut state.readers), std::mem::take(&mut state.waiting));
        drop(state);
        drop(home);
        fail(waiting.into_iter().map(|job| (job.then, GONE)));
        self.tell_lost(readers);
        true
    }

    /// Whoever waits on it learns that the socket is gone.
    fn tell_lost(&self, readers: VecDeque<Reader>) {
        for reader in readers {
            if let Some(reply) = reader.reply.take() {
                reply.error(GONE);
            }
        }
        self.notifier.notify();
    }
}
