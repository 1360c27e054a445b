//! What the socket layer refuses before a kick comes to its frames: they stay `VALID`, and so does the head.
//!
//! In 4.5 `sendto`, `sendmsg` and `netlink_sendmsg` looked at flags, ancillary data, address and rights before they looked at a
//! frame (`EFAULT`, `EINVAL`, `EOPNOTSUPP`, `EPERM`, ...). The same looks, in the same order, are the running kernel's to make:
//! [`Socket::would_send`] asks for them without sending anything. That is one more system call, so it is made only where a refusal
//! is possible ([`is_doubtful`]), or where the call has failed or found no frame and may have been refused ([`may_be_refused`]).

use crate::errno::{Errno, Result};
use crate::socket::Socket;
use crate::sys::{self, MsgHdr, SockaddrNl};

const MSG_OOB: u32 = 1;
/// The kernel's own, refused from outside.
const MSG_CMSG_COMPAT: u32 = 0x8000_0000;

/// Whether the socket layer may refuse this before it sends: anything but a plain call to a well-formed address.
#[inline]
pub(super) fn is_doubtful(template: &MsgHdr, flags: u32) -> bool {
    flags & (MSG_OOB | MSG_CMSG_COMPAT) != 0 || template.controllen != 0 || address(template).is_none()
}

/// Whether a call to this address may be refused for want of rights, which only the kernel knows.
#[inline]
fn may_be_refused(template: &MsgHdr) -> bool {
    address(template).is_some_and(|a| a.portid != 0 || a.groups != 0)
}

/// Whether a kick was refused that has come to no frame (`None`), to one that is too long, or whose first frame was not sent.
///
/// # Errors
/// The refusal.
#[cold]
pub(super) fn look<S: Socket>(sock: &S, template: &MsgHdr, flags: u32, error: Option<Errno>) -> Result<()> {
    let doubt = match error {
        None | Some(Errno::INVAL) => may_be_refused(template),
        Some(error) => matches!(error, Errno::PERM | Errno::ACCES | Errno::OPNOTSUPP | Errno::BADF | Errno::NOTSOCK),
    };
    if !doubt {
        return Ok(());
    }
    // SAFETY: the caller of `kick` vouches for the template.
    unsafe { sock.would_send(template, flags) }
}

/// The address of a template that has none (zeroes) or a good one; `None` for one that netlink refuses.
#[inline]
fn address(template: &MsgHdr) -> Option<SockaddrNl> {
    if template.name.is_null() || template.namelen == 0 {
        return Some(SockaddrNl::default());
    }
    let len = template.namelen as i32;
    if len < size_of::<SockaddrNl>() as i32 || !sys::is_plausible(template.name) {
        return None;
    }
    // SAFETY: the caller of `kick` vouches for `namelen` bytes.
    let address = unsafe { template.name.cast::<SockaddrNl>().read_unaligned() };
    (address.family == sys::AF_NETLINK).then_some(address)
}
