//! The engine of nlmmap: memory-mapped netlink rings over a real netlink socket.
//!
//! A netlink socket of Linux 3.10 to 4.5 could carry two rings of frames, shared with its owner by `mmap`. Here the
//! *kernel role* of those rings is played in userspace: frames are filled from, and taken to, an ordinary netlink socket.
//!
//! ```text
//!   client role                        kernel role (this crate)                    kernel
//!   reads VALID, sets UNUSED   <----   rx: reserve, fill, publish   <----   recvmmsg(real socket)
//!   fills, sets VALID          ---->   tx: take, send, UNUSED       ---->   sendmsg(real socket)
//! ```
//!
//! Nothing here allocates, uses thread-local storage or calls a C library: the same code serves an interposer (where libc
//! is the thing being interposed), a daemon and a library. System calls go through [`socket::Socket`], so that the whole
//! engine runs in tests without a kernel.
//!
//! | module | promise |
//! | --- | --- |
//! | [`abi`] | constants and structures of the ABI, layout checked |
//! | [`geometry`] | the rules a ring request must meet, in the kernel's order |
//! | [`memory`] | the only raw accesses to ring memory |
//! | [`ring`] | head, frames, statuses: the kernel role's moves |
//! | [`message`] | what a datagram is: classes, chains, where it may be cut |
//! | [`store`] | datagrams that are in no frame, in order |
//! | [`control`] | the state that fork shares: heads, error, lock, counters |
//! | [`card`] | what people are shown of an endpoint beside that |
//! | [`lock`] | one pump at a time, across threads and processes |
//! | [`tap`] | a copy of what passes, for somebody who has asked |
//! | [`rx`], [`tx`] | the two pumps |
//! | [`readiness`] | what `poll` answers |
//! | [`waits`] | waits that a daemon's front answers by itself |
//! | [`endpoint`] | one socket with its rings: what front ends speak to |
//! | [`device_abi`] | the device node's ioctls, for those who serve them and those who make them |
//! | [`sys`] | raw system calls |
#![no_std]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

#[cfg(test)]
extern crate std;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("nlmmap supports 64-bit Linux only: the 32-bit time64 call names are not all interposed");

pub mod abi;
mod bulk;
pub mod card;
pub mod control;
pub mod device_abi;
pub mod endpoint;
pub mod errno;
pub mod geometry;
pub mod lock;
pub mod memory;
pub mod message;
pub mod readiness;
pub mod ring;
pub mod rx;
pub mod socket;
pub mod store;
pub mod sys;
pub mod tap;
pub mod trouble;
pub mod tx;
pub mod waits;

/// What [`waits`] is made of: loom has others.
mod atomic {
    pub(crate) use core::sync::atomic::{AtomicU32, Ordering, fence};
}

pub use errno::Errno;
