//! The listener's own calls: taking notifications, answering them, putting descriptors into a client.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::utsname::uname;

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
#[derive(Clone, Copy)]
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

/// The kernel makes the call again once it has seen to what interrupts the thread; or says `EINTR`, as the handler's flags ask
/// (`ERESTARTSYS`). Only for a thread that is to be interrupted: to any other it is a number like all others.
pub const AGAIN: Outcome = Outcome::Error(512);
/// As [`AGAIN`], but that any handler ends the call (`ERESTARTNOHAND`).
pub const AGAIN_UNLESS_HANDLED: Outcome = Outcome::Error(514);

/// What signals do to a call that was taken (docs/supervisor.md, "Interrupted calls").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grip {
    /// They end it at any moment: also an answer that the kernel has taken may come too late.
    Loose,
    /// They wait until it is answered (Linux 5.19), unless one has woken the thread a moment before the answer.
    Slipping,
    /// They wait until it is answered (Linux 6.18).
    Firm,
}

impl Grip {
    /// What this kernel has.
    pub fn here() -> Grip {
        // Where it knows the flag it asks for the filter next, which is not there.
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        // SAFETY: no filter is given.
        let asked = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, 0) };
        match Errno::result(asked) {
            Err(Errno::EFAULT) if is_at_least(6, 18) => Grip::Firm,
            Err(Errno::EFAULT) => Grip::Slipping,
            _ => Grip::Loose,
        }
    }

    /// The flags of a filter that has it.
    pub fn flags(self) -> libc::c_ulong {
        match self {
            Grip::Loose => libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            _ => libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        }
    }
}

/// Whether the kernel is this one or a later. Earlier ones may have had the correction put in: asking does no harm there.
pub fn is_at_least(major: u32, minor: u32) -> bool {
    let release = uname().ok().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default();
    release_of(&release).is_some_and(|release| release >= (major, minor))
}

fn release_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What a stopped call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Value(i64),
    Error(i32),
    /// The kernel does it, as the client has asked.
    Native,
}

impl Outcome {
    /// Whether the caller does not know what it has come to.
    pub fn is_interruption(self) -> bool {
        [AGAIN, AGAIN_UNLESS_HANDLED, Outcome::Error(libc::EINTR)].contains(&self)
    }
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
pub struct Listener {
    fd: OwnedFd,
    grip: Grip,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    pub fn new(fd: OwnedFd, grip: Grip) -> Listener {
        // Kernels before 6.6 do not know it, and are slower.
        // SAFETY: the flags are the argument itself.
        unsafe { libc::ioctl(fd.as_raw_fd(), SET_FLAGS as libc::Ioctl, SYNC_WAKE_UP) };
        Listener { fd, grip }
    }

    pub fn grip(&self) -> Grip {
        self.grip
    }

    /// What a stop or a freezer interrupts has done nothing, and is asked for again: an answer that is not given is waited for without
    /// end.
    fn ioctl<T>(&self, request: u64, argument: *mut T) -> Result<i32, Errno> {
        loop {
            // SAFETY: the structure is the one whose size the request's number has.
            match Errno::result(unsafe { libc::ioctl(self.fd.as_raw_fd(), request as libc::Ioctl, argument) }) {
                Err(Errno::EINTR) => {}
                done => return done,
            }
        }
    }

    /// `ENOENT`: its caller was interrupted or killed.
    pub fn take(&self) -> Result<Call, Errno> {
        let mut call = Call::default();
        self.ioctl(RECV, &raw mut call)?;
        Ok(call)
    }

    /// `ENOENT`: nobody waits for it any more. Otherwise the caller gets the answer, as far as the grip is not loose.
    pub fn answer(&self, id: u64, outcome: Outcome) -> Result<(), Errno> {
        if self.grip == Grip::Slipping && outcome != Outcome::Native {
            self.tighten(id)?;
        }
        self.reply(id, outcome)
    }

    /// As [`Self::answer`], of a call that may be made and answered again without harm.
    pub fn reply(&self, id: u64, outcome: Outcome) -> Result<(), Errno> {
        let (value, error, flags) = match outcome {
            Outcome::Value(value) => (value, 0, 0),
            Outcome::Error(error) => (0, -error, 0),
            Outcome::Native => (0, 0, CONTINUE),
        };
        let mut answer = Answer { id, value, error, flags };
        self.ioctl(SEND, &raw mut answer).map(drop)
    }

    /// Makes the thread go to sleep anew, which it does so that only its death wakes it: it is given a descriptor at a number that
    /// no process has, and says itself that it cannot take it.
    fn tighten(&self, id: u64) -> Result<(), Errno> {
        let from = self.fd.as_raw_fd() as u32;
        let mut add = AddFd { id, flags: SETFD, from, to: u32::MAX, to_flags: 0 };
        match self.ioctl(ADDFD, &raw mut add) {
            Err(Errno::EBADF) | Ok(_) => Ok(()),
            Err(_) => Err(Errno::ENOENT),
        }
    }

    /// Whether the caller still waits: then its thread's number is its own.
    pub fn waits(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(ID_VALID, &raw mut id).is_ok()
    }

    /// Puts `fd` at number `to` of the caller's, and answers the call with that number.
    ///
    /// In two steps, as what interrupts the putting (a stop of this process, a freezer) leaves it undone and is asked for again; were it
    /// interrupted as one step with the answer, the kernel (`seccomp_notify_addfd`) would have answered already, with 0. Only
    /// where a signal of the caller's may come between the two, and leave it a descriptor that it does not know of, it is one step.
    pub fn put_and_answer(&self, id: u64, fd: BorrowedFd<'_>, to: i32, cloexec: bool) -> Result<(), Errno> {
        let to_flags = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
        let from = fd.as_raw_fd() as u32;
        let mut add = AddFd { id, flags: SETFD, from, to: to as u32, to_flags };
        if self.grip == Grip::Loose {
            let mut both = AddFd { flags: SETFD | ADD_AND_SEND, ..add };
            match self.ioctl(ADDFD, &raw mut both) {
                Err(Errno::EINVAL) => {}
                result => return result.map(drop),
            }
        }
        if self.grip == Grip::Slipping {
            self.tighten(id)?;
        }
        self.ioctl(ADDFD, &raw mut add)?;
        self.reply(id, Outcome::Value(to.into()))
    }

    /// Whether this kernel puts descriptors into clients (Linux 5.9): of a call that nobody makes it says so, and an older one does
    /// not know the question.
    pub fn puts_descriptors(&self) -> bool {
        let from = self.fd.as_raw_fd() as u32;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_as_kernels_are_named() {
        assert_eq!(release_of("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(release_of("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(release_of("7.0-rc1"), Some((7, 0)));
        assert!(release_of("").is_none() && release_of("x.y").is_none());
        assert!(is_at_least(3, 10) && !is_at_least(1000, 0));
    }

    #[test]
    fn a_filter_has_the_flags_of_its_grip() {
        assert_eq!(Grip::Loose.flags() | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, Grip::Firm.flags());
        assert_eq!(Grip::Slipping.flags(), Grip::Firm.flags());
    }
}
