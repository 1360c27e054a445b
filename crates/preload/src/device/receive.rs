//! `recv` and its kin: messages that are in no frame, with sender and ancillary data.

use super::chain::beyond;
use super::device_or_next;
use super::options::time_limit;
use super::request::Buffer;
use super::table::Dev;
use crate::next;
use crate::symbols::{IoVec, PollFd, Ptr, TimeSpec};
use core::ffi::{c_int, c_uint};
use nlmmap_ring::device_abi::{self as abi, CONTROL_ROOM, MESSAGE_ROOM, MESSAGE_STAYS, Message, Part};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys::{self, MMsgHdr, MSG_CTRUNC, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_WAITFORONE, MsgHdr};
use syscalls::Sysno;

const MSG_OOB: u32 = 1;
const SO_RCVTIMEO: c_int = 20;
const STALE: Errno = Errno(116);
/// `POLLMSG`: a message for a receive, where `POLLIN` also stands for frames.
const POLLMSG: i16 = 0x400;
const HEAD: usize = size_of::<Message>();
const PART: usize = size_of::<Part>();
/// Most vectors of one call (`UIO_MAXIOV`).
const VECTORS: usize = 1024;

/// The client's vectors, filled in order.
pub(super) struct Vectors {
    at: *const IoVec,
    count: usize,
    /// Bytes of the first vector that are done with.
    done: usize,
}

impl Vectors {
    /// # Safety
    /// `count` vectors can be read at `at`.
    pub(super) unsafe fn new(at: *const IoVec, count: usize) -> Result<Vectors> {
        if count > VECTORS {
            return Err(Errno::MSGSIZE);
        }
        if count > 0 && at.is_null() {
            return Err(Errno::FAULT);
        }
        Ok(Vectors { at, count, done: 0 })
    }

    pub(super) fn len(&self) -> usize {
        // SAFETY: `new`'s caller vouches for them.
        (0..self.count).fold(0, |sum: usize, i| sum.saturating_add(unsafe { self.at.add(i).read_unaligned() }.len))
    }

    /// The next piece of at most `most` bytes.
    pub(super) fn next(&mut self, most: usize) -> Option<(*mut u8, usize)> {
        while self.count > 0 {
            // SAFETY: as above.
            let vector = unsafe { self.at.read_unaligned() };
            if self.done < vector.len {
                let len = (vector.len - self.done).min(most);
                let at = vector.base.wrapping_add(self.done);
                self.done += len;
                return Some((at, len));
            }
            // SAFETY: at most one past the last.
            self.at = unsafe { self.at.add(1) };
            (self.count, self.done) = (self.count - 1, 0);
        }
        None
    }

    /// Copies bytes to where they belong.
    unsafe fn fill(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some((at, len)) = self.next(bytes.len()) else { break };
            let (now, later) = bytes.split_at_checked(len).unwrap_or((bytes, &[]));
            // SAFETY: the client's duty for its buffers.
            unsafe { sys::copy_out(now, at)? };
            bytes = later;
        }
        Ok(())
    }
}

/// Whether a call may not wait.
pub(super) fn is_nonblocking(fd: c_int, flags: u32) -> bool {
    flags & MSG_DONTWAIT != 0
        // SAFETY: numbers only. F_GETFL is 3, O_NONBLOCK 0o4000.
        || unsafe { sys::call(Sysno::fcntl, [fd as usize, 3, 0, 0, 0, 0]) }.is_ok_and(|fl| fl & 0o4000 != 0)
}

/// Waits for a message, by a call of the program's own kind: interrupted by signals, a cancellation point.
fn wait(fd: c_int, until: Option<u64>) -> Result<()> {
    let mut entry = PollFd { fd, events: POLLMSG, revents: 0 };
    let left = until.map(|until| until.saturating_sub(sys::now()));
    if left == Some(0) {
        return Err(Errno::AGAIN);
    }
    let spec = left.map(|n| TimeSpec { tv_sec: (n / 1_000_000_000) as i64, tv_nsec: (n % 1_000_000_000) as i64 });
    let limit = spec.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: one entry and an optional time, both locals.
    if unsafe { next::ppoll(&raw mut entry, 1, limit, core::ptr::null()) } >= 0 {
        return Ok(());
    }
    match next::errno() {
        // A receive with a time limit is never taken up again; one without is if every handler wants that.
        Errno::INTR if until.is_none() && handlers_restart() => Ok(()),
        e => Err(e),
    }
}

