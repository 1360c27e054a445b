//! What front and workers say to each other: packets of a head, bytes and descriptors, over a `SOCK_SEQPACKET` pair.
//!
//! Front to worker: a request, whose `id` its answer repeats. Worker to front: answers, and [`op::READY`] once for each request
//! that asked to be told ([`flag::WATCH`]). Neither believes the other: a worker may be in its client's hands.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno as Os;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType};
use nix::sys::socket::{sendmsg, setsockopt, socketpair, sockopt};

use crate::serve::abi::{self, Words};

/// What a packet is about.
pub mod op {
    /// A new open file: makes its socket. Bytes: `abi::Socket`; `value` 1 for a character device; descriptor: shared state.
    pub const SOCKET: u32 = 1;
    /// `value` is the ioctl's number; bytes are its argument; for rings the descriptor of their memory, and the answer's
    /// `value` is 1 when they lie there now; for `MEMORY` that of the client's, that of the old one, and shared state.
    pub const IOCTL: u32 = 2;
    /// Bytes are an `abi::Send` and the message.
    pub const WRITE: u32 = 3;
    /// `value` is the room; never waits.
    pub const READ: u32 = 4;
    /// Answer: `value` holds the events.
    pub const POLL: u32 = 5;
    pub const CLOSE: u32 = 6;
    /// The open file goes elsewhere. Answer: bytes are its `Luggage`, the descriptor is its socket.
    pub const EVICT: u32 = 7;
    /// The other half. Descriptors: socket, ring memory, shared state.
    pub const ADOPT: u32 = 8;
    /// The request with the id `value` shall come to an end.
    pub const CANCEL: u32 = 9;
    /// Answered at once: the worker lives.
    pub const PING: u32 = 10;
    /// Takes the next TX frame. Answer: `value` 1 and its bytes, or 0 when there is none.
    pub const TAKE: u32 = 12;
    /// Bytes are the beginning of a message that somebody else will send on this socket, so many as `flags` says, and notes for
    /// its sieve; `value` 1: the answer has the socket.
    pub const SHARE: u32 = 13;
    /// Somebody else has sent on this socket, by the number `value`: fills the rings.
    pub const SERVICE: u32 = 14;
    /// Bytes are messages that are not sent: the client gets an error for each.
    pub const REFUSE: u32 = 15;
    /// To the grantor. A socket of family `value`, the descriptor, to send on.
    pub const BORROW: u32 = 16;
    /// To the grantor: lets go of it.
    pub const RETURN: u32 = 17;
    /// To the grantor. Bytes are a message that policy grants, for the kernel.
    pub const GRANTED: u32 = 18;
    /// To the grantor. A membership that policy grants: `value` is `BIND` or `ADD_MEMBERSHIP`, bytes its argument; `flags` 1 when
    /// there is a receive ring.
    pub const JOIN: u32 = 19;
    /// To the spawner. Bytes: `enter::Order`; descriptors: the channel, then namespaces.
    pub const SPAWN: u32 = 11;
    /// What [`TURN`] asked for.
    pub const GO_ON: u32 = 20;
    /// What passes through the rings is copied into the memory that is the descriptor; without one, no more. `value` 1: what has
    /// passed by now is not. Also what a capture asks the front.
    pub const TAP: u32 = 21;
    /// To the spawner. Allocates the first `value` bytes of a memory where a control group is charged for it. Descriptors: a channel
    /// for the answer, the group's directory, the memory. Answer: `value` 1 when the group was entered, else bytes say why not.
    pub const PAY: u32 = 22;
    /// The first packet of a worker, before it is its client's to stop: who it is.
    pub const HERE: u32 = 99;
    /// The second, once it is its client.
    pub const HELLO: u32 = 100;
    /// Instead of it: why there is none. Bytes are words.
    pub const FAILED: u32 = 101;
    pub const ANSWER: u32 = 102;
    /// Something can be read, or an error is pending, on `handle`.
    pub const READY: u32 = 103;
    /// It has worked for long, and waits for [`GO_ON`] before it goes on; `value` 0: it need not go on any more.
    pub const TURN: u32 = 104;
    /// In an audit, messages have arrived on `handle` that a rule would have withheld. Bytes: `policy::sieve::Heard`.
    pub const HEARD: u32 = 105;
}

/// Bits of [`Head::flags`].
pub mod flag {
    /// When the answer is that there is nothing: send [`super::op::READY`] once there is.
    pub const WATCH: u32 = 1;
    /// The bytes lie in a memfd, the last descriptor.
    pub const APART: u32 = 2;
}

