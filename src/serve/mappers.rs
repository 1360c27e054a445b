//! Processes that say to map an open file's rings.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use cuse_rs::{Caller, Errno};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::memory;

/// See the module.
#[derive(Default)]
pub struct Mappers(Vec<(u32, OwnedFd)>);

impl Mappers {
    /// Takes down what a process says.
    pub fn note(&mut self, caller: &Caller, mapped: bool) -> Result<(), Errno> {
        let pid = memory::leader(caller.tid).map_err(memory::errno)?;
        // One that has ended is forgotten before its number is looked at.
        self.any();
        self.0.retain(|(known, _)| *known != pid);
        if mapped {
            // SAFETY: numbers only.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            let fd = nix::errno::Errno::result(fd as i32).map_err(memory::errno)?;
            // SAFETY: the kernel has just made it, and nobody else owns it.
            self.0.push((pid, unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        Ok(())
    }

    /// Whether any process but the caller's has them.
    pub fn has_others(&mut self, caller: &Caller) -> bool {
        let own = memory::leader(caller.tid).ok();
        self.any() && self.0.iter().any(|(pid, _)| Some(*pid) != own)
    }

    /// Whether any of them lives.
    pub fn any(&mut self) -> bool {
        self.0.retain(|(_, process)| {
            let mut entry = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            // Readable once it has ended.
            !matches!(poll(&mut entry, PollTimeout::ZERO), Ok(1))
        });
        !self.0.is_empty()
    }
}
