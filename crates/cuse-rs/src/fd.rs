//! The fd layer: every system call on `/dev/cuse` and `/dev/fuse`, and the crate's only `unsafe`.

use std::ffi::c_void;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, Setter, opcode};

use crate::protocol::abi::BackingMap;

/// A reply for which the kernel had no memory is tried again after pauses that double, up to this one.
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

const FUSE_DEV_IOC_MAGIC: u8 = 229;
const BACKING_OPEN: Opcode = opcode::write::<BackingMap>(FUSE_DEV_IOC_MAGIC, 1);
const BACKING_CLOSE: Opcode = opcode::write::<u32>(FUSE_DEV_IOC_MAGIC, 2);

/// Opens `/dev/cuse` or `/dev/fuse` for a session: not inherited over exec, never blocking.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// What one `read` gave.
pub(crate) enum Received {
    /// A request of this many bytes.
    Request(usize),
    /// Nothing is waiting.
    Nothing,
    /// The kernel has ended the connection: unmounted, aborted, or the device is gone.
    Closed,
}

/// Reads one request.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    use rustix::io::Errno;
    loop {
        return match rustix::io::read(fd, &mut *buffer) {
            // /dev/fuse never gives 0; the socket that stands for it in tests does at its end.
            Ok(0) => Ok(Received::Closed),
            Ok(len) => Ok(Received::Request(len)),
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            // EINTR: a signal. ENOENT: the request was taken back (its caller died, or the
            // connection was aborted) while it was being copied.
            Err(Errno::INTR | Errno::NOENT) => continue,
            Err(Errno::NODEV | Errno::CONNABORTED | Errno::CONNRESET) => Ok(Received::Closed),
            Err(other) => Err(other.into()),
        };
    }
}

/// Writes one reply or notification; the kernel takes it whole or refuses it.
pub(crate) fn send(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        return match rustix::io::writev(fd, parts) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::INTR) => continue,
            // Whoever has no answer waits for ever, even killed. One that was given up for it is told as ENOENT next time.
            Err(rustix::io::Errno::NOMEM) if pause < LONGEST_PAUSE => {
                std::thread::sleep(pause);
                pause *= 2;
                continue;
            }
            Err(other) => Err(other.into()),
        };
    }
}

struct BackingOpen(BackingMap);

// SAFETY: the opcode is `_IOW(229, 1, struct fuse_backing_map)`: the kernel reads one BackingMap
// at the pointer, writes nothing, and answers with the id as the call's result.
unsafe impl Ioctl for BackingOpen {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        BACKING_OPEN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Makes `file` known to the connection as memory that clients may map; gives its id.
pub(crate) fn backing_open(fd: BorrowedFd<'_>, file: &OwnedFd) -> io::Result<i32> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: BackingOpen describes the call truly (see its impl), `fd` is open for the call.
    Ok(unsafe { ioctl::ioctl(fd, BackingOpen(map)) }?)
}

/// Takes a backing id back; files that are open with it keep their memory.
pub(crate) fn backing_close(fd: BorrowedFd<'_>, id: i32) -> io::Result<()> {
    // SAFETY: the opcode is `_IOW(229, 2, uint32_t)`: the kernel reads one u32 and writes nothing.
    let call = unsafe { Setter::<BACKING_CLOSE, u32>::new(id.cast_unsigned()) };
    // SAFETY: Setter passes a pointer to the u32, as the opcode says; `fd` is open for the call.
    Ok(unsafe { ioctl::ioctl(fd, call) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_the_headers() {
        assert_eq!(BACKING_OPEN, 0x4010_e501);
        assert_eq!(BACKING_CLOSE, 0x4004_e502);
    }

    #[test]
    fn a_closed_peer_ends_the_connection_and_silence_does_not() {
        let (daemon, kernel) = crate::testing::socket_pair();
        let mut buffer = [0; 64];
        assert!(matches!(receive(daemon.as_fd(), &mut buffer), Ok(Received::Nothing)));
        send(kernel.as_fd(), &[IoSlice::new(b"ab"), IoSlice::new(b"c")]).unwrap();
        assert!(matches!(receive(daemon.as_fd(), &mut buffer), Ok(Received::Request(3))));
        drop(kernel);
        assert!(matches!(receive(daemon.as_fd(), &mut buffer), Ok(Received::Closed)));
    }
}
