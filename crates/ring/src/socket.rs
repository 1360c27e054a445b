//! The real netlink socket behind an endpoint: the few calls the pumps make, replaceable in tests.

use crate::errno::{Errno, Result};
use crate::sys::{self, IoVec, MMsgHdr, MSG_DONTWAIT, MsgHdr, SockaddrNl};
use core::sync::atomic::{AtomicBool, Ordering};
use syscalls::Sysno;

const SO_ERROR: i32 = 4;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_RCVBUFFORCE: i32 = 33;
const SO_SNDBUFFORCE: i32 = 32;

/// What the pumps need of a socket.
///
/// # Safety
/// Implementations write only to what the given headers point to, within the stated lengths, as the system calls do.
pub unsafe trait Socket {
    /// `recvmmsg(MSG_DONTWAIT)`: how many messages were received.
    ///
    /// # Safety
    /// Every pointer in `msgs` is valid for the length beside it.
    unsafe fn recv_batch(&self, msgs: &mut [MMsgHdr]) -> Result<usize>;
    /// `recvmsg` with these flags.
    ///
    /// # Safety
    /// Every pointer in `msg` is valid for the length beside it.
    unsafe fn recv(&self, msg: &mut MsgHdr, flags: u32) -> Result<usize>;
    /// `sendmmsg`: how many messages were sent.
    ///
    /// # Safety
    /// Every pointer in `msgs` is valid for the length beside it.
    unsafe fn send_batch(&self, msgs: &mut [MMsgHdr], flags: u32) -> Result<usize>;
    /// `sendmsg`
    ///
    /// # Safety
    /// Every pointer in `msg` is valid for the length beside it.
    unsafe fn send(&self, msg: &MsgHdr, flags: u32) -> Result<usize>;
    /// `sendto`: one buffer without ancillary data, to `name` if it is not null.
    ///
    /// # Safety
    /// `buf` is readable for `len` bytes, `name` for `namelen`.
    unsafe fn send_to(&self, buf: *mut u8, len: usize, flags: u32, name: *mut u8, namelen: u32) -> Result<usize> {
        let mut iov = IoVec { base: buf, len };
        let msg = MsgHdr { name, namelen, iov: &raw mut iov, iovlen: 1, ..MsgHdr::EMPTY };
        // SAFETY: the caller's duty.
        unsafe { self.send(&msg, flags) }
    }
    /// Whether a send with this address and ancillary data, and these flags, would come as far as its data. Sends nothing.
    ///
    /// # Errors
    /// What the socket layer refuses it with.
    ///
    /// # Safety
    /// As [`Self::send`]; vectors are not looked at.
    unsafe fn would_send(&self, template: &MsgHdr, flags: u32) -> Result<()>;
    /// Bytes charged to the receive queue (`SO_MEMINFO`).
    fn queued(&self) -> Result<u32>;
    /// The socket's pending error (`SO_ERROR`), which is cleared by that; 0 for none.
    fn take_error(&self) -> i32;
    /// The port id the socket is bound to, 0 for none.
    fn portid(&self) -> Result<u32>;
    /// Gives a socket that has none a port id of the kernel's choice, which is returned.
    fn autobind(&self) -> Result<u32>;
    /// Sets the receive buffer to `bytes` (the kernel doubles it); returns what it was.
    fn set_receive_room(&self, bytes: u32) -> Result<u32>;
    /// Lets a message of `len` bytes be sent, if the limits permit. Returns what to give to [`Self::restore_send_room`].
    fn make_send_room(&self, len: usize) -> Option<u32>;
    /// Takes that back.
    fn restore_send_room(&self, before: u32);
}

/// Whether a batch was ever received as a single message, because a sandbox refuses `recvmmsg`.
static SINGLES: AtomicBool = AtomicBool::new(false);

/// Whether a batch that is not full may have more behind it.
pub(crate) fn takes_singles() -> bool {
    SINGLES.load(Ordering::Relaxed)
}

/// A file descriptor of a netlink socket. Does not own it.
#[derive(Clone, Copy, Debug)]
pub struct Fd(pub i32);

impl Fd {
    /// Whom the socket is connected to: port id and groups are 0 for the kernel, or nobody.
    ///
    /// # Errors
    /// What the kernel says of the descriptor.
    pub fn peer(&self) -> Result<SockaddrNl> {
        let mut name = SockaddrNl::default();
        let mut len = size_of::<SockaddrNl>() as u32;
        let args = [self.0 as usize, &raw mut name as usize, &raw mut len as usize, 0, 0, 0];
        // SAFETY: an address and its length, both locals.
        unsafe { sys::call(Sysno::getpeername, args) }?;
        Ok(name)
    }
}

// SAFETY: the system calls keep to what the headers point to.
unsafe impl Socket for Fd {
    #[inline]
    unsafe fn recv_batch(&self, msgs: &mut [MMsgHdr]) -> Result<usize> {
        let args = [self.0 as usize, msgs.as_mut_ptr() as usize, msgs.len(), MSG_DONTWAIT as usize, 0, 0];
        // SAFETY: the caller's duty.
        match unsafe { sys::call(Sysno::recvmmsg, args) } {
            // A sandbox that knows the program's own calls may know only the single form.
            Err(Errno::PERM | Errno::NOSYS | Errno::ACCES) => {
                let Some(first) = msgs.first_mut() else {
                    return Ok(0);
                };
                // SAFETY: as above.
                first.len = unsafe { self.recv(&mut first.hdr, MSG_DONTWAIT)? } as u32;
                SINGLES.store(true, Ordering::Relaxed);
                Ok(1)
            }
            result => result,
        }
    }

