//! Error numbers as plain values: what a call of the ABI answers.

/// A positive Linux error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $raw:ident),* $(,)?) => {
        #[allow(missing_docs, reason = "names of errno(3)")]
        impl Errno { $(pub const $name: Errno = Errno(linux_raw_sys::errno::$raw as i32);)* }
    };
}

errnos! {
    PERM = EPERM, ACCES = EACCES, INTR = EINTR, BADF = EBADF, AGAIN = EAGAIN, NOMEM = ENOMEM, FAULT = EFAULT, BUSY = EBUSY,
    INVAL = EINVAL, NFILE = ENFILE, MFILE = EMFILE, NOBUFS = ENOBUFS, NOPROTOOPT = ENOPROTOOPT, MSGSIZE = EMSGSIZE,
    SRCH = ESRCH, NOSYS = ENOSYS, NOTSOCK = ENOTSOCK, NODATA = ENODATA, NODEV = ENODEV, NOENT = ENOENT, OPNOTSUPP = EOPNOTSUPP,
    EXIST = EEXIST, TIMEDOUT = ETIMEDOUT,
}

/// What a system call or an operation of the ABI answers.
pub type Result<T> = core::result::Result<T, Errno>;
