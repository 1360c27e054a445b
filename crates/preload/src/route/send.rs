//! `send`, `sendto`, `sendmsg`, `sendmmsg`, `write`, `writev`.
//!
//! A send with exactly one vector whose base is NULL, on a socket with a TX ring, is a kick, whatever its length (`writev`: if it
//! has one). Everything else is the client's own send; in either case the replies that the kernel has queued by then are in the ring when the
//! call returns.

use super::deliver::{deliver, reaches_others};
use super::wait::service;
use crate::fdtable;
use crate::guard;
use crate::local::Local;
use crate::next::{self, set_errno};
use crate::process;
use crate::symbols::{IoVec, Ptr};
use core::ffi::{c_int, c_uint};
use nlmmap_ring::abi::NLMSG_HDRLEN;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, MMsgHdr, MsgHdr};
use nlmmap_ring::tx;

/// `sizeof(struct sockaddr_storage)`: what the kernel takes of an address.
const LONGEST_NAME: c_uint = 128;
/// `MSG_CMSG_COMPAT`: the kernel's own mark, which the calls without a header ignore.
const NOT_A_FLAG: c_int = c_int::MIN;

/// The end of what began with `begin_send`.
fn done(local: &Local) {
    local.endpoint.end_send();
    guard::note_send(local);
}

/// After the client's own send of `sent` bytes, which begin at `buf`, to where `msg` says.
unsafe fn after(local: &Local, fd: c_int, buf: *const u8, sent: isize, msg: &MsgHdr) {
    if sent >= 0 {
        // SAFETY: the kernel has just read the address.
        unsafe { deliver(local, fd, msg) };
    }
    if local.endpoint.rx().is_none() {
        return;
    }
    let saved = next::errno();
    if let Some(control) = local.endpoint.control()
        && sent >= NLMSG_HDRLEN as isize
        && !buf.is_null()
    {
        // SAFETY: the kernel has just read these bytes.
        let head = unsafe { buf.cast::<[u8; NLMSG_HDRLEN]>().read_unaligned() };
        tx::note_request(control, &head);
    }
    if sent >= 0 {
        service(local, fd, Context::Send);
    }
    set_errno(saved);
}

/// A kick with the destination and ancillary data of `msg`.
unsafe fn kick(local: &Local, fd: c_int, msg: &MsgHdr, flags: c_int) -> isize {
    let pid = process::pid();
    local.endpoint.begin_send(pid);
    // SAFETY: the caller's duty.
    let result = unsafe {
        if reaches_others(local, fd, msg) {
            kick_others(local, fd, msg, flags as u32)
        } else {
            local.endpoint.kick(&Fd(fd), pid, msg, flags as u32)
        }
    };
    done(local);
    match result {
        Ok(n) => n as isize,
        Err(e) => {
            set_errno(e);
            -1
        }
    }
}

/// A kick whose messages may go to rings of this process, which take in each before the next leaves.
unsafe fn kick_others(local: &Local, fd: c_int, msg: &MsgHdr, flags: u32) -> nlmmap_ring::errno::Result<usize> {
    let (mut left, mut total) = (local.endpoint.kick_frames(), 0);
    while left > 0 {
        // SAFETY: the caller's duty.
        unsafe {
            let part = local.endpoint.kick_part(&Fd(fd), process::pid(), msg, flags, &mut left, 1);
            // Also where it has failed: a send to a group has reached its members by then.
            deliver(local, fd, msg);
            total += part?;
        }
    }
    Ok(total)
}

fn is_kick(local: &Local, base: *const u8, vectors: usize) -> bool {
    vectors == 1 && base.is_null() && local.endpoint.tx().is_some()
}

/// Kernels from 5.17 on refuse an empty datagram, in every form and before they look at its address; 4.5 sent it and answered 0.
/// To the kernel it meant nothing.
fn send_empty(call: impl FnOnce() -> isize) -> isize {
    let saved = next::errno();
    let sent = call();
    if sent < 0 && next::errno() == Errno::NODATA {
        set_errno(saved);
        return 0;
    }
    sent
}

