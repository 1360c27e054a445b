//! Copies of what passes through a daemon's open files, asked for on its capture socket: memory of ours, which its worker fills.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use nlmmap_ring::tap::{LEN, Tap, VERSION};

use super::copies::Copies;
use crate::serve::capture::Channel;
use crate::serve::memory;

/// A capture's connection. Dropped, nothing is copied any more.
pub struct Served(Channel);

impl Served {
    /// Connects to a daemon's capture socket.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(path: &Path) -> io::Result<Served> {
        Channel::connect(path).map(Served)
    }

    /// Asks for copies of an open file's messages.
    ///
    /// # Errors
    /// Memory that cannot be had, and the daemon's answers: `ENOENT` for one that is not there, `EBUSY` for one that is captured
    /// already, `ENFILE` when there are too many.
    pub fn tap(&mut self, handle: u64) -> io::Result<Copies> {
        let memory = memory::new()?;
        // The worker would die of memory that cannot be had, or is taken away.
        nix::unistd::ftruncate(&memory, LEN as i64)?;
        fallocate(&memory, FallocateFlags::empty(), 0, LEN as i64)?;
        memory::seal(&memory)?;
        let mut tap = Tap::default();
        *tap.version.get_mut() = VERSION;
        let file = File::from(memory);
        file.write_all_at(tap.bytes_mut(), 0)?;
        let memory = OwnedFd::from(file.try_clone()?);
        self.0.tap(handle, Some(&memory))?;
        Ok(Copies::new(file))
    }

    /// No more of them.
    pub fn end(&mut self, handle: u64) {
        // A daemon that is gone copies nothing.
        let _ = self.0.tap(handle, None);
    }

    /// Whether the daemon is still there.
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }
}
