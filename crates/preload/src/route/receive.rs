//! `recv`, `recvfrom`, `recvmsg`, `recvmmsg`, `read`, `readv`: `COPY` messages of a socket with a receive ring.

use super::wait::{FIRST_NAP, LONGEST_NAP, is_blocked};
use crate::fdtable;
use crate::local::Local;
use crate::next::{self, errno, set_errno};
use crate::process;
use crate::symbols::{IoVec, Ptr, TimeSpec};
use core::ffi::{c_int, c_uint};
use nlmmap_ring::errno::Errno;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, MMsgHdr, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_PEEK, MSG_WAITFORONE, MsgHdr};
use syscalls::Sysno;

/// The endpoint of a descriptor whose receives are ours.
#[inline(always)]
fn entered(fd: c_int) -> Option<&'static Local> {
    let local = fdtable::enter(fd)?;
    if local.endpoint.rx().is_none() {
        local.leave();
        return None;
    }
    Some(local)
}

/// Receives one message, waiting as the client's call would.
unsafe fn receive(local: &Local, fd: c_int, msg: &mut MsgHdr, flags: c_int) -> isize {
    let saved = errno();
    let mut nap = FIRST_NAP;
    loop {
        // SAFETY: the caller's duty for the client's header.
        match unsafe { local.endpoint.receive(&Fd(fd), process::pid(), msg, flags as u32) } {
            Ok(n) => {
                set_errno(saved);
                return n as isize;
            }
            Err(Errno::AGAIN) if flags as u32 & MSG_DONTWAIT == 0 && !is_nonblocking(fd) => {}
            Err(e) => {
                set_errno(e);
                return -1;
            }
        }
        if is_blocked(local) {
            // Messages wait that the ring cannot take: when the client releases a frame, nobody says so.
            let time = TimeSpec { tv_sec: 0, tv_nsec: nap as i64 };
            // SAFETY: no descriptors, one time.
            if unsafe { next::ppoll(core::ptr::null_mut(), 0, &raw const time, core::ptr::null()) } < 0 {
                return -1;
            }
            nap = (nap * 2).min(LONGEST_NAP);
            continue;
        }
        super::wait::announce(local);
        let mut byte = 0u8;
        // A look at the real socket sleeps as the client's own receive would: with its time limit, restarted or interrupted by
        // signals in the same way, and a cancellation point.
        let result = if super::wait::events(local) & (nlmmap_ring::readiness::IN | nlmmap_ring::readiness::ERR) != 0 {
            0
        } else {
            // SAFETY: a buffer of no bytes.
            unsafe { next::recv(fd, (&raw mut byte).cast(), 0, MSG_PEEK as c_int) }
        };
        super::wait::withdraw(local);
        if result < 0 {
            if errno() == Errno::NOBUFS {
                // The kernel has handed its error over: it is this call's.
                if let Some(control) = local.endpoint.control() {
                    control.count(&control.counters.overruns, 1);
                }
            }
            return -1;
        }
    }
}

fn is_nonblocking(fd: c_int) -> bool {
    // SAFETY: numbers only. F_GETFL is 3, O_NONBLOCK 0o4000.
    unsafe { sys::call(Sysno::fcntl, [fd as usize, 3, 0, 0, 0, 0]) }.is_ok_and(|fl| fl & 0o4000 != 0)
}

/// One buffer, an optional address.
unsafe fn into_buffer(
    local: &Local,
    fd: c_int,
    buf: Ptr,
    len: usize,
    flags: c_int,
    name: Ptr,
    namelen: *mut c_uint,
) -> isize {
    let mut iov = IoVec { base: buf.cast(), len };
    let mut msg = MsgHdr { iov: &raw mut iov, iovlen: 1, ..MsgHdr::EMPTY };
    if !name.is_null() && !namelen.is_null() {
        msg.name = name.cast();
        // SAFETY: the client's length.
        msg.namelen = unsafe { namelen.read_unaligned() };
    }
    // SAFETY: the caller's duty.
    let got = unsafe { receive(local, fd, &mut msg, flags & !(MSG_CMSG_CLOEXEC as c_int)) };
    if got >= 0 && !msg.name.is_null() {
        // SAFETY: as above.
        unsafe { namelen.write_unaligned(msg.namelen) };
    }
    local.leave();
    got
}

