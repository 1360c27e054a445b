//! What each hook does: ours, or handed on.
//!
//! Every function here has the name and the C signature of its hook, and the duties of the C function towards its caller.
//! The first look is always the table's; a descriptor that is not there costs nothing more.
#![allow(missing_docs, reason = "the names and duties of C functions that every manual documents")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the duties are those of the C function of the same name, as the module says"
)]

mod adopt;
mod announced;
mod deliver;
mod epoll;
mod exit;
mod fds;
mod map;
mod options;
mod receive;
mod select;
mod send;
mod signals;
mod sleep;
mod wait;

pub use crate::next::{__fxstat, __fxstat64, bind, connect, fstat, fstat64};
pub use crate::next::{getpeername, getsockname, ioctl, shutdown, socket};
pub use epoll::{epoll_ctl, epoll_pwait, epoll_pwait2, epoll_wait};
pub use exit::{_Exit, _exit};
pub use fds::{close, close_range, closefrom, dup, dup2, dup3, fcntl, fcntl64};
pub use map::{mmap, mmap64, mremap, msync, munmap};
pub use options::{getsockopt, setsockopt};
pub use receive::{__read_chk, __recv_chk, __recvfrom_chk, read, readv, recv, recvfrom, recvmmsg, recvmsg};
pub use select::{pselect, select};
pub use send::{send, sendmmsg, sendmsg, sendto, write, writev};
pub use signals::{note_signals, sigaction, signal};
pub use wait::{__poll_chk, __ppoll_chk, poll, ppoll};
