//! `send` and its kin. A send with exactly one vector whose base is NULL, on an endpoint with a TX ring, is a kick.

use super::chain::beyond;
use super::device_or_next;
use super::names::{bind_for_send, netlink_address};
use super::options::time_limit;
use super::receive::{Vectors, handlers_restart, is_nonblocking};
use super::request::{self, Buffer};
use super::table::Dev;
use crate::next;
use crate::symbols::{IoVec, Ptr, TimeSpec};
use core::ffi::{c_int, c_uint};
use core::sync::atomic::Ordering;
use nlmmap_ring::device_abi::{self as abi, Kick, KickAs, MESSAGE_ROOM, Send};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys::{self, MMsgHdr, MsgHdr, SOL_SOCKET, SockaddrNl};
use syscalls::Sysno;

const MSG_OOB: u32 = 1;
const SO_SNDTIMEO: c_int = 21;
const SCM_CREDENTIALS: i32 = 2;
const HEAD: usize = size_of::<Send>();
/// The longest `write` that reaches the daemon whole (docs/device.md).
const LARGEST: usize = (1 << 20) - sys::PAGE;
/// A receiver without room is tried again after each of these, doubling, in nanoseconds.
const FIRST_NAP: u64 = 50_000;
const LONGEST_NAP: u64 = 5_000_000;

/// A destination: nothing, or a whole netlink address.
#[derive(Clone, Copy)]
struct Destination(Option<SockaddrNl>);

impl Destination {
    fn of(msg: &MsgHdr) -> Result<Destination> {
        if msg.name.is_null() || msg.namelen == 0 {
            return Ok(Destination(None));
        }
        netlink_address(msg.name.cast(), msg.namelen).map(|name| Destination(Some(name)))
    }

    fn parts(self) -> (SockaddrNl, u32) {
        self.0.map_or((SockaddrNl::default(), 0), |name| (name, size_of::<SockaddrNl>() as u32))
    }

    fn is_kernel(self) -> bool {
        self.0.is_none_or(|name| name.portid == 0 && name.groups == 0)
    }
}

/// Process, user and group that a client names as the sender.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Named {
    pid: u32,
    uid: u32,
    gid: u32,
}

impl Named {
    /// What the kernel would tell of this process by itself.
    fn own() -> Named {
        let id = |call| {
            // SAFETY: no arguments.
            unsafe { sys::call(call, [0; 6]) }.unwrap_or(0) as u32
        };
        let [uid, gid] = [Sysno::getuid, Sysno::getgid].map(id);
        Named { pid: sys::getpid(), uid, gid }
    }
}

/// Ancillary data of a send: credentials are the only kind that netlink takes (`scm_send`).
unsafe fn named(msg: &MsgHdr) -> Result<Option<Named>> {
    const CMSGHDR: usize = 16;
    let (mut at, mut named) = (0, None);
    while !msg.control.is_null() && at + CMSGHDR <= msg.controllen {
        let mut bytes = [0u8; CMSGHDR + 12];
        let len = (msg.controllen - at).min(bytes.len());
        // SAFETY: inside the client's ancillary data.
        request::copy_in(unsafe { msg.control.add(at) }, bytes.get_mut(..len).unwrap_or(&mut []))?;
        let words = bytes.as_chunks::<4>().0;
        let word = |i: usize| words.get(i).map_or(0, |word| u32::from_ne_bytes(*word));
        let span = word(0) as usize;
        if span < CMSGHDR || word(1) != 0 || at + span > msg.controllen {
            return Err(Errno::INVAL);
        }
        if word(2) as i32 == SOL_SOCKET {
            if word(3) as i32 != SCM_CREDENTIALS || span != CMSGHDR + 12 {
                return Err(Errno::INVAL);
            }
            named = Some(Named { pid: word(4), uid: word(5), gid: word(6) });
        }
        at += span.next_multiple_of(8);
    }
    // What the daemon puts there by itself need not be said.
    Ok(named.filter(|named| *named != Named::own()))
}

/// One message, or a kick.
unsafe fn send_message(fd: c_int, dev: &Dev, msg: &MsgHdr, flags: u32) -> Result<usize> {
    if flags & MSG_OOB != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    // SAFETY: the caller's duty.
    let named = unsafe { named(msg)? };
    let dest = Destination::of(msg)?;
    bind_for_send(fd, dev)?;
    // SAFETY: as above.
    let vectors = unsafe { Vectors::new(msg.iov, msg.iovlen)? };
    if msg.iovlen == 1 && dev.tx.load(Ordering::Relaxed) {
        // SAFETY: as above.
        let only = unsafe { msg.iov.read_unaligned() };
        if only.base.is_null() {
            return kick(fd, dest, named, flags);
        }
    }
    if named.is_some() {
        // Only a kick can be told whose it is.
        return Err(Errno::PERM);
    }
    let len = vectors.len();
    let mut patience = Patience { until: None, nap: FIRST_NAP };
    loop {
        // SAFETY: as above.
        let sent = unsafe { attempt(fd, dest, msg, len) };
        match sent {
            // Nothing with a destructor is alive in a wait: cancellation may unwind from there.
            Err(Errno::AGAIN) if !is_nonblocking(fd, flags) => patience.wait(fd)?,
            // Kernels from 5.17 on refuse an empty datagram; 4.5 took it, and to the kernel it meant nothing.
            Err(Errno::NODATA) if len == 0 && dest.is_kernel() => return Ok(0),
            sent => return sent,
        }
    }
}

