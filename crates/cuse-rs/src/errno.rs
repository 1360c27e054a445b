//! Error numbers as the kernel takes them in a reply.

use std::fmt;
use std::io;

use rustix::io::Errno as Os;

/// An error number that a device answers with.
///
/// The kernel accepts 1 to 511 in a reply and refuses the whole reply otherwise, which would leave
/// the caller hanging; so a value outside that range cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

impl Errno {
    /// The error with this number; numbers that a reply cannot carry become [`Errno::EIO`].
    pub const fn new(number: i32) -> Self {
        if number >= 1 && number < 512 { Self(number as u16) } else { Self::EIO }
    }

    /// The number, always positive.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// What may leave the device: `ENOSYS` tells the kernel that the whole operation does not
    /// exist, so that it never asks again for any open file; a handler cannot mean that.
    pub(crate) const fn answer(self) -> Self {
        if self.0 == Self::ENOSYS.0 { Self::EOPNOTSUPP } else { self }
    }
}

macro_rules! names {
    ($($name:ident = $os:ident, $text:literal;)*) => {
        impl Errno {
            $(
                #[doc = $text]
                pub const $name: Self = Self(Os::$os.raw_os_error() as u16);
            )*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($name)),)*
                    _ => write!(f, "Errno({})", self.0),
                }
            }
        }
    };
}

names! {
    EPERM = PERM, "Operation not permitted.";
    ENOENT = NOENT, "No such file.";
    EINTR = INTR, "Interrupted.";
    EIO = IO, "Input or output error.";
    ENXIO = NXIO, "No such device or address.";
    E2BIG = TOOBIG, "Argument too long.";
    EBADF = BADF, "Bad file number.";
    EAGAIN = AGAIN, "Try again.";
    ENOMEM = NOMEM, "Out of memory.";
    EACCES = ACCESS, "Permission denied.";
    EFAULT = FAULT, "Bad address.";
    EBUSY = BUSY, "Device or resource busy.";
    EEXIST = EXIST, "File exists.";
    ENODEV = NODEV, "No such device.";
    ENOTDIR = NOTDIR, "Not a directory.";
    EISDIR = ISDIR, "Is a directory.";
    EINVAL = INVAL, "Invalid argument.";
    ENFILE = NFILE, "File table overflow.";
    EMFILE = MFILE, "Too many open files.";
    ENOTTY = NOTTY, "Not an ioctl that this device knows.";
    EFBIG = FBIG, "File too large.";
    ENOSPC = NOSPC, "No space left.";
    ESPIPE = SPIPE, "Illegal seek.";
    EPIPE = PIPE, "Broken pipe.";
    ERANGE = RANGE, "Result out of range.";
    ENOSYS = NOSYS, "Not implemented; sent by a handler it leaves as `EOPNOTSUPP`.";
    ENODATA = NODATA, "No data.";
    EPROTO = PROTO, "Protocol error.";
    EBADMSG = BADMSG, "Bad message.";
    EMSGSIZE = MSGSIZE, "Message too long.";
    EOPNOTSUPP = OPNOTSUPP, "Operation not supported.";
    EADDRINUSE = ADDRINUSE, "Address in use.";
    ENOBUFS = NOBUFS, "No buffer space.";
    ENOTCONN = NOTCONN, "Not connected: the device's daemon is gone.";
    ESHUTDOWN = SHUTDOWN, "Shut down.";
    ETIMEDOUT = TIMEDOUT, "Timed out.";
    ECONNREFUSED = CONNREFUSED, "Connection refused.";
    ESTALE = STALE, "Stale file handle.";
    EDQUOT = DQUOT, "Quota exceeded.";
    ECANCELED = CANCELED, "Canceled.";
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.number()).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<io::Error> for Errno {
    /// The number of an operating system error; [`Errno::EIO`] for errors without one.
    fn from(error: io::Error) -> Self {
        Self::new(error.raw_os_error().unwrap_or(0))
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        io::Error::from_raw_os_error(errno.number())
    }
}

impl From<Os> for Errno {
    fn from(errno: Os) -> Self {
        Self::new(errno.raw_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reply_cannot_carry_becomes_eio() {
        for number in [0, -1, 512, 4096, i32::MIN, i32::MAX] {
            assert_eq!(Errno::new(number), Errno::EIO);
        }
        assert_eq!(Errno::new(511).number(), 511);
        assert_eq!(Errno::new(11), Errno::EAGAIN);
    }

    #[test]
    fn a_handler_cannot_switch_an_operation_off() {
        assert_eq!(Errno::ENOSYS.answer(), Errno::EOPNOTSUPP);
        assert_eq!(Errno::EINTR.answer(), Errno::EINTR);
    }

    #[test]
    fn reads_well() {
        assert_eq!(format!("{:?}", Errno::EBUSY), "EBUSY");
        assert_eq!(format!("{:?}", Errno::new(133)), "Errno(133)");
        assert!(Errno::EBUSY.to_string().starts_with("Device or resource busy"));
        assert_eq!(Errno::from(io::Error::other("no number")), Errno::EIO);
    }
}