/// One plain buffer to an optional destination.
unsafe fn one(
    local: &Local,
    fd: c_int,
    buf: Ptr,
    len: usize,
    msg: &MsgHdr,
    flags: c_int,
    call: impl FnOnce() -> isize,
) -> isize {
    if is_kick(local, buf.cast(), 1) {
        // SAFETY: the caller's duty for the destination.
        return unsafe { kick(local, fd, msg, flags & !NOT_A_FLAG) };
    }
    local.endpoint.begin_send(process::pid());
    let sent = if len == 0 { send_empty(call) } else { call() };
    // SAFETY: the client's buffer.
    unsafe { after(local, fd, buf.cast(), sent, msg) };
    done(local);
    sent
}

pub unsafe fn send(fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize {
    let Some(local) = fdtable::enter(fd) else {
        // SAFETY: handed on as it came.
        return unsafe { next::send(fd, buf, len, flags) };
    };
    // SAFETY: the caller's duty.
    unsafe { served_send(local, fd, buf, len, flags) }
}

/// Apart, so that calls on other descriptors need no room on the stack for it.
#[inline(never)]
unsafe fn served_send(local: &Local, fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize {
    // SAFETY: the caller's duty.
    let sent = unsafe { one(local, fd, buf, len, &MsgHdr::EMPTY, flags, || next::send(fd, buf, len, flags)) };
    local.leave();
    sent
}

pub unsafe fn sendto(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: c_uint) -> isize {
    let Some(local) = fdtable::enter(fd) else {
        // SAFETY: handed on as it came.
        return unsafe { next::sendto(fd, buf, len, flags, name, namelen) };
    };
    // SAFETY: the caller's duty.
    unsafe { served_sendto(local, fd, buf, len, flags, name, namelen) }
}

#[inline(never)]
unsafe fn served_sendto(
    local: &Local,
    fd: c_int,
    buf: Ptr,
    len: usize,
    flags: c_int,
    name: Ptr,
    namelen: c_uint,
) -> isize {
    let namelen = if name.is_null() { 0 } else { namelen };
    if namelen > LONGEST_NAME && is_kick(local, buf.cast(), 1) {
        // `move_addr_to_kernel`, where `sendmsg` takes what it can hold.
        local.leave();
        set_errno(Errno::INVAL);
        return -1;
    }
    let msg = MsgHdr { name: name.cast(), namelen, ..MsgHdr::EMPTY };
    // SAFETY: the caller's duty.
    let sent = unsafe { one(local, fd, buf, len, &msg, flags, || next::sendto(fd, buf, len, flags, name, namelen)) };
    local.leave();
    sent
}

pub unsafe fn write(fd: c_int, buf: Ptr, len: usize) -> isize {
    let Some(local) = fdtable::enter(fd) else {
        // SAFETY: handed on as it came.
        return unsafe { next::write(fd, buf, len) };
    };
    // SAFETY: the caller's duty.
    unsafe { served_write(local, fd, buf, len) }
}

/// Apart, so that calls on other descriptors need no room on the stack for it.
#[inline(never)]
unsafe fn served_write(local: &Local, fd: c_int, buf: Ptr, len: usize) -> isize {
    // SAFETY: the caller's duty.
    let sent = unsafe { one(local, fd, buf, len, &MsgHdr::EMPTY, 0, || next::write(fd, buf, len)) };
    local.leave();
    sent
}

/// The first vector of some, or an empty one.
unsafe fn first(iov: *const IoVec, nr: usize) -> IoVec {
    if nr == 0 || !sys::is_plausible(iov.cast()) {
        return IoVec { base: core::ptr::null_mut(), len: 0 };
    }
    // SAFETY: the client gives `nr` vectors.
    unsafe { iov.read_unaligned() }
}

pub unsafe fn writev(fd: c_int, iov: *const IoVec, nr: c_int) -> isize {
    let Some(local) = fdtable::enter(fd) else {
        // SAFETY: handed on as it came.
        return unsafe { next::writev(fd, iov, nr) };
    };
    // SAFETY: the caller's duty.
    let vector = unsafe { first(iov, nr.max(0) as usize) };
    // The file layer answers for no bytes, and for too many, before it asks the socket.
    let is_asked = (1..=isize::MAX as usize).contains(&vector.len);
    let sent = if nr == 1 && is_asked && is_kick(local, vector.base, 1) {
        // SAFETY: no destination.
        unsafe { kick(local, fd, &MsgHdr::EMPTY, 0) }
    } else {
        // SAFETY: handed on as it came; then the client's first buffer, as far as it goes.
        unsafe {
            local.endpoint.begin_send(process::pid());
            let sent = next::writev(fd, iov, nr);
            after(local, fd, vector.base, sent.min(vector.len as isize), &MsgHdr::EMPTY);
            done(local);
            sent
        }
    };
    local.leave();
    sent
}

pub unsafe fn sendmsg(fd: c_int, msg: *const MsgHdr, flags: c_int) -> isize {
    let entered = if sys::is_plausible(msg.cast()) { fdtable::enter(fd) } else { None };
    let Some(local) = entered else {
        // SAFETY: handed on as it came.
        return unsafe { next::sendmsg(fd, msg, flags) };
    };
    // SAFETY: the caller's duty.
    let sent = unsafe { message(local, fd, msg, flags) };
    local.leave();
    sent
}

unsafe fn message(local: &Local, fd: c_int, msg: *const MsgHdr, flags: c_int) -> isize {
    // SAFETY: the client's header, not null.
    let mut head = unsafe { msg.read_unaligned() };
    // SAFETY: as above.
    let vector = unsafe { first(head.iov, head.iovlen) };
    let is_there = sys::is_plausible(head.iov.cast_const().cast()) && vector.len <= isize::MAX as usize;
    if is_there && is_kick(local, vector.base, head.iovlen) {
        // As the kernel takes an address: none without a place, and no more of it than it can hold.
        head.namelen = match head.namelen {
            _ if head.name.is_null() => 0,
            LONGEST_NAME..=0x7fff_ffff => LONGEST_NAME,
            len => len,
        };
        // SAFETY: as above.
        return unsafe { kick(local, fd, &head, flags) };
    }
    // SAFETY: handed on as it came; then the client's first buffer, as far as it goes.
    unsafe {
        local.endpoint.begin_send(process::pid());
        let call = || next::sendmsg(fd, msg, flags);
        let sent = if vector.len == 0 { send_empty(call) } else { call() };
        after(local, fd, vector.base, sent.min(vector.len as isize), &head);
        done(local);
        sent
    }
}

pub unsafe fn sendmmsg(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int) -> c_int {
    let entered = if sys::is_plausible(msgs.cast_const().cast()) { fdtable::enter(fd) } else { None };
    let Some(local) = entered else {
        // SAFETY: handed on as it came.
        return unsafe { next::sendmmsg(fd, msgs, nr, flags) };
    };
    let (saved, mut done) = (next::errno(), 0);
    while done < nr.min(1024) {
        // SAFETY: the client gives `nr` headers; `hdr` is the first member.
        let result = unsafe {
            let at = msgs.add(done as usize);
            let sent = message(local, fd, (&raw const (*at).hdr).cast(), flags);
            if sent >= 0 {
                (*at).len = sent as u32;
            }
            sent
        };
        if result < 0 {
            // As the kernel: an error shows only when nothing was sent.
            if done > 0 {
                set_errno(saved);
            }
            break;
        }
        done += 1;
    }
    local.leave();
    if done == 0 && nr > 0 { -1 } else { done as c_int }
}
