//! Over a device node of `nlmmap serve`: the daemon plays the kernel role, this the client's.
//!
//! The rings are memory that another process writes. So no slice of them is ever made: a message is copied once into a frame
//! of this process ([`Frames`](super::frames)), judged there, and the node's frame given back at once; what a program holds
//! never blocks the node's ring, and nothing the daemon does can change it. The interface is `include/nlmmap.h`.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nlmmap_ring::abi::{nl_mmap_req, status};
use nlmmap_ring::endpoint::LARGEST;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::memory::{Frames as _, RingMemory};
use nlmmap_ring::sys::{self, AF_NETLINK, SockaddrNl};

use super::error::{Error, Result};
use super::frames::{Frames, Place};
use super::message::{Credentials, Message, Meta};
use super::transmit::{Writer, address};
use super::{Destination, Family, socket};

const ABI: u32 = 1;
const MAP_MEMORY: u32 = 2;
const READ: u32 = 2;
const WRITE: u32 = 1;

/// `struct nlmmap_kick`
#[derive(Clone, Copy)]
#[repr(C)]
struct Kick {
    dest: SockaddrNl,
    dest_len: u32,
    sent: u64,
}

/// `_IOC`
const fn number<T>(direction: u32, nr: u32) -> u32 {
    direction << 30 | (size_of::<T>() as u32) << 16 | 0xDA << 8 | nr
}

const VERSION: u32 = number::<[u32; 4]>(READ, 0x00);
const SOCKET: u32 = number::<[u32; 2]>(WRITE, 0x01);
const BIND: u32 = number::<SockaddrNl>(WRITE, 0x02);
const GETSOCKNAME: u32 = number::<SockaddrNl>(READ, 0x04);
const ADD_MEMBERSHIP: u32 = number::<u32>(WRITE, 0x05);
const DROP_MEMBERSHIP: u32 = number::<u32>(WRITE, 0x06);
const SETSOCKOPT: u32 = number::<[i32; 3]>(WRITE, 0x07);
const RX_RING: u32 = number::<nl_mmap_req>(WRITE, 0x09);
const TX_RING: u32 = number::<nl_mmap_req>(WRITE, 0x0a);
const MAP_INFO: u32 = number::<[u64; 3]>(READ, 0x0b);
const MEMORY: u32 = number::<i32>(WRITE, 0x0c);
/// Beside a kick's length of address: no waiting for a receiver.
const KICK_DONTWAIT: u32 = 1 << 31;
const KICK: u32 = number::<Kick>(READ | WRITE, 0x0d);
const GET_ERROR: u32 = number::<i32>(READ, 0x0e);

/// An open node.
#[derive(Debug)]
pub(super) struct Node {
    file: File,
}

/// What a node that has lost its daemon answers: a ring file whose connection is aborted, a character device that is gone.
fn is_gone(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED | libc::ENODEV | libc::ENXIO)
}

fn failed(what: &'static str) -> Error {
    match Error::last(what) {
        error if is_gone(error.errno()) => Error::NodeGone,
        error => error,
    }
}

impl Node {
    /// Opens it, and asks what it is.
    pub(super) fn open(path: &Path) -> Result<Node> {
        let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let node = Node { file: file.map_err(|source| Error::System { what: "the device node", source })? };
        let not = |why| Error::NotNode { path: path.display().to_string().into(), why };
        let mut version = [0u32; 4];
        match node.ioctl("NLMMAP_VERSION", VERSION, &mut version) {
            Ok(()) if version[0] == ABI => Ok(node),
            Ok(()) => Err(not("it has another version of the interface")),
            Err(error) if error.errno() == libc::ENOTTY => Err(not("it does not answer as one")),
            Err(error) => Err(error),
        }
    }