/// Whether every signal handler of this process has `SA_RESTART`: then the one that has just run had it. Where they differ
/// nobody can tell which it was, and the interruption is shown.
pub(super) fn handlers_restart() -> bool {
    const SA_RESTART: u64 = 0x1000_0000;
    (1..=64).all(|number| {
        // The kernel's sigaction: handler, flags, restorer, mask.
        let mut action = [0u64; 4];
        let args = [number, 0, action.as_mut_ptr() as usize, 8, 0, 0];
        // SAFETY: the kernel writes one sigaction to a local.
        let known = unsafe { sys::call(Sysno::rt_sigaction, args) };
        // SIG_DFL and SIG_IGN are 0 and 1.
        known.is_err() || action[0] < 2 || action[1] & SA_RESTART != 0
    })
}

/// One message into the client's header.
pub(super) unsafe fn receive(fd: c_int, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
    if flags & MSG_OOB != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let mut until = None;
    loop {
        // Nothing with a destructor is alive in a wait: cancellation may unwind from there.
        // SAFETY: the caller's duty for the client's header.
        match unsafe { once(fd, msg, flags) } {
            Err(STALE) => {}
            Err(Errno::AGAIN) if !is_nonblocking(fd, flags) => {
                if until.is_none() {
                    until = Some(time_limit(fd, SO_RCVTIMEO).map(|nanos| sys::now().saturating_add(nanos)));
                }
                wait(fd, until.flatten())?;
            }
            result => return result,
        }
    }
}

unsafe fn once(fd: c_int, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
    let mut buffer = Buffer::take()?;
    // SAFETY: the caller's duty.
    let mut vectors = unsafe { Vectors::new(msg.iov, msg.iovlen)? };
    let (room, peek) = (vectors.len(), flags & MSG_PEEK != 0);
    let number = if peek { abi::PEEK } else { abi::RECV };
    buffer.request(fd, number, HEAD + CONTROL_ROOM + room.min(MESSAGE_ROOM))?;
    let head: Message = buffer.get();
    let control_len = (head.control_len as usize).min(CONTROL_ROOM);
    let start = (HEAD + control_len).next_multiple_of(8);
    let mut have = (head.data_len as usize).min(room);
    let mut control = [0u8; CONTROL_ROOM];
    for (to, from) in control.iter_mut().zip(buffer.bytes().get(HEAD..HEAD + control_len).unwrap_or(&[])) {
        *to = *from;
    }
    // SAFETY: the client's duty for its buffers.
    unsafe { vectors.fill(buffer.bytes().get(start..start + have).unwrap_or(&[]))? };
    let wanted = room.min(head.len as usize);
    while have < wanted {
        let size = (wanted - have).min(MESSAGE_ROOM);
        buffer.put(&Part { serial: head.serial, offset: have as u32, data_len: 0 });
        buffer.request(fd, abi::PART, PART + size)?;
        let got = (buffer.get::<Part>().data_len as usize).min(size);
        if got == 0 {
            return Err(STALE);
        }
        // SAFETY: as above.
        unsafe { vectors.fill(buffer.bytes().get(PART..PART + got).unwrap_or(&[]))? };
        have += got;
    }
    if head.flags & MESSAGE_STAYS != 0 {
        buffer.put(&Part { serial: head.serial, offset: 0, data_len: 0 });
        buffer.request(fd, abi::PART, PART)?;
    }
    msg.flags = head.flags & !MESSAGE_STAYS & !MSG_TRUNC | flags & sys::MSG_CMSG_CLOEXEC;
    if have < head.len as usize || head.flags & MSG_TRUNC != 0 && (head.len as usize) <= room {
        msg.flags |= MSG_TRUNC;
    }
    if !msg.name.is_null() {
        let name = abi::bytes(&head.name);
        // SAFETY: as above.
        unsafe { sys::copy_out(name.get(..(msg.namelen as usize).min(name.len())).unwrap_or(name), msg.name)? };
        msg.namelen = name.len() as u32;
    }
    // SAFETY: as above.
    unsafe { put_control(msg, control.get(..control_len).unwrap_or(&[]))? };
    Ok(if flags & MSG_TRUNC != 0 { head.len as usize } else { have })
}