pub unsafe fn recv(fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize {
    match entered(fd) {
        // SAFETY: handed on as it came.
        None => unsafe { next::recv(fd, buf, len, flags) },
        // SAFETY: the caller's duty.
        Some(local) => unsafe { into_buffer(local, fd, buf, len, flags, core::ptr::null_mut(), core::ptr::null_mut()) },
    }
}

pub unsafe fn __recv_chk(fd: c_int, buf: Ptr, len: usize, size: usize, flags: c_int) -> isize {
    if len > size {
        // SAFETY: handed on: the C library ends the program.
        return unsafe { next::__recv_chk(fd, buf, len, size, flags) };
    }
    // SAFETY: the caller's duty.
    unsafe { recv(fd, buf, len, flags) }
}

pub unsafe fn recvfrom(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: *mut c_uint) -> isize {
    match entered(fd) {
        // SAFETY: handed on as it came.
        None => unsafe { next::recvfrom(fd, buf, len, flags, name, namelen) },
        // SAFETY: the caller's duty.
        Some(local) => unsafe { into_buffer(local, fd, buf, len, flags, name, namelen) },
    }
}

pub unsafe fn __recvfrom_chk(
    fd: c_int,
    buf: Ptr,
    len: usize,
    size: usize,
    flags: c_int,
    name: Ptr,
    namelen: *mut c_uint,
) -> isize {
    if len > size {
        // SAFETY: handed on: the C library ends the program.
        return unsafe { next::__recvfrom_chk(fd, buf, len, size, flags, name, namelen) };
    }
    // SAFETY: the caller's duty.
    unsafe { recvfrom(fd, buf, len, flags, name, namelen) }
}

pub unsafe fn read(fd: c_int, buf: Ptr, len: usize) -> isize {
    match entered(fd) {
        // SAFETY: handed on as it came.
        None => unsafe { next::read(fd, buf, len) },
        // SAFETY: the caller's duty.
        Some(local) => unsafe { into_buffer(local, fd, buf, len, 0, core::ptr::null_mut(), core::ptr::null_mut()) },
    }
}

pub unsafe fn __read_chk(fd: c_int, buf: Ptr, len: usize, size: usize) -> isize {
    if len > size {
        // SAFETY: handed on: the C library ends the program.
        return unsafe { next::__read_chk(fd, buf, len, size) };
    }
    // SAFETY: the caller's duty.
    unsafe { read(fd, buf, len) }
}

pub unsafe fn readv(fd: c_int, iov: *const IoVec, nr: c_int) -> isize {
    let Some(local) = (if iov.is_null() || nr < 0 { None } else { entered(fd) }) else {
        // SAFETY: handed on as it came.
        return unsafe { next::readv(fd, iov, nr) };
    };
    let mut msg = MsgHdr { iov: iov.cast_mut(), iovlen: nr as usize, ..MsgHdr::EMPTY };
    // SAFETY: the caller's duty.
    let got = unsafe { receive(local, fd, &mut msg, 0) };
    local.leave();
    got
}

pub unsafe fn recvmsg(fd: c_int, msg: *mut MsgHdr, flags: c_int) -> isize {
    let Some(local) = (if msg.is_null() { None } else { entered(fd) }) else {
        // SAFETY: handed on as it came.
        let got = unsafe { next::recvmsg(fd, msg, flags) };
        if got >= 0 && fdtable::live() > 0 {
            // SAFETY: the kernel has just filled the header.
            unsafe { note_passed(&(*msg)) };
        }
        return got;
    };
    // SAFETY: the caller's duty.
    let got = unsafe { message(local, fd, msg, flags) };
    local.leave();
    got
}

/// Into the client's header, which changes only when a message has come.
unsafe fn message(local: &Local, fd: c_int, msg: *mut MsgHdr, flags: c_int) -> isize {
    // SAFETY: the client's header, not null.
    let mut copy = unsafe { msg.read_unaligned() };
    copy.flags = 0;
    // SAFETY: the caller's duty.
    let got = unsafe { receive(local, fd, &mut copy, flags) };
    if got >= 0 {
        // SAFETY: as above.
        unsafe { msg.write_unaligned(copy) };
    }
    got
}

pub unsafe fn recvmmsg(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int, limit: *mut TimeSpec) -> c_int {
    let Some(local) = (if msgs.is_null() { None } else { entered(fd) }) else {
        // SAFETY: handed on as it came.
        let got = unsafe { next::recvmmsg(fd, msgs, nr, flags, limit) };
        if fdtable::live() > 0 {
            for i in 0..got.max(0) as usize {
                // SAFETY: the kernel has just filled that many headers.
                unsafe { note_passed(&(*msgs.add(i)).hdr) };
            }
        }
        return got;
    };
    // SAFETY: null or readable, the caller's duty.
    let until = unsafe { super::wait::Limit::spec(limit) };
    let mut flags = flags;
    let mut done = 0;
    while done < nr.min(1024) {
        // SAFETY: the client gives `nr` headers; `hdr` is the first member.
        let got = unsafe {
            let at = msgs.add(done as usize);
            let got = message(local, fd, &raw mut (*at).hdr, flags & !(MSG_WAITFORONE as c_int));
            if got >= 0 {
                (*at).len = got as u32;
            }
            got
        };
        if got < 0 {
            break;
        }
        done += 1;
        if flags as u32 & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT as c_int;
        }
        if until.left() == Some(0) {
            break;
        }
    }
    local.leave();
    if done == 0 && nr > 0 { -1 } else { done as c_int }
}

/// Descriptors that came by `SCM_RIGHTS` may be further numbers of sockets that are ours.
unsafe fn note_passed(msg: &MsgHdr) {
    let mut at = 0;
    while !msg.control.is_null() && at + 16 <= msg.controllen {
        // SAFETY: inside the control data that the kernel has written; any alignment.
        let [len, _, level, kind] = unsafe { msg.control.add(at).cast::<[u32; 4]>().read_unaligned() };
        let end = (at + len as usize).min(msg.controllen);
        if level == sys::SOL_SOCKET as u32 && kind == 1 {
            for word in (at + 16..end.saturating_sub(3)).step_by(4) {
                // SAFETY: as above.
                let fd = unsafe { msg.control.add(word).cast::<i32>().read_unaligned() };
                super::adopt::recognize(fd);
            }
        }
        at += ((len as usize + 7) & !7).max(16);
    }
}