    /// The ioctl, with an argument of as many bytes as its number says.
    fn ioctl<T: Copy>(&self, what: &'static str, number: u32, argument: &mut T) -> Result<()> {
        debug_assert_eq!(number >> 16 & 0x3fff, size_of::<T>() as u32);
        // SAFETY: the number says how many bytes the kernel reads and writes there: those of the argument, made of integers.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), number as _, std::ptr::from_mut(argument)) } {
            0.. => Ok(()),
            _ => Err(failed(what)),
        }
    }

    /// Makes the socket behind it, and binds that.
    pub(super) fn socket(&self, namespace: Option<&OwnedFd>, family: Family, portid: u32) -> Result<()> {
        let made = socket::in_namespace(namespace, || {
            self.ioctl("NLMMAP_SOCKET", SOCKET, &mut [libc::SOCK_RAW.cast_unsigned(), family.0])
        });
        made.map_err(|error| match error.errno() {
            libc::EPROTONOSUPPORT => Error::NoFamily(family),
            _ => error,
        })?;
        self.ioctl("NLMMAP_BIND", BIND, &mut address(Destination { portid, groups: 0 }))
    }

    pub(super) fn membership(&self, family: Family, mut group: u32, join: bool) -> Result<()> {
        let number = if join { ADD_MEMBERSHIP } else { DROP_MEMBERSHIP };
        self.ioctl("membership of a multicast group", number, &mut group).map_err(|error| match error.errno() {
            libc::EINVAL => Error::NoGroup { family, group },
            _ => error,
        })
    }

    fn portid(&self) -> Result<u32> {
        let mut name = SockaddrNl { family: AF_NETLINK, ..SockaddrNl::default() };
        self.ioctl("NLMMAP_GETSOCKNAME", GETSOCKNAME, &mut name)?;
        Ok(name.portid)
    }

    /// Sets the rings and maps them.
    pub(super) fn map(self, rx: &Geometry, tx: &Geometry, buffer: usize) -> Result<MappedNode> {
        let bytes = i32::try_from(buffer).unwrap_or(i32::MAX / 2);
        for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
            // As far as the client may: a smaller buffer is no reason to have none.
            if self.ioctl("NLMMAP_SETSOCKOPT", SETSOCKOPT, &mut [libc::SOL_SOCKET, option, bytes]).is_ok() {
                break;
            }
        }
        self.ioctl("NLMMAP_RX_RING", RX_RING, &mut rx.request())?;
        self.ioctl("NLMMAP_TX_RING", TX_RING, &mut tx.request())?;
        // struct nlmmap_map_info: how and padding in the first word, then two lengths.
        let mut info = [0u64; 3];
        self.ioctl("NLMMAP_MAP_INFO", MAP_INFO, &mut info)?;
        let [a, b, c, d, ..] = info[0].to_ne_bytes();
        let how = u32::from_ne_bytes([a, b, c, d]);
        if info[1] != rx.len() as u64 || info[2] != tx.len() as u64 {
            return Err(Error::system("NLMMAP_MAP_INFO", libc::EPROTO));
        }
        let len = rx.len() + tx.len();
        let map = if how == MAP_MEMORY { self.hand_over(len)? } else { map(self.file.as_fd(), len)? };
        let base = map.as_mut_ptr();
        // SAFETY: both lie in the mapping, receive first, whole pages each; it lives as long as the node, and no reference to it
        // is made.
        let (rx, tx) = unsafe { (RingMemory::new(base, *rx), RingMemory::new(base.add(rx.len()), *tx)) };
        Ok(MappedNode { node: self, rx, tx, pos: Cell::new(0), writer: Writer::default(), _map: map })
    }

    /// Memory of ours for the daemon, which keeps its size.
    fn hand_over(&self, len: usize) -> Result<MmapRaw> {
        let fd = sys::memfd(len).map_err(|errno| Error::system("memfd_create", errno.0))?;
        // SAFETY: just made, and nobody else owns it. The daemon has its own by the time it is closed.
        let memory = unsafe { OwnedFd::from_raw_fd(fd) };
        let map = map(memory.as_fd(), len)?;
        self.ioctl("NLMMAP_MEMORY", MEMORY, &mut memory.as_raw_fd())?;
        Ok(map)
    }
}

fn map(fd: BorrowedFd<'_>, len: usize) -> Result<MmapRaw> {
    MmapOptions::new().len(len).map_raw(&fd).map_err(|source| Error::System { what: "mmap of the rings", source })
}

/// A node with its rings.
#[derive(Debug)]
pub(super) struct MappedNode {
    node: Node,
    rx: RingMemory,
    tx: RingMemory,
    /// The next frame of the receive ring.
    pos: Cell<u32>,
    writer: Writer,
    _map: MmapRaw,
}

