//! A thread beside the readers, which no request can keep busy: it ends replies that have waited long enough, and the
//! session when its mount is gone.
//!
//! The kernel does not tell a file system that it was unmounted lazily (`umount -l`) before the last open file is closed.
//! No client can reach it any more by then, and its name looks taken. The mount table can be polled for changes.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

use crate::channel::Channel;
use crate::deadlines::Deadlines;
use crate::fuse::Mount;
use crate::session::Ended;
use crate::stop::StopToken;

/// Works until the session is asked to end, or has to.
pub(crate) fn keep(
    channel: &Channel,
    deadlines: &Deadlines,
    mount: Option<&Mount>,
    stop: &StopToken,
) -> io::Result<Ended> {
    let table = mount.and_then(Mount::table);
    loop {
        // The table first: what changes after this look makes it ready.
        if mount.is_some_and(Mount::is_gone) {
            return Ok(Ended::Gone);
        }
        let (stopped, timer) = (stop.as_fd(), deadlines.as_fd());
        let mut fds = vec![PollFd::new(&stopped, PollFlags::IN), PollFd::new(&timer, PollFlags::IN)];
        let table = table.map(AsFd::as_fd);
        fds.extend(table.as_ref().map(|table| PollFd::new(table, PollFlags::PRI)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if stop.is_stopped() {
            return Ok(Ended::Stopped);
        }
        for unique in deadlines.take_due() {
            channel.give_up(unique);
        }
    }
}
