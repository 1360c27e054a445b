//! A child of the spawner that enters a client's control group, allocates ring memory there, so that the group is charged for it,
//! and ends.
//!
//! It is alone with the client's group for that time: whoever owns that may stop or kill it, and has no ring then.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno as Os;

use super::enter;
use super::wire::{self, Head, op};
use crate::serve::{confine, memory};

/// Writes into a file that is there.
fn write(directory: RawFd, name: &CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: a string that ends, and numbers.
    let fd = unsafe { libc::openat(directory, name.as_ptr(), confine::ENTERING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the buffer is readable for its length.
    let written = unsafe { libc::write(file.as_raw_fd(), text.as_ptr().cast(), text.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn enter(group: &OwnedFd) -> io::Result<()> {
    // Where memory ends while it is taken, the kernel ends this process, and none of the client's.
    write(libc::AT_FDCWD, c"/proc/self/oom_score_adj", b"1000")?;
    write(group.as_raw_fd(), c"cgroup.procs", b"0")?;
    enter::keep_capabilities(0)
}

/// The child's life.
pub fn pay(channel: &OwnedFd, id: u64, len: u64, group: &OwnedFd, memory: &OwnedFd) {
    let tell = |head: Head, words: &str| wire::send_waiting(channel, &head, words.as_bytes(), &[]);
    if tell(Head { op: op::HERE, ..Head::default() }, "").is_err() {
        return;
    }
    let answer = Head { op: op::ANSWER, id, ..Head::default() };
    let _ = match enter(group) {
        Err(error) => tell(answer, &error.to_string()),
        Ok(()) => {
            let len = usize::try_from(len).map_err(|_| Os::EFBIG);
            let error = len.and_then(|len| memory::reserve(memory, len)).err().map_or(0, |error| error as i32);
            tell(Head { value: 1, error, ..answer }, "")
        }
    };
}
