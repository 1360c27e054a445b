//! The real netlink socket of an open file, in the worker that is where the client is.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use cuse_rs::Errno;
use nix::errno::Errno as Os;
use nlmmap_ring::abi::SOL_NETLINK;
use nlmmap_ring::sys::{self, MsgHdr, SockaddrNl};

use super::worker::move_up;
use super::worker::screen::Screen;

const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_DROP_MEMBERSHIP: i32 = 2;
const NETLINK_PKTINFO: i32 = 3;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;
/// Options that a client may set and get: those whose value is an int, and whose meaning is the socket's alone.
const OPTIONS: [(i32, i32); 10] = [
    (SOL_NETLINK, 4),  // NETLINK_BROADCAST_ERROR
    (SOL_NETLINK, 5),  // NETLINK_NO_ENOBUFS
    (SOL_NETLINK, 8),  // NETLINK_LISTEN_ALL_NSID
    (SOL_NETLINK, 10), // NETLINK_CAP_ACK
    (SOL_NETLINK, 11), // NETLINK_EXT_ACK
    (SOL_NETLINK, 12), // NETLINK_GET_STRICT_CHK
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE),
    (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE),
];
/// More than this is not asked of the real socket's buffer, however large the ring.
const MOST_BUFFER: usize = 32 << 20;

/// Whatever a netlink socket may answer.
const EVENTS: i16 =
    libc::POLLIN | libc::POLLRDNORM | libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND | libc::POLLPRI;
/// Instructions of a socket filter (`BPF_MAXINSNS`).
const MOST_INSTRUCTIONS: usize = 4096;

/// A netlink socket.
pub struct Socket {
    fd: OwnedFd,
    pub family: u32,
    screen: Screen,
}

fn os(error: nlmmap_ring::Errno) -> Errno {
    Errno::new(error.0)
}

fn last(result: i32) -> Result<(), Errno> {
    if result < 0 { Err(Errno::new(Os::last_raw())) } else { Ok(()) }
}