impl MappedNode {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.file.as_fd()
    }

    pub(super) fn frame_nr(&self) -> u32 {
        self.rx.frame_nr()
    }

    pub(super) fn portid(&self) -> Result<u32> {
        self.node.portid()
    }

    pub(super) fn membership(&self, family: Family, group: u32, join: bool) -> Result<()> {
        self.node.membership(family, group, join)
    }

    /// Sends what is filled, then takes the next message.
    pub(super) fn receive<'a>(&self, frames: &'a Frames) -> Result<Option<Message<'a>>> {
        if let Some(message) = self.take(frames)? {
            return Ok(Some(message));
        }
        if self.writer.has_filled() {
            self.kick(Destination::KERNEL)?;
        }
        // Replies are in the ring when a kick returns; and whoever does not wait asks the daemon to look.
        self.take(frames)
    }

    /// Takes the next message from the ring, if there is one.
    pub(super) fn take<'a>(&self, frames: &'a Frames) -> Result<Option<Message<'a>>> {
        loop {
            let pos = self.pos.get();
            let found = self.rx.status(pos);
            if found != status::VALID && found != status::COPY {
                return Ok(None);
            }
            // Read once, and only this copy is judged.
            let hdr = self.rx.read_header(pos);
            let len = hdr.len as usize;
            let room = frames.room();
            if found == status::VALID && (len == 0 || len > room) {
                // A frame that was given up; or one that says more than it has, which is no message.
                self.release(pos);
                continue;
            }
            let place = if len <= room {
                Place::Frame(frames.free_frame(0).ok_or(Error::AllHeld { large: false })?)
            } else {
                let spills = frames.free_spills();
                if spills == 0 {
                    return Err(Error::AllHeld { large: true });
                }
                Place::Spill(spills.trailing_zeros())
            };
            let to = match place {
                Place::Frame(free) => frames.ring().payload(free),
                Place::Spill(index) => frames.spill(index),
            };
            let len = if found == status::VALID {
                // SAFETY: the place is free and holds `len` bytes.
                unsafe { self.rx.read_payload(pos, to, len) };
                len
            } else {
                // SAFETY: the place is free and holds as many bytes.
                match unsafe { self.read(to, len.min(frames.largest())) } {
                    // Somebody else who has this open file has read it.
                    Err(error) if error.errno() == libc::EAGAIN => {
                        self.release(pos);
                        continue;
                    }
                    got => got?,
                }
            };
            self.release(pos);
            if hdr.len as usize > frames.largest() {
                return Err(Error::Truncated { len: hdr.len as usize, room: frames.largest() });
            }
            let credentials = Credentials { pid: hdr.pid, uid: hdr.uid, gid: hdr.gid };
            let meta = Meta {
                // Frames do not tell port ids. The kernel's credentials are all 0; no process that the daemon can see has its pid.
                portid: (credentials == Credentials::default()).then_some(0),
                group: hdr.group,
                credentials: Some(credentials),
            };
            // SAFETY: the place is free and holds the bytes; this is the receiving side (`RingSocket` is not `Sync`).
            return Ok(Some(Message::new(unsafe { frames.lend(place, len) }, meta)));
        }
    }

    fn release(&self, pos: u32) {
        self.rx.set_status(pos, status::UNUSED);
        self.pos.set(self.rx.next(pos));
    }

    /// `read` of a message that is in no frame.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    unsafe fn read(&self, to: *mut u8, len: usize) -> Result<usize> {
        // SAFETY: the caller's duty.
        let got = unsafe { libc::read(self.node.file.as_raw_fd(), to.cast(), len) };
        usize::try_from(got).map_err(|_| match failed("read of a message that no frame holds") {
            error if error.errno() == libc::ENOBUFS => Error::Overrun,
            error => error,
        })
    }

    /// Waits until the daemon has filled a frame.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Result<()> {
        let events = socket::wait(&self.node.file, limit)?;
        if events & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) == 0 {
            return Ok(());
        }
        let mut error = 0i32;
        self.node.ioctl("NLMMAP_GET_ERROR", GET_ERROR, &mut error)?;
        match error {
            0 => Ok(()),
            libc::ENOBUFS => Err(Error::Overrun),
            errno => Err(Error::system("the socket behind the node", errno)),
        }
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > self.tx.geometry().room() as usize {
            self.kick(Destination::KERNEL)?;
            // SAFETY: the slice is readable for its length.
            let sent = unsafe { libc::write(self.node.file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
            return if sent < 0 { Err(failed("send")) } else { Ok(()) };
        }
        self.make_room()?;
        self.writer.fill(&self.tx, bytes);
        Ok(())
    }

    pub(super) fn send_to(&self, bytes: &[u8], to: Destination) -> Result<()> {
        if bytes.len() > self.tx.geometry().room() as usize {
            // `write` goes to the kernel alone.
            return Err(Error::system("send: over a device node a frame must hold it", libc::EMSGSIZE));
        }
        self.kick(Destination::KERNEL)?;
        self.make_room()?;
        self.writer.fill(&self.tx, bytes);
        self.kick(to).map(drop)
    }

    fn make_room(&self) -> Result<()> {
        if !self.writer.is_free(&self.tx) {
            self.kick(Destination::KERNEL)?;
        }
        if self.writer.is_free(&self.tx) { Ok(()) } else { Err(Error::system("send", libc::ENOBUFS)) }
    }

    /// Has the daemon send what is filled: how many bytes.
    pub(super) fn kick(&self, to: Destination) -> Result<usize> {
        if !self.writer.has_filled() {
            return Ok(0);
        }
        let mut kick = Kick { dest: address(to), dest_len: size_of::<SockaddrNl>() as u32 | KICK_DONTWAIT, sent: 0 };
        let kicked = self.node.ioctl("send", KICK, &mut kick);
        // After an error later frames may wait still.
        self.writer.set_filled(kicked.is_err());
        kicked.map(|()| usize::try_from(kick.sent).unwrap_or(usize::MAX))
    }
}

const _: () = assert!(size_of::<Kick>() == 24 && LARGEST >= 64 << 10);