    unsafe fn recv(&self, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
        // SAFETY: the caller's duty.
        match unsafe { sys::call(Sysno::recvmsg, [self.0 as usize, &raw mut *msg as usize, flags as usize, 0, 0, 0]) } {
            // A sandbox may know only the batched form.
            Err(Errno::PERM | Errno::NOSYS | Errno::ACCES) => {
                let mut one = MMsgHdr { hdr: *msg, len: 0 };
                let args = [self.0 as usize, &raw mut one as usize, 1, flags as usize, 0, 0];
                // SAFETY: as above.
                unsafe { sys::call(Sysno::recvmmsg, args) }?;
                *msg = one.hdr;
                Ok(one.len as usize)
            }
            result => result,
        }
    }

    unsafe fn send_batch(&self, msgs: &mut [MMsgHdr], flags: u32) -> Result<usize> {
        let args = [self.0 as usize, msgs.as_mut_ptr() as usize, msgs.len(), flags as usize, 0, 0];
        // SAFETY: the caller's duty.
        match unsafe { sys::call(Sysno::sendmmsg, args) } {
            Err(Errno::NOSYS | Errno::ACCES) => {
                let Some(first) = msgs.first_mut() else {
                    return Ok(0);
                };
                // SAFETY: as above.
                first.len = unsafe { self.send(&first.hdr, flags)? } as u32;
                Ok(1)
            }
            result => result,
        }
    }

    unsafe fn send(&self, msg: &MsgHdr, flags: u32) -> Result<usize> {
        // SAFETY: the caller's duty.
        unsafe { sys::call(Sysno::sendmsg, [self.0 as usize, &raw const *msg as usize, flags as usize, 0, 0, 0]) }
    }

    #[inline]
    unsafe fn send_to(&self, buf: *mut u8, len: usize, flags: u32, name: *mut u8, namelen: u32) -> Result<usize> {
        let args = [self.0 as usize, buf as usize, len, flags as usize, name as usize, namelen as usize];
        // SAFETY: the caller's duty.
        match unsafe { sys::call(Sysno::sendto, args) } {
            // A sandbox may know only the message form.
            Err(Errno::NOSYS | Errno::ACCES) => {
                let mut iov = IoVec { base: buf, len };
                let msg = MsgHdr { name, namelen, iov: &raw mut iov, iovlen: 1, ..MsgHdr::EMPTY };
                // SAFETY: as above.
                unsafe { self.send(&msg, flags) }
            }
            result => result,
        }
    }

    #[cold]
    unsafe fn would_send(&self, template: &MsgHdr, flags: u32) -> Result<()> {
        // More than any send buffer: netlink_sendmsg refuses it with EMSGSIZE, behind every look at flags, ancillary data, address and
        // rights, and before it reads any of it. Nothing lies at that address.
        let mut iov = IoVec { base: sys::PAGE as *mut u8, len: 0x7fff_f000 };
        let msg = MsgHdr { iov: &raw mut iov, iovlen: 1, flags: 0, ..*template };
        // SAFETY: the caller's duty for name and ancillary data; of the vector only its range is looked at.
        match unsafe { self.send(&msg, flags | MSG_DONTWAIT) } {
            Ok(_) | Err(Errno::MSGSIZE) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn queued(&self) -> Result<u32> {
        // SK_MEMINFO_RMEM_ALLOC is the first of nine words.
        let info: [u32; 9] = sys::getsockopt(self.0, sys::SOL_SOCKET, linux_raw_sys::net::SO_MEMINFO as i32)?;
        Ok(info[0])
    }

    fn take_error(&self) -> i32 {
        sys::getsockopt(self.0, sys::SOL_SOCKET, SO_ERROR).unwrap_or(0)
    }

    fn portid(&self) -> Result<u32> {
        let mut name = SockaddrNl::default();
        let mut len = size_of::<SockaddrNl>() as u32;
        let args = [self.0 as usize, &raw mut name as usize, &raw mut len as usize, 0, 0, 0];
        // SAFETY: an address and its length, both locals.
        unsafe { sys::call(Sysno::getsockname, args) }?;
        Ok(name.portid)
    }

    fn autobind(&self) -> Result<u32> {
        let name = SockaddrNl { family: sys::AF_NETLINK, ..SockaddrNl::default() };
        let args = [self.0 as usize, &raw const name as usize, size_of::<SockaddrNl>(), 0, 0, 0];
        // SAFETY: an address of the stated length.
        unsafe { sys::call(Sysno::bind, args) }?;
        self.portid()
    }

    fn set_receive_room(&self, bytes: u32) -> Result<u32> {
        let before: u32 = sys::getsockopt(self.0, sys::SOL_SOCKET, SO_RCVBUF)?;
        sys::setsockopt(self.0, sys::SOL_SOCKET, SO_RCVBUFFORCE, bytes as i32)
            .or_else(|_| sys::setsockopt(self.0, sys::SOL_SOCKET, SO_RCVBUF, bytes as i32))?;
        Ok(before)
    }

    fn make_send_room(&self, len: usize) -> Option<u32> {
        let before: u32 = sys::getsockopt(self.0, sys::SOL_SOCKET, SO_SNDBUF).ok()?;
        // The kernel doubles what it is asked for, and wants a little more than the message (`netlink_sendmsg`).
        let want = i32::try_from(len / 2 + 64).ok()?;
        if sys::setsockopt(self.0, sys::SOL_SOCKET, SO_SNDBUFFORCE, want).is_err() {
            sys::setsockopt(self.0, sys::SOL_SOCKET, SO_SNDBUF, want).ok()?;
        }
        Some(before)
    }

    fn restore_send_room(&self, before: u32) {
        let _ = sys::setsockopt(self.0, sys::SOL_SOCKET, SO_SNDBUF, (before / 2) as i32);
    }
}
