//! The listener's own calls: taking notifications, answering them, putting descriptors into a client.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

/// `struct seccomp_notif`
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Call {
    pub id: u64,
    /// The thread, as this process sees it.
    pub tid: u32,
    flags: u32,
    pub nr: i32,
    arch: u32,
    ip: u64,
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    from: u32,
    to: u32,
    to_flags: u32,
}

const RECV: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const ID_VALID: u64 = 0x4008_2102;
const ADDFD: u64 = 0x4018_2103;
const CONTINUE: u32 = 1;
const SETFD: u32 = 1;

/// What a stopped call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Value(i64),
    Error(i32),
    /// The kernel does it, as the client has asked.
    Native,
}

pub struct Listener(pub OwnedFd);

impl Listener {
    fn ioctl<T>(&self, request: u64, argument: *mut T) -> Result<i32, Errno> {
        // SAFETY: the structure is the one whose size the request's number has.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), request as libc::Ioctl, argument) })
    }

    /// `ENOENT`: its caller was interrupted or killed.
    pub fn take(&self) -> Result<Call, Errno> {
        let mut call = Call::default();
        self.ioctl(RECV, &raw mut call)?;
        Ok(call)
    }

    /// `ENOENT`: nobody waits for it any more.
    pub fn answer(&self, id: u64, outcome: Outcome) -> Result<(), Errno> {
        let (value, error, flags) = match outcome {
            Outcome::Value(value) => (value, 0, 0),
            Outcome::Error(error) => (0, -error, 0),
            Outcome::Native => (0, 0, CONTINUE),
        };
        let mut answer = Answer { id, value, error, flags };
        self.ioctl(SEND, &raw mut answer).map(drop)
    }

    /// Whether the caller still waits: then its thread's number is its own.
    pub fn waits(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(ID_VALID, &raw mut id).is_ok()
    }

    /// Puts `fd` at number `to` of the caller's.
    pub fn put(&self, id: u64, fd: i32, to: i32, cloexec: bool) -> Result<(), Errno> {
        let to_flags = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
        let mut add = AddFd { id, flags: SETFD, from: fd as u32, to: to as u32, to_flags };
        self.ioctl(ADDFD, &raw mut add).map(drop)
    }
}

const _: () = assert!(size_of::<Call>() == 80 && size_of::<Answer>() == 24 && size_of::<AddFd>() == 24);
