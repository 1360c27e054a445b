//! The netlink socket of an in-process `RingSocket`: made or handed in, and made ready.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nlmmap_ring::abi::SOL_NETLINK;
use nlmmap_ring::sys::{self, AF_NETLINK, SockaddrNl};

use super::Family;
use super::error::{Error, Result};

const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_DROP_MEMBERSHIP: i32 = 2;
const NETLINK_PKTINFO: i32 = 3;

/// The sender's address names groups up to this one; others come by ancillary data.
pub(super) const GROUPS_IN_ADDRESS: u32 = 32;

/// Runs `f` in a network namespace: on a thread that ends with it, so that no other one is ever there.
pub(super) fn in_namespace<T: Send>(namespace: Option<&OwnedFd>, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Some(namespace) = namespace else { return f() };
    let enter = || {
        // SAFETY: numbers only.
        match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => f(),
            _ => Err(Error::last("setns to the network namespace")),
        }
    };
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, enter) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(source) => Err(Error::System { what: "a thread for the network namespace", source }),
    })
}

/// A socket of the family.
pub(super) fn open(family: Family) -> Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family.0.cast_signed()) };
    if fd < 0 {
        return Err(match Error::last("socket") {
            error if error.errno() == libc::EPROTONOSUPPORT => Error::NoFamily(family),
            error => error,
        });
    }
    // SAFETY: the kernel has just made it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a descriptor is a netlink socket of the family.
pub(super) fn judge(fd: BorrowedFd<'_>, family: Family) -> Result<()> {
    let option = |name| sys::getsockopt::<i32>(fd.as_raw_fd(), libc::SOL_SOCKET, name);
    match option(libc::SO_DOMAIN) {
        Ok(domain) if domain == i32::from(AF_NETLINK) => {}
        Ok(_) | Err(nlmmap_ring::Errno::NOTSOCK) => return Err(Error::NotNetlink),
        Err(errno) => return Err(Error::system("getsockopt", errno.0)),
    }
    let found = option(libc::SO_PROTOCOL).map_err(|errno| Error::system("getsockopt", errno.0))?;
    let found = Family(found.cast_unsigned());
    if found == family { Ok(()) } else { Err(Error::OtherFamily { found, wanted: family }) }
}

/// The port id a socket is bound to, 0 for none.
pub(super) fn portid(fd: BorrowedFd<'_>) -> Result<u32> {
    let (mut name, mut len) = (SockaddrNl::default(), size_of::<SockaddrNl>() as libc::socklen_t);
    // SAFETY: an address and its length, both locals.
    match unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut name).cast(), &raw mut len) } {
        0 => Ok(name.portid),
        _ => Err(Error::last("getsockname")),
    }
}

/// Binds it to a port id, 0 for one of the kernel's choice, unless it is bound.
pub(super) fn bind(fd: BorrowedFd<'_>, wanted: u32) -> Result<()> {
    let bound = portid(fd)?;
    if bound != 0 && (wanted == 0 || wanted == bound) {
        return Ok(());
    }
    let name = SockaddrNl { family: AF_NETLINK, pad: 0, portid: wanted, groups: 0 };
    let len = size_of::<SockaddrNl>() as libc::socklen_t;
    // SAFETY: an address and its length.
    match unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), len) } {
        0 => Ok(()),
        _ => Err(Error::last("bind")),
    }
}

/// Joins or leaves a group.
pub(super) fn membership(fd: BorrowedFd<'_>, family: Family, group: u32, join: bool) -> Result<()> {
    let option = if join { NETLINK_ADD_MEMBERSHIP } else { NETLINK_DROP_MEMBERSHIP };
    let set = |option, value| sys::setsockopt(fd.as_raw_fd(), SOL_NETLINK, option, value);
    set(option, group.cast_signed()).map_err(|errno| match errno {
        nlmmap_ring::Errno::INVAL => Error::NoGroup { family, group },
        errno => Error::system("membership of a multicast group", errno.0),
    })?;
    if join && group > GROUPS_IN_ADDRESS {
        set(NETLINK_PKTINFO, 1).map_err(|errno| Error::system("NETLINK_PKTINFO", errno.0))?;
    }
    Ok(())
}

/// Makes the receive buffer `bytes` large at least, as far as this process may.
pub(super) fn receive_buffer(fd: BorrowedFd<'_>, bytes: usize) {
    let fd = fd.as_raw_fd();
    // The kernel doubles what it is asked for, for its own bookkeeping, and answers the double.
    let want = i32::try_from(bytes).unwrap_or(i32::MAX / 2);
    let have = sys::getsockopt::<i32>(fd, libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(0);
    if have / 2 < want && sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, want).is_err() {
        // Without CAP_NET_ADMIN: as far as net.core.rmem_max goes.
        let _ = sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, want);
    }
}

/// Sees that credentials come with each message.
pub(super) fn pass_credentials(fd: BorrowedFd<'_>) -> Result<()> {
    sys::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 1)
        .map_err(|errno| Error::system("SO_PASSCRED", errno.0))
}

/// Waits until the descriptor is readable or has an error: what `poll` says, 0 when the time is over.
pub(super) fn wait(fd: &impl AsFd, limit: Option<Duration>) -> Result<i16> {
    let mut entry = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: one entry and a time, both locals; the signal mask stays.
    if unsafe { libc::ppoll(&raw mut entry, 1, limit, std::ptr::null()) } < 0 {
        return Err(Error::System { what: "poll", source: io::Error::last_os_error() });
    }
    Ok(entry.revents)
}