/// Sends the TX ring's frames, and waits at a receiver without room as a socket does.
fn kick(fd: c_int, dest: Destination, named: Option<Named>, flags: u32) -> Result<usize> {
    let (dest, dest_len) = dest.parts();
    let dest_len = if is_nonblocking(fd, flags) { dest_len | abi::KICK_DONTWAIT } else { dest_len };
    loop {
        let mut kick = Kick { dest, dest_len, sent: 0 };
        let done = match named {
            None => request::with(fd, abi::KICK, &mut kick),
            Some(Named { pid, uid, gid }) => {
                let mut named = KickAs { kick, flags: 0, pid, uid, gid };
                let done = request::with(fd, abi::KICK_AS, &mut named);
                kick = named.kick;
                done
            }
        };
        match done {
            Ok(_) => return Ok(kick.sent as usize),
            // The frame it was at is still there. With a time limit no send is taken up again.
            Err(Errno::INTR) if time_limit(fd, SO_SNDTIMEO).is_none() && handlers_restart() => {
                let at_once = TimeSpec { tv_sec: 0, tv_nsec: 0 };
                // A cancellation point, with nothing alive that has a destructor.
                // SAFETY: no descriptors, one time.
                unsafe { next::ppoll(core::ptr::null_mut(), 0, &raw const at_once, core::ptr::null()) };
            }
            Err(e) => return Err(e),
        }
    }
}

/// One message of `len` bytes, now or not.
unsafe fn attempt(fd: c_int, dest: Destination, msg: &MsgHdr, len: usize) -> Result<usize> {
    // SAFETY: the caller's duty.
    let mut vectors = unsafe { Vectors::new(msg.iov, msg.iovlen)? };
    if len <= MESSAGE_ROOM {
        let mut buffer = Buffer::take()?;
        let (name, dest_len) = dest.parts();
        buffer.put(&Send { dest: name, dest_len, flags: 0 });
        gather(&mut vectors, buffer.bytes().get_mut(HEAD..HEAD + len).unwrap_or(&mut []))?;
        return buffer.request(fd, abi::SEND, HEAD + len).map(|_| len);
    }
    if len > LARGEST {
        return Err(Errno::MSGSIZE);
    }
    let whole = sys::map_private(sys::pages(len))?;
    // SAFETY: mapped above, of that length, and nobody else's.
    let bytes = unsafe { core::slice::from_raw_parts_mut(whole, len) };
    let sent = gather(&mut vectors, bytes).and_then(|()| send_large(fd, dest, whole, len));
    // SAFETY: as above.
    unsafe { sys::unmap(whole, sys::pages(len)) };
    sent
}

/// By `write`, to where this thread has said before.
fn send_large(fd: c_int, dest: Destination, at: *mut u8, len: usize) -> Result<usize> {
    let (name, dest_len) = dest.parts();
    let mut head = Send { dest: name, dest_len, flags: abi::SEND_NEXT };
    request::with(fd, request::sized(abi::SEND, HEAD), &mut head)?;
    let args = [fd as usize, at as usize, len, 0, 0, 0];
    // The position means nothing, and a `write` would move it.
    // SAFETY: readable for that length.
    match unsafe { sys::call(Sysno::pwrite64, args) } {
        // ESPIPE: this node has no positions.
        // SAFETY: as above.
        Err(Errno(29)) => unsafe { sys::call(Sysno::write, args) },
        result => result,
    }
}

/// Copies a message together.
fn gather(vectors: &mut Vectors, to: &mut [u8]) -> Result<()> {
    let mut rest = to;
    while !rest.is_empty() {
        let Some((from, len)) = vectors.next(rest.len()) else { break };
        let Some((now, later)) = core::mem::take(&mut rest).split_at_mut_checked(len) else { break };
        // What cannot be an address of memory; anything else faults as it does in any library.
        if (from as usize) < 1 << 16 || (from as usize) >= 1 << 47 {
            return Err(Errno::FAULT);
        }
        // SAFETY: the client's duty for its buffers; ours is as long.
        unsafe { core::ptr::copy_nonoverlapping(from, now.as_mut_ptr(), len) };
        rest = later;
    }
    Ok(())
}