/// The fixed part of a packet.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Head {
    pub op: u32,
    /// An errno, or 0.
    pub error: i32,
    pub flags: u32,
    /// The client's process id, where the client is; 0 when it is not to be named.
    pub pid: u32,
    pub id: u64,
    pub handle: u64,
    pub value: u64,
}

// SAFETY: integers without padding (four of 4 bytes, three of 8).
unsafe impl Words for Head {}

/// Longer bytes travel in a memfd: a packet is one piece of kernel memory.
const INLINE: usize = 32 << 10;
/// The most bytes of a packet.
const MOST: usize = 2 << 20;
/// The most descriptors of a packet.
const FDS: usize = 6;
/// What a channel's buffer holds.
const BUFFER: usize = 1 << 20;

/// A packet that came.
#[derive(Debug)]
pub struct Packet {
    pub head: Head,
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    /// The sender's process id, where the receiver asked for it.
    pub pid: i32,
    /// Descriptors came with it that this process has no room for: it has none.
    pub lacks: bool,
}

/// Two ends of a channel. Ends do not block.
pub fn channel() -> Result<(OwnedFd, OwnedFd), Os> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (front, back) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for end in [&front, &back] {
        // Fails without CAP_NET_ADMIN: then fewer packets fit, and more are queued on our side.
        let _ = setsockopt(end, sockopt::SndBufForce, &BUFFER);
    }
    Ok((front, back))
}

/// Asks for [`Packet::pid`].
pub fn tell_pid(channel: &OwnedFd) -> Result<(), Os> {
    setsockopt(channel, sockopt::PassCred, &true)
}

