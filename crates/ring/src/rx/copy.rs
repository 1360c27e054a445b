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
        let Some((meta, bytes, ancillary)) = store.first_copy() else {
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
            write_ancillary(control, &meta, ancillary, msg);
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

/// What the client asked for, in the kernel's order: `NETLINK_PKTINFO`, then the rest of netlink's own, then the socket's. What
/// we asked for ourselves is left out.
unsafe fn write_ancillary(control: &Control, meta: &Meta, ancillary: &[u8], msg: &mut MsgHdr) {
    let room = if msg.control.is_null() { 0 } else { msg.controllen };
    let mut put = Put { to: msg.control, room, at: 0, flags: 0 };
    let (pktinfo, passcred) = (control.has(flag::PKTINFO), control.has(flag::PASSCRED));
    if meta.extra > 0 {
        for (level, kind, data) in Messages(ancillary) {
            let asked = match (level, kind) {
                (SOL_NETLINK, PKTINFO) => pktinfo,
                (SOL_SOCKET, SCM_CREDENTIALS) => passcred,
                _ => true,
            };
            if asked {
                // SAFETY: the caller's duty.
                unsafe { put.one(level, kind, data) };
            }
        }
    } else {
        if pktinfo {
            // SAFETY: as above.
            unsafe { put.one(SOL_NETLINK, PKTINFO, &meta.hdr.group.to_ne_bytes()) };
        }
        if passcred {
            let mut words = [0; 12];
            for (to, from) in words.chunks_exact_mut(4).zip([meta.hdr.pid, meta.hdr.uid, meta.hdr.gid]) {
                to.copy_from_slice(&from.to_ne_bytes());
            }
            // SAFETY: as above.
            unsafe { put.one(SOL_SOCKET, SCM_CREDENTIALS, &words) };
        }
    }
    msg.flags |= put.flags;
    msg.controllen = put.at;
}

const PKTINFO: u32 = 3;
const SCM_CREDENTIALS: u32 = 2;
/// `struct cmsghdr`: length (8 bytes), level, type.
const HEAD: usize = 16;

/// The control messages in ancillary data: level, type, data.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (i32, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.0.split_first_chunk::<HEAD>()?;
        let [l0, l1, l2, l3, l4, l5, l6, l7, v0, v1, v2, v3, t0, t1, t2, t3] = *head;
        let len = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]).clamp(HEAD, self.0.len());
        let data = self.0.get(HEAD..len)?;
        self.0 = self.0.get(len.next_multiple_of(8)..).unwrap_or(&[]);
        Some((i32::from_ne_bytes([v0, v1, v2, v3]), u32::from_ne_bytes([t0, t1, t2, t3]), data))
    }
}

/// `put_cmsg` into the client's buffer.
struct Put {
    to: *mut u8,
    room: usize,
    at: usize,
    flags: u32,
}

impl Put {
    /// The header must fit, the data is cut to what is left; the next header is 8-aligned.
    ///
    /// # Safety
    /// `to` is writable for `room` bytes.
    unsafe fn one(&mut self, level: i32, kind: u32, data: &[u8]) {
        let left = self.room - self.at;
        if left < HEAD {
            self.flags |= MSG_CTRUNC;
            return;
        }
        let len = (HEAD + data.len()).min(left);
        if len < HEAD + data.len() {
            self.flags |= MSG_CTRUNC;
        }
        let head = [len as u32, 0, level as u32, kind];
        // SAFETY: `at + len <= room`, the client's control buffer.
        unsafe {
            let to = self.to.add(self.at);
            core::ptr::copy_nonoverlapping(head.as_ptr().cast::<u8>(), to, HEAD);
            core::ptr::copy_nonoverlapping(data.as_ptr(), to.add(HEAD), len - HEAD);
        }
        self.at = (self.at + len.next_multiple_of(8)).min(self.room);
    }
}
