//! The client's own receive: `COPY` messages, with everything `netlink_recvmsg` tells.

use super::Context;
use crate::abi::SOL_NETLINK;
use crate::control::{Control, flag};
use crate::endpoint::Endpoint;
use crate::errno::{Errno, Result};
use crate::socket::Socket;
use crate::store::Meta;
use crate::sys;
use crate::sys::{AF_NETLINK, IoVec, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_OOB, MSG_PEEK, MSG_TRUNC, MsgHdr, SOL_SOCKET};
use core::sync::atomic::Ordering::Relaxed;

impl Endpoint {
    /// Receives the first `COPY` message into the client's `msg`, without sleeping. As `netlink_recvmsg`: the pending error
    /// comes first, then a message, then `EAGAIN`.
    ///
    /// # Errors
    /// The socket's pending error (`ENOBUFS`), or `EAGAIN` with no message. `EOPNOTSUPP` for `MSG_OOB`, which netlink does
    /// not have; `MSG_ERRQUEUE` and `MSG_WAITALL` mean nothing to it.
    ///
    /// # Safety
    /// Every pointer in `msg` is valid for the length beside it, and none leads into the endpoint's own memory.
    pub unsafe fn receive<S: Socket>(&self, sock: &S, pid: u32, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
        let (Some(control), Some(ring)) = (self.control(), self.rx()) else {
            return Err(Errno::BADF);
        };
        if flags & MSG_OOB != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let _held = control.lock.hold(pid);
        let strict = self.strict.load(Relaxed);
        if strict || control.copies.load(Relaxed) == 0 {
            self.service_held(control, ring, sock, Context::Recv);
        }
        match control.take_error() {
            0 => {}
            error => return Err(Errno(error)),
        }
        let store = self.store(control);
        let Some((meta, bytes)) = store.first_copy() else {
            self.relieve_held(control, ring, sock);
            return Err(Errno::AGAIN);
        };
        // SAFETY: the caller's duty; the bytes lie in the store.
        let copied = match unsafe { scatter(bytes, msg.iov, msg.iovlen) } {
            Ok(copied) => copied,
            Err(error) => {
                if flags & MSG_PEEK == 0 {
                    store.received();
                }
                return Err(error);
            }
        };
        let truncated = copied < bytes.len() || meta.truncated != 0;
        // SAFETY: the caller's duty.
        unsafe {
            write_name(&meta, msg)?;
            write_ancillary(control, &meta, msg);
        }
        msg.flags |= flags & MSG_CMSG_CLOEXEC | if truncated { MSG_TRUNC } else { 0 };
        let len = if flags & MSG_TRUNC != 0 { bytes.len() } else { copied };
        if flags & MSG_PEEK == 0 {
            store.received();
            if strict || control.has(flag::CONGESTED) {
                self.service_held(control, ring, sock, Context::Received);
            }
        }
        Ok(len)
    }
}

/// Copies to the client's vectors: how many bytes. `EFAULT` for a bad buffer, and the message is gone with it, as in the kernel.
unsafe fn scatter(bytes: &[u8], iov: *const IoVec, iovlen: usize) -> Result<usize> {
    let mut rest = bytes;
    for i in 0..iovlen {
        // SAFETY: the caller gives `iovlen` vectors.
        let v = unsafe { iov.add(i).read() };
        let Some((now, later)) = rest.split_at_checked(v.len.min(rest.len())) else {
            break;
        };
        // SAFETY: the client's duty for its buffer, checked by the kernel all the same.
        unsafe { sys::copy_out(now, v.base)? };
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    Ok(bytes.len() - rest.len())
}

unsafe fn write_name(meta: &Meta, msg: &mut MsgHdr) -> Result<()> {
    if msg.name.is_null() {
        return Ok(());
    }
    let [p0, p1, p2, p3] = meta.portid.to_ne_bytes();
    let [g0, g1, g2, g3] = meta.groups.to_ne_bytes();
    let [f0, f1] = AF_NETLINK.to_ne_bytes();
    let name = [f0, f1, 0, 0, p0, p1, p2, p3, g0, g1, g2, g3];
    let n = (msg.namelen as usize).min(name.len());
    // SAFETY: the client's buffer is writable for `namelen` bytes.
    unsafe { sys::copy_out(name.get(..n).unwrap_or(&name), msg.name)? };
    msg.namelen = name.len() as u32;
    Ok(())
}

/// What the client asked for, in the kernel's order: `NETLINK_PKTINFO`, then `SCM_CREDENTIALS`.
unsafe fn write_ancillary(control: &Control, meta: &Meta, msg: &mut MsgHdr) {
    let (mut at, room) = (0usize, if msg.control.is_null() { 0 } else { msg.controllen });
    let mut put = |level: i32, kind: u32, words: &[u32]| {
        // put_cmsg: the header must fit, the data is cut to what is left; the next header is 8-aligned.
        if room < at + 16 {
            msg.flags |= MSG_CTRUNC;
            return;
        }
        let mut len = 16 + words.len() * 4;
        if room < at + len {
            msg.flags |= MSG_CTRUNC;
            len = room - at;
        }
        let head = [len as u32, 0, level as u32, kind];
        // SAFETY: `at + len <= room`, the client's control buffer.
        unsafe {
            let to = msg.control.add(at);
            core::ptr::copy_nonoverlapping(head.as_ptr().cast::<u8>(), to, 16);
            core::ptr::copy_nonoverlapping(words.as_ptr().cast::<u8>(), to.add(16), len - 16);
        }
        at = (at + ((len + 7) & !7)).min(room);
    };
    if control.has(flag::PKTINFO) {
        put(SOL_NETLINK, 3, &[meta.hdr.group]);
    }
    if control.has(flag::PASSCRED) {
        put(SOL_SOCKET, 2, &[meta.hdr.pid, meta.hdr.uid, meta.hdr.gid]);
    }
    msg.controllen = at;
}