/// How long a send waits for a receiver that has no room.
struct Patience {
    /// Not known yet, for ever, or a time.
    until: Option<Option<u64>>,
    nap: u64,
}

impl Patience {
    fn wait(&mut self, fd: c_int) -> Result<()> {
        let until = *self
            .until
            .get_or_insert_with(|| time_limit(fd, SO_SNDTIMEO).map(|nanos| sys::now().saturating_add(nanos)));
        let left = until.map_or(u64::MAX, |until| until.saturating_sub(sys::now()));
        if left == 0 {
            return Err(Errno::AGAIN);
        }
        let time = TimeSpec { tv_sec: 0, tv_nsec: self.nap.min(left) as i64 };
        self.nap = (self.nap * 2).min(LONGEST_NAP);
        // SAFETY: no descriptors, one time.
        if unsafe { next::ppoll(core::ptr::null_mut(), 0, &raw const time, core::ptr::null()) } < 0 {
            return Err(next::errno());
        }
        Ok(())
    }
}

unsafe fn from_buffer(
    fd: c_int,
    dev: &Dev,
    buf: Ptr,
    len: usize,
    flags: c_int,
    name: Ptr,
    namelen: c_uint,
) -> Result<usize> {
    let mut iov = IoVec { base: buf.cast(), len };
    let msg = MsgHdr { name: name.cast(), namelen, iov: &raw mut iov, iovlen: 1, ..MsgHdr::EMPTY };
    // SAFETY: the caller's duty.
    unsafe { send_message(fd, dev, &msg, flags as u32) }
}

const NOBODY: Ptr = core::ptr::null_mut();

pub unsafe fn send(fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |dev: &Dev| unsafe { from_buffer(fd, dev, buf, len, flags, NOBODY, 0) },
        // SAFETY: handed on as it came.
        unsafe { beyond::send(fd, buf, len, flags) }
    )
}

pub unsafe fn sendto(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: c_uint) -> isize {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |dev: &Dev| unsafe { from_buffer(fd, dev, buf, len, flags, name, namelen) },
        // SAFETY: handed on as it came.
        unsafe { beyond::sendto(fd, buf, len, flags, name, namelen) }
    )
}

pub unsafe fn write(fd: c_int, buf: Ptr, len: usize) -> isize {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |dev: &Dev| unsafe { from_buffer(fd, dev, buf, len, 0, NOBODY, 0) },
        // SAFETY: handed on as it came.
        unsafe { beyond::write(fd, buf, len) }
    )
}

pub unsafe fn writev(fd: c_int, iov: *const IoVec, nr: c_int) -> isize {
    device_or_next!(
        fd,
        |dev: &Dev| {
            let iovlen = usize::try_from(nr).map_err(|_| Errno::INVAL)?;
            // Of no bytes: the kernel answers that before the socket is asked, so it is no kick.
            // SAFETY: the caller's duty.
            if unsafe { Vectors::new(iov, iovlen)? }.len() == 0 {
                return Ok(0);
            }
            let msg = MsgHdr { iov: iov.cast_mut(), iovlen, ..MsgHdr::EMPTY };
            // SAFETY: the caller's duty.
            unsafe { send_message(fd, dev, &msg, 0) }
        },
        // SAFETY: handed on as it came.
        unsafe { beyond::writev(fd, iov, nr) }
    )
}

unsafe fn from_header(fd: c_int, dev: &Dev, msg: *const MsgHdr, flags: c_int) -> Result<usize> {
    if msg.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the client's header.
    let head = unsafe { msg.read_unaligned() };
    // SAFETY: the caller's duty.
    unsafe { send_message(fd, dev, &head, flags as u32) }
}

pub unsafe fn sendmsg(fd: c_int, msg: *const MsgHdr, flags: c_int) -> isize {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |dev: &Dev| unsafe { from_header(fd, dev, msg, flags) },
        // SAFETY: handed on as it came.
        unsafe { beyond::sendmsg(fd, msg, flags) }
    )
}

pub unsafe fn sendmmsg(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int) -> c_int {
    device_or_next!(
        fd,
        |dev: &Dev| {
            let mut done = 0usize;
            while done < (nr as usize).min(1024) {
                // SAFETY: the client gives `nr` headers; `hdr` is the first member.
                match unsafe { from_header(fd, dev, msgs.add(done).cast(), flags) } {
                    // SAFETY: as above.
                    Ok(sent) => unsafe { (*msgs.add(done)).len = sent as u32 },
                    // As the kernel: an error shows only when nothing was sent.
                    Err(e) if done == 0 => return Err(e),
                    Err(_) => break,
                }
                done += 1;
            }
            Ok(done)
        },
        // SAFETY: handed on as it came.
        unsafe { beyond::sendmmsg(fd, msgs, nr, flags) }
    )
}
