//! Who is charged for the memory of rings: the client's control group, where that can be.
//!
//! A page is charged to whoever touches it first, and that would be the worker, which is in the daemon's group. So a short-lived
//! process of the daemon's enters the client's and allocates the pages there, before the worker lays the rings into them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use cuse_rs::{Caller, Errno};

use super::{File, GONE, Job};
use crate::serve::limits::{self, Purse};
use crate::serve::log;
use crate::serve::worker::wire::{Head, Packet};
use crate::serve::workers::Then;

/// What is left of a group's memory when a ring has taken its part: the process that takes it needs some.
const LEFT: u64 = 1 << 20;

impl File {
    /// As [`Self::act`], when so many bytes of a memory have been allocated.
    pub(super) fn act_paid(
        self: &Arc<File>,
        caller: &Caller,
        mut head: Head,
        bytes: Vec<u8>,
        fds: Vec<Arc<OwnedFd>>,
        needs: Option<(Arc<OwnedFd>, usize)>,
        then: Then,
    ) {
        let lodging = match self.lodging(caller, &mut head) {
            Ok(lodging) => lodging,
            Err(errno) => return then(Err(errno)),
        };
        let job = Job { lodging, head, bytes, fds, then };
        match needs {
            Some((memory, len)) => self.pay(caller, &memory, len, job),
            None => self.submit(job),
        }
    }

    fn pay(self: &Arc<File>, caller: &Caller, memory: &OwnedFd, len: usize, job: Job) {
        let group = match limits::purse(caller.tid) {
            Purse::Ours => return self.submit(job),
            Purse::Unknown(why) => return self.unpaid(&why, job),
            Purse::Theirs { directory, room } => {
                let there = nix::sys::stat::fstat(memory).map_or(0, |there| there.st_blocks as u64 * 512);
                let more = (len as u64).saturating_sub(there);
                if more.saturating_add(LEFT) > room {
                    log::refused(
                        &self.client,
                        format_args!("{more} bytes more for rings exceed the {room} that its control group has left"),
                    );
                    return (job.then)(Err(Errno::ENOMEM));
                }
                directory
            }
        };
        let place = match self.client.place(caller) {
            Ok((place, _)) => place,
            Err(error) => return (job.then)(Err(error.into())),
        };
        let file = self.clone();
        let then: Then = Box::new(move |answer| file.paid(answer, len, job));
        if let Err((then, errno)) = self.workers.pay(&place, group.as_fd(), memory.as_fd(), len as u64, then) {
            then(Err(errno));
        }
    }

    /// The pages are there, or why not.
    fn paid(self: &Arc<File>, answer: Result<Packet, Errno>, len: usize, job: Job) {
        match answer {
            Ok(packet) if packet.head.value == 0 => {
                let why = String::from_utf8_lossy(&packet.bytes);
                self.unpaid(&format!("a client's control group cannot be entered: {why}"), job);
            }
            Ok(packet) if packet.head.error == 0 => {
                self.state().ticket.paid(len as u64);
                self.submit(job);
            }
            // Sealed meanwhile: the worker has its own word for that.
            Ok(packet) if packet.head.error == libc::EPERM => self.submit(job),
            Ok(_) | Err(GONE) => {
                log::refused(&self.client, format_args!("its control group did not give {len} bytes for rings"));
                (job.then)(Err(Errno::ENOMEM));
            }
            Err(errno) => (job.then)(Err(errno)),
        }
    }

    /// The daemon's group is charged.
    fn unpaid(self: &Arc<File>, why: &str, job: Job) {
        self.workers.note_unpaid(why);
        self.submit(job);
    }

    /// Whether the client's control group was charged for its rings; nothing without rings.
    pub fn is_paid(&self) -> Option<bool> {
        let state = self.state();
        state.rings.iter().any(Option::is_some).then(|| state.ticket.paid_bytes() > 0)
    }
}
