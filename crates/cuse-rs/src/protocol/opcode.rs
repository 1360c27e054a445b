//! Operation, notification and flag numbers of the protocol, by their names in the uapi header.
#![allow(missing_docs, reason = "the names are the kernel's; fuse.h documents them")]

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const STATFS: u32 = 17;
pub const RELEASE: u32 = 18;
pub const FSYNC: u32 = 20;
pub const FLUSH: u32 = 25;
pub const INIT: u32 = 26;
pub const OPENDIR: u32 = 27;
pub const READDIR: u32 = 28;
pub const RELEASEDIR: u32 = 29;
pub const FSYNCDIR: u32 = 30;
pub const ACCESS: u32 = 34;
pub const INTERRUPT: u32 = 36;
pub const DESTROY: u32 = 38;
pub const IOCTL: u32 = 39;
pub const POLL: u32 = 40;
pub const NOTIFY_REPLY: u32 = 41;
pub const BATCH_FORGET: u32 = 42;
pub const FALLOCATE: u32 = 43;
pub const CUSE_INIT: u32 = 4096;

/// Code of the notification that wakes whoever polls an open file.
pub const NOTIFY_POLL: i32 = 1;

pub const POLL_SCHEDULE_NOTIFY: u32 = 1 << 0;
pub const FSYNC_FDATASYNC: u32 = 1 << 0;
pub const IOCTL_COMPAT: u32 = 1 << 0;
pub const IOCTL_DIR: u32 = 1 << 4;

pub const FOPEN_DIRECT_IO: u32 = 1 << 0;
pub const FOPEN_STREAM: u32 = 1 << 4;
pub const FOPEN_NOFLUSH: u32 = 1 << 5;
pub const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
pub const FOPEN_PASSTHROUGH: u32 = 1 << 7;

pub const INIT_ATOMIC_O_TRUNC: u64 = 1 << 3;
pub const INIT_BIG_WRITES: u64 = 1 << 5;
pub const INIT_PARALLEL_DIROPS: u64 = 1 << 18;
pub const INIT_MAX_PAGES: u64 = 1 << 22;
pub const INIT_EXT: u64 = 1 << 30;
pub const INIT_PASSTHROUGH: u64 = 1 << 37;

/// The protocol's major version, the only one there has been since 2006.
pub const MAJOR: u32 = 7;
/// The newest minor version this crate knows (Linux 6.9, the first with passthrough).
pub const MINOR: u32 = 40;
/// The oldest minor version this crate accepts (Linux 5.2).
pub const MINOR_OLDEST: u32 = 31;

/// The node id of the mounted directory.
pub const ROOT_ID: u64 = 1;
/// Reads from the device must offer at least this much.
pub const MIN_READ_BUFFER: usize = 8192;
