//! An open file whose messages somebody captures: the copies are made by whichever worker has its socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cuse_rs::Errno;

use super::{File, GONE, Home, State, bytes_of};
use crate::serve::worker::wire::op;
use crate::serve::workers::{Lodging, Then};

impl File {
    /// What passes from now on is copied into this memory, or none is any more. Where there is no socket yet, once there is.
    ///
    /// # Errors
    /// `EBUSY`: it is captured already. `ENOTCONN`: the file is closed, or its worker is gone.
    pub fn tap(self: &Arc<File>, memory: Option<OwnedFd>) -> Result<(), Errno> {
        let mut state = self.state();
        if memory.is_some() && (state.closed || matches!(state.home, Home::Lost)) {
            return Err(GONE);
        }
        if memory.is_some() && state.tap.is_some() {
            return Err(Errno::EBUSY);
        }
        let is_over = memory.is_none() && state.tap.is_some();
        state.tap = memory.map(Arc::new);
        if let Home::At(at) = &state.home {
            if is_over {
                self.tell(at, 0, Vec::new());
            } else {
                self.go_on_tapping(&state, at, true);
            }
        }
        Ok(())
    }

    /// Its socket is there now, for the first time, or from elsewhere.
    pub(super) fn go_on_tapping(self: &Arc<File>, state: &State, at: &Lodging, begins: bool) {
        if let Some(memory) = &state.tap {
            self.tell(at, u64::from(begins), vec![memory.clone()]);
        }
    }

    fn tell(self: &Arc<File>, at: &Lodging, value: u64, fds: Vec<Arc<OwnedFd>>) {
        let handle = self.handle;
        let failed = move |errno: Errno| match errno {
            // It has ended, and so has the capture of it.
            GONE => tracing::debug!(handle, %errno, "capture"),
            _ => tracing::warn!(handle, %errno, "nothing more is captured of an open file"),
        };
        let then: Then = Box::new(move |answer| bytes_of(answer).err().into_iter().for_each(failed));
        if let Err((_, errno)) = at.worker.ask(&self.workers, self.head(op::TAP, value, 0), Vec::new(), fds, then) {
            failed(errno);
        }
    }
}
