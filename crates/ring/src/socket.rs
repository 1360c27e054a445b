//! The real netlink socket behind an endpoint: the few calls the pumps make, replaceable in tests.

use crate::errno::Result;
use crate::sys::{self, MMsgHdr, MSG_DONTWAIT, MsgHdr};
use syscalls::Sysno;

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
    /// Bytes charged to the receive queue (`SO_MEMINFO`): changes when a message arrives.
    fn queued(&self) -> Result<u32>;
}

/// A file descriptor of a netlink socket. Does not own it.
#[derive(Clone, Copy, Debug)]
pub struct Fd(pub i32);

// SAFETY: the system calls keep to what the headers point to.
unsafe impl Socket for Fd {
    #[inline]
    unsafe fn recv_batch(&self, msgs: &mut [MMsgHdr]) -> Result<usize> {
        let args = [self.0 as usize, msgs.as_mut_ptr() as usize, msgs.len(), MSG_DONTWAIT as usize, 0, 0];
        // SAFETY: the caller's duty.
        unsafe { sys::call(Sysno::recvmmsg, args) }
    }

    unsafe fn recv(&self, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
        // SAFETY: the caller's duty.
        unsafe { sys::call(Sysno::recvmsg, [self.0 as usize, &raw mut *msg as usize, flags as usize, 0, 0, 0]) }
    }

    unsafe fn send_batch(&self, msgs: &mut [MMsgHdr], flags: u32) -> Result<usize> {
        let args = [self.0 as usize, msgs.as_mut_ptr() as usize, msgs.len(), flags as usize, 0, 0];
        // SAFETY: the caller's duty.
        unsafe { sys::call(Sysno::sendmmsg, args) }
    }

    unsafe fn send(&self, msg: &MsgHdr, flags: u32) -> Result<usize> {
        // SAFETY: the caller's duty.
        unsafe { sys::call(Sysno::sendmsg, [self.0 as usize, &raw const *msg as usize, flags as usize, 0, 0, 0]) }
    }

    fn queued(&self) -> Result<u32> {
        // SK_MEMINFO_RMEM_ALLOC is the first of nine words.
        let info: [u32; 9] = sys::getsockopt(self.0, sys::SOL_SOCKET, linux_raw_sys::net::SO_MEMINFO as i32)?;
        Ok(info[0])
    }
}