impl Socket {
    /// Makes a socket. Its descriptor's number is `base` or more.
    pub fn new(kind: u32, family: u32, base: i32) -> Result<Socket, Errno> {
        if kind != libc::SOCK_RAW as u32 && kind != libc::SOCK_DGRAM as u32 {
            return Err(Errno::new(libc::ESOCKTNOSUPPORT));
        }
        let kind = kind as i32 | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: numbers only.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, family.cast_signed()) };
        last(fd)?;
        // SAFETY: the kernel has just made it, and nobody else owns it.
        Ok(Socket { fd: move_up(unsafe { OwnedFd::from_raw_fd(fd) }, base), family, screen: Screen::new(family) })
    }

    /// A socket that another worker has made. Anything else is `EBADF`: that worker may be in its client's hands.
    pub fn adopt(fd: OwnedFd, family: u32, base: i32) -> Result<Socket, Errno> {
        let is = |name, value: i32| sys::getsockopt::<i32>(fd.as_raw_fd(), libc::SOL_SOCKET, name) == Ok(value);
        if !is(libc::SO_DOMAIN, libc::AF_NETLINK) || !is(libc::SO_PROTOCOL, family.cast_signed()) {
            return Err(Errno::EBADF);
        }
        Ok(Socket { fd: move_up(fd, base), family, screen: Screen::new(family) })
    }

    pub fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    pub fn screen(&self) -> &Screen {
        &self.screen
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub fn bind(&self, name: &SockaddrNl) -> Result<(), Errno> {
        // SAFETY: an address and its length.
        last(unsafe { libc::bind(self.raw(), std::ptr::from_ref(name).cast(), size_of_val(name) as u32) })
    }

    pub fn connect(&self, name: &SockaddrNl) -> Result<(), Errno> {
        // SAFETY: an address and its length.
        last(unsafe { libc::connect(self.raw(), std::ptr::from_ref(name).cast(), size_of_val(name) as u32) })
    }

    pub fn name(&self) -> Result<SockaddrNl, Errno> {
        let (mut name, mut len) = (SockaddrNl::default(), size_of::<SockaddrNl>() as u32);
        // SAFETY: an address and its length, both locals.
        last(unsafe { libc::getsockname(self.raw(), (&raw mut name).cast(), &raw mut len) })?;
        Ok(name)
    }

    /// Its number in `/proc/net/netlink`, 0 when that cannot be told.
    pub fn inode(&self) -> u64 {
        nix::sys::stat::fstat(&self.fd).map_or(0, |status| status.st_ino)
    }

    /// The address it is connected to.
    pub fn peer(&self) -> Result<SockaddrNl, Errno> {
        let (mut name, mut len) = (SockaddrNl::default(), size_of::<SockaddrNl>() as u32);
        // SAFETY: an address and its length, both locals.
        last(unsafe { libc::getpeername(self.raw(), (&raw mut name).cast(), &raw mut len) })?;
        Ok(name)
    }

    /// `setsockopt` of any bytes.
    pub fn set_bytes(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        // SAFETY: the kernel reads as many bytes as it is told.
        last(unsafe { libc::setsockopt(self.raw(), level, name, value.as_ptr().cast(), value.len() as u32) })
    }

    /// `SO_ATTACH_FILTER`: the value has the instructions themselves, where the socket option has their address.
    pub fn attach_filter(&self, value: &[u8]) -> Result<(), Errno> {
        let size = size_of::<libc::sock_filter>();
        if value.is_empty() || value.len() / size > MOST_INSTRUCTIONS || !value.len().is_multiple_of(size) {
            return Err(Errno::EINVAL);
        }
        let filter = value.as_ptr().cast_mut().cast();
        let program = libc::sock_fprog { len: (value.len() / size) as u16, filter };
        let len = size_of_val(&program) as u32;
        // SAFETY: the kernel reads the structure, and as many instructions as it says; it asks no alignment of them.
        last(unsafe {
            libc::setsockopt(self.raw(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), len)
        })
    }

    /// `getsockopt` into any bytes: how many were written.
    pub fn get_bytes(&self, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
        let mut len = value.len() as u32;
        // SAFETY: the kernel writes as many bytes as it is told at most.
        last(unsafe { libc::getsockopt(self.raw(), level, name, value.as_mut_ptr().cast(), &raw mut len) })?;
        Ok(len as usize)
    }

    pub fn membership(&self, add: bool, group: u32, has_ring: bool) -> Result<(), Errno> {
        let option = if add { NETLINK_ADD_MEMBERSHIP } else { NETLINK_DROP_MEMBERSHIP };
        sys::setsockopt(self.raw(), SOL_NETLINK, option, group.cast_signed()).map_err(os)?;
        if has_ring && add && group > 32 {
            sys::setsockopt(self.raw(), SOL_NETLINK, NETLINK_PKTINFO, 1).map_err(os)?;
        }
        Ok(())
    }

    pub fn set_option(&self, level: i32, name: i32, value: i32) -> Result<(), Errno> {
        if !OPTIONS.contains(&(level, name)) {
            return Err(Errno::new(libc::ENOPROTOOPT));
        }
        sys::setsockopt(self.raw(), level, name, value).map_err(os)
    }

    pub fn option(&self, level: i32, name: i32) -> Result<i32, Errno> {
        if !OPTIONS.contains(&(level, name)) {
            return Err(Errno::new(libc::ENOPROTOOPT));
        }
        sys::getsockopt(self.raw(), level, name).map_err(os)
    }

    /// How long a send may wait (`SO_SNDTIMEO`); none for ever.
    pub fn send_time_limit(&self) -> Result<Option<Duration>, Errno> {
        let [seconds, micros]: [u64; 2] =
            sys::getsockopt(self.raw(), libc::SOL_SOCKET, libc::SO_SNDTIMEO).map_err(os)?;
        let limit = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
        Ok((!limit.is_zero()).then_some(limit))
    }

    /// Takes the kernel's pending error of the socket.
    pub fn take_error(&self) -> i32 {
        sys::getsockopt(self.raw(), libc::SOL_SOCKET, libc::SO_ERROR).unwrap_or(0)
    }

    /// What `poll` says of the socket itself.
    pub fn events(&self) -> i16 {
        let mut entry = libc::pollfd { fd: self.raw(), events: EVENTS, revents: 0 };
        // SAFETY: one entry; no waiting.
        if unsafe { libc::poll(&raw mut entry, 1, 0) } < 0 { libc::POLLERR } else { entry.revents }
    }

    /// Sends one message, without sleeping. One that names a descriptor is `EPERM`.
    pub fn send(
        &self,
        mut dest: Option<SockaddrNl>,
        data: &[u8],
        credentials: Option<&Credentials>,
    ) -> Result<usize, Errno> {
        self.screen.judge(data).map_err(os)?;
        let mut vector = sys::IoVec { base: data.as_ptr().cast_mut(), len: data.len() };
        let mut message = MsgHdr { iov: &raw mut vector, iovlen: 1, ..MsgHdr::EMPTY };
        if let Some(dest) = &mut dest {
            message.name = std::ptr::from_mut(dest).cast();
            message.namelen = size_of_val(dest) as u32;
        }
        if let Some(credentials) = credentials {
            credentials.attach(&mut message);
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the header points to the data, which is only read, and to the credentials.
        let sent = unsafe { libc::sendmsg(self.raw(), std::ptr::from_ref(&message).cast(), flags) };
        last(if sent < 0 { -1 } else { 0 })?;
        Ok(sent.cast_unsigned())
    }

    /// Receives one message, without sleeping; what does not fit is cut off, as by `read`.
    pub fn receive(&self, room: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: the buffer is writable for its length.
        let got = unsafe { libc::recv(self.raw(), room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
        last(if got < 0 { -1 } else { 0 })?;
        Ok(got.cast_unsigned())
    }

    /// Makes the socket ready to fill a ring of so many bytes and frames: empty, with credentials and group numbers beside
    /// each message, and with room for a burst that the ring could hold.
    pub fn begin_ring(&self, bytes: usize, frames: usize) {
        self.drain();
        let fd = self.raw();
        // Of these only the frames' nm_pid, nm_uid, nm_gid and nm_group depend; the kernel refuses none of them.
        let _ = sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, 1);
        let groups = sys::getsockopt_over(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, [0u32; 64]).unwrap_or([0; 64]);
        if groups.iter().skip(1).any(|word| *word != 0) {
            let _ = sys::setsockopt(fd, SOL_NETLINK, NETLINK_PKTINFO, 1);
        }
        // The kernel doubles what it is asked for, and charges about 768 bytes for the smallest message.
        let want = (bytes / 2 + frames * 512).min(MOST_BUFFER) as i32;
        let have = sys::getsockopt::<i32>(fd, libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(i32::MAX);
        if have / 2 < want && sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, want).is_err() {
            // Without CAP_NET_ADMIN: as far as net.core.rmem_max goes.
            let _ = sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, want);
        }
    }

    /// Setting or freeing the receive ring empties the queue.
    pub fn drain(&self) {
        let mut nothing = [];
        for _ in 0..1_000_000 {
            match self.receive(&mut nothing) {
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => break,
            }
        }
    }
}

/// Ancillary data that names the client's process, where the kernel would name the worker.
#[repr(C, align(8))]
pub struct Credentials {
    len: usize,
    level: i32,
    kind: i32,
    pid: u32,
    uid: u32,
    gid: u32,
    pad: u32,
}

impl Credentials {
    pub const fn new(pid: u32, uid: u32, gid: u32) -> Credentials {
        Credentials { len: 28, level: libc::SOL_SOCKET, kind: libc::SCM_CREDENTIALS, pid, uid, gid, pad: 0 }
    }

    /// Puts them beside a message that is sent while they live.
    pub fn attach(&self, message: &mut MsgHdr) {
        message.control = std::ptr::from_ref(self).cast::<u8>().cast_mut();
        message.controllen = size_of::<Credentials>();
    }
}