/// Sends a packet, without waiting.
pub fn send(channel: BorrowedFd<'_>, head: &Head, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Os> {
    let mut head = *head;
    let mut raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let (apart, bytes) = if bytes.len() > INLINE {
        let file = std::fs::File::from(crate::serve::memory::new()?);
        file.write_all_at(bytes, 0).map_err(|error| Os::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        head.flags |= flag::APART;
        raw.push(file.as_raw_fd());
        (Some(file), &[][..])
    } else {
        (None, bytes)
    };
    let parts = [IoSlice::new(abi::bytes(&head)), IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let sent = loop {
        match sendmsg::<()>(channel.as_raw_fd(), &parts, control, flags, None) {
            Err(Os::EINTR) => {}
            sent => break sent,
        }
    };
    drop(apart);
    sent.map(drop)
}

/// A place for one packet.
pub struct Receiver {
    buffer: Vec<u8>,
    /// Room for the descriptors of a packet and its sender.
    control: [u64; 9],
}

const _: () = assert!(
    // SAFETY: of a length, no pointers.
    unsafe { libc::CMSG_SPACE(4 * FDS as u32) + libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize <= 8 * 9
);

/// One packet as the kernel hands it over.
struct Raw {
    len: usize,
    /// Whether bytes are missing, or descriptors.
    cut: [bool; 2],
    fds: Vec<OwnedFd>,
    pid: i32,
}

impl Receiver {
    pub fn new() -> Receiver {
        Receiver { buffer: vec![0; size_of::<Head>() + INLINE], control: [0; 9] }
    }

    /// Every descriptor that the kernel has made here is owned from now on, also of a packet with more than it should have: whoever
    /// sends those would fill the table of the one that reads.
    fn take(&mut self, channel: BorrowedFd<'_>) -> Result<Raw, Os> {
        let mut part = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        // SAFETY: integers and pointers, for which zeroes are valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
        (header.msg_control, header.msg_controllen) =
            (self.control.as_mut_ptr().cast(), size_of_val(&self.control) as _);
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: a header that leads to buffers of ours, with their lengths.
        let len = Os::result(unsafe { libc::recvmsg(channel.as_raw_fd(), &raw mut header, flags) })? as usize;
        let cut = [libc::MSG_TRUNC, libc::MSG_CTRUNC].map(|flag| header.msg_flags & flag != 0);
        let (mut fds, mut pid) = (Vec::new(), 0);
        // SAFETY: the header is as the kernel has left it.
        let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: null, or an entry inside the control buffer.
        while let Some(entry) = unsafe { at.as_ref() } {
            // SAFETY: as above.
            let data = unsafe { libc::CMSG_DATA(at) };
            let room = entry.cmsg_len.saturating_sub(data as usize - at as usize);
            match (entry.cmsg_level, entry.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => fds.extend((0..room / 4).map(|i| {
                    // SAFETY: inside the entry. The kernel has just put it into our table, for us alone.
                    unsafe { OwnedFd::from_raw_fd(data.cast::<i32>().add(i).read_unaligned()) }
                })),
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if room >= size_of::<libc::ucred>() => {
                    // SAFETY: inside the entry.
                    pid = unsafe { data.cast::<libc::ucred>().read_unaligned() }.pid;
                }
                _ => {}
            }
            // SAFETY: as above.
            at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
        }
        Ok(Raw { len, cut, fds, pid })
    }

    /// Takes the next packet; none at the end of the channel. `EAGAIN` when there is none yet, `EBADMSG` for one that is not as
    /// it should be. One whose descriptors did not all come (this process has no room for more) has none, and says so; if its bytes
    /// were in one of them, or cannot be read, it has none of those either, and the reason as its error: somebody waits for an answer.
    pub fn receive(&mut self, channel: BorrowedFd<'_>) -> Result<Option<Packet>, Os> {
        let Raw { len, cut: [short, lacks], mut fds, pid } = self.take(channel)?;
        if len == 0 {
            return Ok(None);
        }
        if short || fds.len() > FDS {
            return Err(Os::EBADMSG);
        }
        if lacks {
            fds.clear();
        }
        let packet = self.buffer.get(..len).unwrap_or_default();
        let (head, bytes) = packet.split_at_checked(size_of::<Head>()).ok_or(Os::EBADMSG)?;
        let head: Head = abi::read(head).ok_or(Os::EBADMSG)?;
        let apart = match head.flags & flag::APART {
            0 => Ok(bytes.to_vec()),
            _ if lacks => Err(Os::EMFILE),
            _ => read_apart(fds.pop().ok_or(Os::EBADMSG)?)?,
        };
        Ok(Some(match apart {
            Ok(bytes) => Packet { head, bytes, fds, pid, lacks },
            Err(error) => {
                Packet { head: Head { error: error as i32, ..head }, bytes: Vec::new(), fds: Vec::new(), pid, lacks }
            }
        }))
    }
}

/// What lies in a memfd. The outer error is that of one that cannot be meant.
fn read_apart(file: OwnedFd) -> Result<Result<Vec<u8>, Os>, Os> {
    // Anything but a memfd might make us wait.
    fcntl(&file, FcntlArg::F_GET_SEALS).map_err(|_| Os::EBADMSG)?;
    let file = std::fs::File::from(file);
    let os = |error: std::io::Error| error.raw_os_error().map_or(Os::EIO, Os::from_raw);
    let len = match file.metadata() {
        Ok(there) => there.len() as usize,
        Err(error) => return Ok(Err(os(error))),
    };
    let mut bytes = vec![0; if len > MOST { return Err(Os::EBADMSG) } else { len }];
    Ok(file.read_exact_at(&mut bytes, 0).map_err(os).map(|()| bytes))
}

/// Sends, and waits until there is room: for a worker, whose front always reads on. Bytes that cannot be laid anywhere (they are long,
/// and no descriptor is left) become the reason of that: who waits for an answer has one.
pub fn send_waiting(channel: &OwnedFd, head: &Head, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Os> {
    loop {
        match send(channel.as_fd(), head, bytes, fds) {
            Err(Os::EAGAIN) => {
                let mut entry = libc::pollfd { fd: channel.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                // SAFETY: one entry.
                unsafe { libc::poll(&raw mut entry, 1, -1) };
            }
            Err(error)
                if bytes.len() > INLINE
                    && fds.is_empty()
                    && !matches!(error, Os::EPIPE | Os::ECONNRESET | Os::ENOBUFS | Os::ENOMEM) =>
            {
                return send_waiting(channel, &Head { error: error as i32, ..*head }, &[], &[]);
            }
            // No memory for a packet now: the kernel does not say when there is.
            Err(Os::ENOBUFS | Os::ENOMEM) => {
                // SAFETY: no entry, a time.
                unsafe { libc::poll(std::ptr::null_mut(), 0, 1) };
            }
            done => return done,
        }
    }
}

/// What holds in a process that has no room for one more descriptor.
#[cfg(test)]
pub(super) fn without_descriptors(holds: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child makes system calls and allocates, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a local.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) };
        let held = holds();
        // SAFETY: the end of the process.
        unsafe { libc::_exit(i32::from(!held)) };
    }
    let mut status = 0;
    // SAFETY: a child of ours, and a local.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As its last descriptor does: a child that another test has forked meanwhile may have one too.
    fn end(side: &OwnedFd) {
        nix::sys::socket::shutdown(side.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    }

    #[test]
    fn packets_arrive_as_they_were_sent() {
        let (front, back) = channel().unwrap();
        tell_pid(&front).unwrap();
        let mut receiver = Receiver::new();
        assert_eq!(receiver.receive(front.as_fd()).err(), Some(Os::EAGAIN));
        for len in [0, 1, INLINE, INLINE + 1, 1 << 20] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let head = Head { op: op::WRITE, id: 7, handle: len as u64, ..Head::default() };
            send(back.as_fd(), &head, &bytes, &[front.as_fd(), back.as_fd()]).unwrap();
            let packet = receiver.receive(front.as_fd()).unwrap().unwrap();
            assert_eq!((packet.head.id, packet.head.handle, packet.fds.len()), (7, len as u64, 2));
            assert_eq!(packet.bytes, bytes);
            assert_eq!(packet.pid.cast_unsigned(), std::process::id());
        }
        // Not a memfd, although it says so; and too short for a head.
        let head = Head { flags: flag::APART, ..Head::default() };
        send(back.as_fd(), &head, &[], &[front.as_fd()]).unwrap();
        assert_eq!(receiver.receive(front.as_fd()).err(), Some(Os::EBADMSG));
        nix::unistd::write(&back, &[1, 2, 3]).unwrap();
        assert_eq!(receiver.receive(front.as_fd()).err(), Some(Os::EBADMSG));
        end(&back);
        assert!(receiver.receive(front.as_fd()).unwrap().is_none());
    }

    /// Its bytes were in a descriptor for which there was no room: it was taken for no packet, and never answered.
    #[test]
    fn a_packet_that_cannot_be_read_is_one_with_an_error() {
        let (front, back) = channel().unwrap();
        let mut receiver = Receiver::new();
        let head = Head { op: op::WRITE, id: 7, ..Head::default() };
        send(back.as_fd(), &head, &[1; 2 * INLINE], &[]).unwrap();
        assert!(without_descriptors(|| {
            let packet = receiver.receive(front.as_fd()).ok().flatten();
            packet.is_some_and(|packet| {
                (packet.head.id, packet.head.error) == (7, libc::EMFILE) && packet.bytes.is_empty()
            })
        }));
    }

    /// It had none, as if none had been sent: a capture that was to begin ended, and all was well.
    #[test]
    fn a_packet_whose_descriptors_have_no_room_says_so() {
        let (front, back) = channel().unwrap();
        let mut receiver = Receiver::new();
        let head = Head { op: op::TAP, id: 7, ..Head::default() };
        send(back.as_fd(), &head, &[], &[front.as_fd()]).unwrap();
        assert!(without_descriptors(|| {
            let packet = receiver.receive(front.as_fd()).ok().flatten();
            packet.is_some_and(|packet| packet.lacks && packet.fds.is_empty() && packet.head.id == 7)
        }));
        let packet = receiver.receive(front.as_fd()).unwrap_err();
        assert_eq!(packet, Os::EAGAIN, "the child has had it");
        send(back.as_fd(), &head, &[], &[front.as_fd()]).unwrap();
        assert!(receiver.receive(front.as_fd()).unwrap().is_some_and(|packet| !packet.lacks));
    }

    /// A worker that could not send a long answer took its front for gone, and ended with all its open files.
    #[test]
    fn a_long_answer_that_cannot_be_sent_is_a_short_one_with_the_reason() {
        let (front, back) = channel().unwrap();
        let head = Head { op: op::ANSWER, id: 7, ..Head::default() };
        assert!(without_descriptors(|| send_waiting(&back, &head, &[1; 2 * INLINE], &[]).is_ok()));
        let packet = Receiver::new().receive(front.as_fd()).unwrap().unwrap();
        assert_eq!((packet.head.id, packet.head.error, packet.bytes.len()), (7, libc::EMFILE, 0));
        end(&front);
        assert_eq!(send_waiting(&back, &head, &[1; 2 * INLINE], &[]), Err(Os::EPIPE));
    }

    /// A worker in its client's hands sends more descriptors than a packet may have, and they stayed open in the front.
    #[test]
    fn descriptors_beyond_those_of_a_packet_are_closed() {
        let (front, back) = channel().unwrap();
        let mut receiver = Receiver::new();
        let (pipe, other) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        for many in [FDS + 1, 14, 15, 200] {
            let fds = vec![other.as_fd(); many];
            send(back.as_fd(), &Head::default(), &[1], &fds).unwrap();
            assert_eq!(receiver.receive(front.as_fd()).err(), Some(Os::EBADMSG), "{many}");
        }
        send(back.as_fd(), &Head::default(), &[1], &[other.as_fd(); FDS]).unwrap();
        assert_eq!(receiver.receive(front.as_fd()).unwrap().unwrap().fds.len(), FDS);
        drop(other);
        // Its end: nobody has the other one any more.
        assert_eq!(nix::unistd::read(&pipe, &mut [0]).unwrap(), 0);
    }
}