/// Ancillary data to the client, as far as its buffer goes (`put_cmsg`).
unsafe fn put_control(msg: &mut MsgHdr, mut from: &[u8]) -> Result<()> {
    const CMSGHDR: usize = 16;
    let room = if msg.control.is_null() { 0 } else { msg.controllen };
    let mut at = 0usize;
    while let Some(len) = from.first_chunk::<8>().map(|len| usize::from_ne_bytes(*len)) {
        if len < CMSGHDR || len > from.len() {
            break;
        }
        if room < at + CMSGHDR {
            msg.flags |= MSG_CTRUNC;
            break;
        }
        let fits = len.min(room - at);
        if fits < len {
            msg.flags |= MSG_CTRUNC;
        }
        // SAFETY: `at + fits <= room`; the client's duty for its buffer.
        unsafe {
            sys::copy_out(from.get(..fits).unwrap_or(&[]), msg.control.add(at))?;
            sys::copy_out(&fits.to_ne_bytes(), msg.control.add(at))?;
        }
        at = (at + fits.next_multiple_of(8)).min(room);
        from = from.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    msg.controllen = at;
    Ok(())
}

/// One buffer, an optional address.
unsafe fn into_buffer(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: *mut c_uint) -> Result<usize> {
    let mut iov = IoVec { base: buf.cast(), len };
    let mut msg = MsgHdr { iov: &raw mut iov, iovlen: 1, ..MsgHdr::EMPTY };
    if !name.is_null() && !namelen.is_null() {
        msg.name = name.cast();
        // SAFETY: the client's length.
        msg.namelen = unsafe { namelen.read_unaligned() };
    }
    // SAFETY: the caller's duty.
    let got = unsafe { receive(fd, &mut msg, flags as u32) }?;
    if !msg.name.is_null() {
        // SAFETY: as above.
        unsafe { namelen.write_unaligned(msg.namelen) };
    }
    Ok(got)
}

const NOBODY: Ptr = core::ptr::null_mut();

pub unsafe fn recv(fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |_: &Dev| unsafe { into_buffer(fd, buf, len, flags, NOBODY, core::ptr::null_mut()) },
        // SAFETY: handed on as it came.
        unsafe { beyond::recv(fd, buf, len, flags) }
    )
}

pub unsafe fn recvfrom(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: *mut c_uint) -> isize {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |_: &Dev| unsafe { into_buffer(fd, buf, len, flags, name, namelen) },
        // SAFETY: handed on as it came.
        unsafe { beyond::recvfrom(fd, buf, len, flags, name, namelen) }
    )
}

pub unsafe fn read(fd: c_int, buf: Ptr, len: usize) -> isize {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |_: &Dev| unsafe { into_buffer(fd, buf, len, 0, NOBODY, core::ptr::null_mut()) },
        // SAFETY: handed on as it came.
        unsafe { beyond::read(fd, buf, len) }
    )
}

pub unsafe fn readv(fd: c_int, iov: *const IoVec, nr: c_int) -> isize {
    device_or_next!(
        fd,
        |_: &Dev| {
            let iovlen = usize::try_from(nr).map_err(|_| Errno::INVAL)?;
            let mut msg = MsgHdr { iov: iov.cast_mut(), iovlen, ..MsgHdr::EMPTY };
            // SAFETY: the caller's duty.
            unsafe { receive(fd, &mut msg, 0) }
        },
        // SAFETY: handed on as it came.
        unsafe { beyond::readv(fd, iov, nr) }
    )
}

pub unsafe fn recvmsg(fd: c_int, msg: *mut MsgHdr, flags: c_int) -> isize {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |_: &Dev| unsafe { into_header(fd, msg, flags) },
        // SAFETY: handed on as it came.
        unsafe { beyond::recvmsg(fd, msg, flags) }
    )
}

/// The header is changed only by a receive that succeeds.
unsafe fn into_header(fd: c_int, msg: *mut MsgHdr, flags: c_int) -> Result<usize> {
    if msg.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the client's header.
    let mut head = unsafe { msg.read_unaligned() };
    // SAFETY: the caller's duty.
    let got = unsafe { receive(fd, &mut head, flags as u32) }?;
    if head.name.is_null() {
        head.namelen = 0;
    }
    // SAFETY: as above.
    unsafe { msg.write_unaligned(head) };
    Ok(got)
}

pub unsafe fn recvmmsg(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int, limit: *mut TimeSpec) -> c_int {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |_: &Dev| unsafe { many(fd, msgs, nr, flags, limit) },
        // SAFETY: handed on as it came.
        unsafe { beyond::recvmmsg(fd, msgs, nr, flags, limit) }
    )
}

unsafe fn many(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int, limit: *const TimeSpec) -> Result<usize> {
    // The time is looked at after each message, as in the kernel: it ends no wait.
    // SAFETY: null or readable, the caller's duty.
    let until = unsafe { limit.as_ref() }.map(|limit| {
        let nanos =
            (limit.tv_sec.max(0) as u64).saturating_mul(1_000_000_000).saturating_add(limit.tv_nsec.max(0) as u64);
        sys::now().saturating_add(nanos)
    });
    let (mut flags, mut done) = (flags, 0usize);
    while done < (nr as usize).min(VECTORS) {
        // SAFETY: the client gives `nr` headers; `hdr` is the first member.
        let got = unsafe { into_header(fd, msgs.add(done).cast(), flags & !(MSG_WAITFORONE as c_int)) };
        match got {
            // SAFETY: as above.
            Ok(got) => unsafe { (*msgs.add(done)).len = got as u32 },
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
        done += 1;
        if flags as u32 & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT as c_int;
        }
        if until.is_some_and(|until| sys::now() >= until) {
            break;
        }
    }
    Ok(done)
}
