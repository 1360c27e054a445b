//! `recv`, `recvfrom`, `recvmsg`, `recvmmsg`, `read`, `readv`: `COPY` messages of a socket with a receive ring.

use super::sleep::{self, Sleep};
use crate::fdtable;
use crate::found;
use crate::local::Local;
use crate::next::{self, errno, set_errno};
use crate::process;
use crate::symbols::{IoVec, Ptr, TimeSpec};
use core::ffi::{c_int, c_uint};
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, MMsgHdr, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_WAITFORONE, MsgHdr};
use syscalls::Sysno;

/// `UIO_MAXIOV`: the kernel refuses more vectors, and looks at no more headers.
const MOST_VECTORS: c_int = 1024;

/// The endpoint of a descriptor whose receives are ours.
#[inline(always)]
fn entered(fd: c_int) -> Option<&'static Local> {
    if !fdtable::is_adopted(fd) {
        return None;
    }
    // Before anything is held or taken: a receive is a cancellation point even where it does not sleep.
    found::test_cancel();
    let local = fdtable::enter(fd)?;
    if local.endpoint.rx().is_none() {
        local.leave();
        return None;
    }
    Some(local)
}

/// Receives one message, waiting as the client's call would.
unsafe fn receive(local: &'static Local, fd: c_int, msg: &mut MsgHdr, flags: c_int) -> isize {
    let saved = errno();
    let mut sleep: Option<Sleep> = None;
    let mut at = fd;
    loop {
        // SAFETY: the caller's duty for the client's header.
        match unsafe { local.endpoint.receive(&Fd(at), process::pid(), msg, flags as u32) } {
            Ok(n) => {
                set_errno(saved);
                return n as isize;
            }
            Err(Errno::AGAIN) if flags as u32 & MSG_DONTWAIT == 0 && !is_nonblocking(at) => {}
            Err(e) => {
                set_errno(e);
                return -1;
            }
        }
        if !sleep.get_or_insert_with(Sleep::begin).once(local, at) {
            return -1;
        }
        match sleep::still(local, fd) {
            Some(fd) => at = fd,
            None => {
                set_errno(Errno::BADF);
                return -1;
            }
        }
    }
}

fn is_nonblocking(fd: c_int) -> bool {
    // SAFETY: numbers only. F_GETFL is 3, O_NONBLOCK 0o4000.
    unsafe { sys::call(Sysno::fcntl, [fd as usize, 3, 0, 0, 0, 0]) }.is_ok_and(|fl| fl & 0o4000 != 0)
}

/// One buffer, an optional address.
unsafe fn into_buffer(
    local: &'static Local,
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
    if !fdtable::is_adopted(fd) {
        // SAFETY: handed on as it came.
        return unsafe { next::read(fd, buf, len) };
    }
    // SAFETY: as above.
    unsafe { read_adopted(fd, buf, len) }
}

/// Apart, so that reads of other descriptors need no room on the stack for it.
#[inline(never)]
unsafe fn read_adopted(fd: c_int, buf: Ptr, len: usize) -> isize {
    // A read of no bytes ends before it comes to the socket (`sock_read_iter`).
    match if len == 0 { None } else { entered(fd) } {
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
    let wanted = !iov.is_null() && (1..=MOST_VECTORS).contains(&nr) && fdtable::is_adopted(fd) && {
        // SAFETY: the client gives `nr` vectors.
        (0..nr as usize).any(|i| unsafe { (*iov.add(i)).len } > 0)
    };
    let Some(local) = (if wanted { entered(fd) } else { None }) else {
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
    // SAFETY: the client's header, not null.
    let wrong = msg.is_null() || fdtable::is_adopted(fd) && unsafe { (*msg).iovlen } > MOST_VECTORS as usize;
    let Some(local) = (if wrong { None } else { entered(fd) }) else {
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
unsafe fn message(local: &'static Local, fd: c_int, msg: *mut MsgHdr, flags: c_int) -> isize {
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
    // SAFETY: the caller's duty.
    let got = unsafe { several(local, fd, msgs, nr, flags, limit) };
    local.leave();
    got
}

/// `__sys_recvmmsg`: the time limit is looked at after each message, and ends no wait; an error after the first message is
/// the next call's.
unsafe fn several(
    local: &'static Local,
    fd: c_int,
    msgs: *mut MMsgHdr,
    nr: c_uint,
    mut flags: c_int,
    limit: *mut TimeSpec,
) -> c_int {
    let saved = errno();
    // SAFETY: null or readable, the caller's duty.
    let given = if limit.is_null() { None } else { Some(unsafe { limit.read_unaligned() }) };
    if given.is_some_and(|t| t.tv_sec < 0 || !(0..1_000_000_000).contains(&t.tv_nsec)) {
        set_errno(Errno::INVAL);
        return -1;
    }
    // SAFETY: as above.
    let until = unsafe { super::wait::Limit::spec(limit) };
    let (mut done, mut failed) = (0, Errno::AGAIN);
    let mut left = given;
    while done < nr.min(MOST_VECTORS as c_uint) {
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
            failed = errno();
            break;
        }
        done += 1;
        if flags as u32 & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT as c_int;
        }
        left = until.left_spec(None);
        if left.is_some_and(|t| t.tv_sec == 0 && t.tv_nsec == 0) {
            break;
        }
    }
    if done == 0 {
        return if nr > 0 { -1 } else { 0 };
    }
    // The kernel would keep an interruption too (as errno 512, if the handler restarts calls): that helps nobody.
    if !matches!(failed, Errno::AGAIN | Errno::INTR)
        && let Some(control) = local.endpoint.control()
    {
        control.error.store(failed.0 as u32, Relaxed);
    }
    if let Some(left) = left {
        // SAFETY: the client's word, which the kernel changes too.
        unsafe { limit.write_unaligned(left) };
    }
    set_errno(saved);
    done as c_int
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
