//! Character devices in userspace (CUSE) and ring files over FUSE, in pure Rust.
//!
//! A daemon implements [`Device`]: what `open`, `read`, `write`, `ioctl` and `poll` do. The crate
//! makes a node that clients open, and turns their system calls into calls of the trait. There are
//! two kinds of node, and one implementation serves either, or both at once:
//!
//! | | [`Cuse`] | [`RingFile`] |
//! | --- | --- | --- |
//! | node | character device `/dev/NAME` | regular file in a mounted directory |
//! | kernel | any with `CONFIG_CUSE`, module `cuse` | 6.9 or later with `CONFIG_FUSE_PASSTHROUGH` |
//! | `mmap` | `ENODEV`, on every kernel | maps the memfd that the open was answered with |
//! | permissions | devtmpfs, udev, [`Cuse::mode`] | [`RingFile::mode`], checked by the kernel |
//! | each open | one open file | one open file with memory of its own |
//!
//! Nothing of libfuse is needed, neither its library nor `fusermount`. Both kinds need root.
//!
//! # A device
//!
//! ```no_run
//! use std::sync::Arc;
//! use cuse_rs::{Cuse, Device, OpenReply, OpenRequest, ReadReply, ReadRequest};
//!
//! /// Reads give the number of the open file.
//! struct Counter;
//!
//! impl Device for Counter {
//!     type File = String;
//!
//!     fn open(&self, request: &OpenRequest, reply: OpenReply<String>) {
//!         let _ = reply.opened(format!("{}\n", request.handle.get()));
//!     }
//!
//!     fn read(&self, request: &ReadRequest, file: &Arc<String>, reply: ReadReply) {
//!         let text = file.as_bytes();
//!         let _ = reply.data(&text[..text.len().min(request.size as usize)]);
//!     }
//! }
//!
//! let session = Cuse::new("counter").create(Arc::new(Counter))?;
//! session.run(2)?; // two reader threads, until somebody calls `session.stop_token().stop()`
//! # Ok::<(), cuse_rs::Error>(())
//! ```
//!
//! # Answers
//!
//! Each request comes with a reply object that answers **once**: at once, or later from any thread.
//! Dropped without an answer it answers `EIO`, so no client hangs on a forgotten one. To let a
//! caller wait, [`park`](ReadReply::park) the reply and return; when the caller gets a signal (or
//! is killed), the parked reply answers `EINTR` and the caller goes on. Handlers with wishes of
//! their own use [`on_interrupt`](ReadReply::on_interrupt).
//!
//! # Waiting
//!
//! [`Device::poll`] says what is ready; [`PollNotifier::notify`], called after a change, makes the
//! kernel ask again. No wake-up is lost, level- or edge-triggered, and a call costs nothing while
//! nobody waits.
//!
//! # Limits
//!
//! - ioctls are in the *restricted* form: size and direction are in the number, no pointers inside.
//! - Reads and writes come in parts of at most 128 KiB (ring files: up to 1 MiB).
//! - A CUSE device has no `mmap`, `fsync`, `flush` or `lseek`: the kernel has no such calls for it.
//! - Linux 5.4 or later.
#![deny(clippy::multiple_unsafe_ops_per_block)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#![allow(unexpected_cfgs, reason = "cargo-fuzz sets cfg(fuzzing)")]

mod channel;
mod core;
mod cuse;
mod deadlines;
mod device;
mod errno;
mod error;
mod fd;
mod files;
mod fuse;
mod keeper;
mod poll;
#[cfg(not(fuzzing))]
mod protocol;
#[cfg(fuzzing)]
pub mod protocol;
mod reply;
mod session;
mod stop;
#[cfg(test)]
mod testing;

pub use cuse::Cuse;
pub use device::{
    Caller, Device, FileHandle, IoctlRequest, NodeKind, OpenRequest, PollRequest, ReadRequest, WriteRequest,
};
pub use errno::Errno;
pub use error::Error;
pub use fuse::{Passthrough, RingFile, clear_dead_mount};
pub use poll::{PollFlags, PollNotifier};
pub use reply::{IoctlReply, OpenReply, Opening, Parked, PollReply, ReadReply, Reply, ReplyError, WriteReply};
pub use session::{Ended, Observer, Serving, Session, Stats};
pub use stop::StopToken;
