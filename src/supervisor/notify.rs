//! The listener's own calls: taking notifications, answering them, putting descriptors into a client.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

/// `struct seccomp_notif`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    pub id: u64,
    /// The thread, as this process sees it.
    pub tid: u32,
    flags: u32,
    pub nr: i32,
    arch: u32,
    /// Behind its instruction.
    pub ip: u64,
    pub args: [u64; 6],
}

impl Call {
    /// An argument that is an int.
    pub fn int(&self, index: usize) -> i32 {
        self.args.get(index).copied().unwrap_or(0) as i32
    }

    /// Whether this is the other once more: by the same thread, from the same place, of the same things.
    pub fn repeats(&self, other: &Call) -> bool {
        Call { id: other.id, ..*self } == *other
    }
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
const SET_FLAGS: u64 = 0x4008_2104;
const CONTINUE: u32 = 1;
const SETFD: u32 = 1;
/// Linux 5.14: the descriptor is put and the call answered with its number, in one step.
const ADD_AND_SEND: u32 = 2;
/// Linux 6.6: who answers gives way to whom it answers, on the same processor.
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// What a stopped call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Value(i64),
    Error(i32),
    /// The kernel does it, as the client has asked.
    Native,
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Outcome {
        Outcome::Error(errno as i32)
    }
}

impl From<nlmmap_ring::Errno> for Outcome {
    fn from(errno: nlmmap_ring::Errno) -> Outcome {
        Outcome::Error(errno.0)
    }
}

/// `SECCOMP_RET_USER_NOTIF`'s other end.
pub struct Listener(OwnedFd);

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> OwnedFd {
        listener.0
    }
}

impl Listener {
    pub fn new(fd: OwnedFd) -> Listener {
        // Kernels before 6.6 do not know it, and are slower.
        // SAFETY: the flags are the argument itself.
        unsafe { libc::ioctl(fd.as_raw_fd(), SET_FLAGS as libc::Ioctl, SYNC_WAKE_UP) };
        Listener(fd)
    }

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

    /// Puts `fd` at number `to` of the caller's, and answers the call with that number.
    pub fn put_and_answer(&self, id: u64, fd: BorrowedFd<'_>, to: i32, cloexec: bool) -> Result<(), Errno> {
        let to_flags = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
        let from = fd.as_raw_fd() as u32;
        let mut add = AddFd { id, flags: SETFD | ADD_AND_SEND, from, to: to as u32, to_flags };
        match self.ioctl(ADDFD, &raw mut add) {
            Err(Errno::EINVAL) => {
                add.flags = SETFD;
                self.ioctl(ADDFD, &raw mut add)?;
                self.answer(id, Outcome::Value(to.into()))
            }
            result => result.map(drop),
        }
    }

    /// Whether this kernel puts descriptors into clients (Linux 5.9): of a call that nobody makes it says so, and an older one does
    /// not know the question.
    pub fn puts_descriptors(&self) -> bool {
        let from = self.0.as_raw_fd() as u32;
        let mut add = AddFd { id: u64::MAX, flags: SETFD, from, to: from, to_flags: 0 };
        self.ioctl(ADDFD, &raw mut add) == Err(Errno::ENOENT)
    }

    /// Gives the caller a descriptor at the lowest number that is free there.
    pub fn lend(&self, id: u64, fd: BorrowedFd<'_>) -> Result<i32, Errno> {
        let from = fd.as_raw_fd() as u32;
        let mut add = AddFd { id, flags: 0, from, to: 0, to_flags: libc::O_CLOEXEC as u32 };
        self.ioctl(ADDFD, &raw mut add)
    }
}

const _: () = assert!(size_of::<Call>() == 80 && size_of::<Answer>() == 24 && size_of::<AddFd>() == 24);
