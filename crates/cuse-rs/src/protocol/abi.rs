//! Wire structures, with the size of each checked against the uapi header at compile time.
//!
//! `IntoBytes` refuses a structure with padding the compiler would put in, so size and field list
//! together pin the layout. Names of fields are the header's; structures lose the `fuse_` prefix.
#![allow(missing_docs, reason = "the fields are the kernel's; fuse.h documents them")]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! wire {
    ($($name:ident, $size:literal { $($field:ident: $type:ty),* $(,)? })*) => {$(
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type),* }
        const _: () = assert!(size_of::<$name>() == $size, "size differs from the uapi header");
    )*};
}

// Messages.
wire! {
    InHeader, 40 {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        total_extlen: u16, padding: u16,
    }
    OutHeader, 16 { len: u32, error: i32, unique: u64 }
}

// Handshake. The tail of FuseInitIn after `flags` came with 7.36 and may be missing.
wire! {
    CuseInitIn, 16 { major: u32, minor: u32, unused: u32, flags: u32 }
    CuseInitOut, 72 {
        major: u32, minor: u32, unused: u32, flags: u32, max_read: u32, max_write: u32,
        dev_major: u32, dev_minor: u32, spare: [u32; 10],
    }
    FuseInitIn, 16 { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    FuseInitInExt, 48 { flags2: u32, unused: [u32; 11] }
    FuseInitOut, 64 {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16,
        map_alignment: u16, flags2: u32, max_stack_depth: u32, unused: [u32; 6],
    }
}

// Operations on an open file, the same for both devices.
wire! {
    OpenIn, 8 { flags: u32, open_flags: u32 }
    OpenOut, 16 { fh: u64, open_flags: u32, backing_id: i32 }
    ReleaseIn, 24 { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    FlushIn, 24 { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    FsyncIn, 16 { fh: u64, fsync_flags: u32, padding: u32 }
    ReadIn, 40 {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    WriteIn, 40 {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    WriteOut, 8 { size: u32, padding: u32 }
    IoctlIn, 32 { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    IoctlOut, 16 { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    PollIn, 24 { fh: u64, kh: u64, flags: u32, events: u32 }
    PollOut, 8 { revents: u32, padding: u32 }
    NotifyPollWakeupOut, 8 { kh: u64 }
    InterruptIn, 8 { unique: u64 }
}

// Names and attributes: the mounted directory only.
wire! {
    Attr, 88 {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32,
        mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
        blksize: u32, flags: u32,
    }
    EntryOut, 128 {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
        attr_valid_nsec: u32, attr: Attr,
    }
    AttrOut, 104 { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr }
    GetattrIn, 16 { getattr_flags: u32, dummy: u32, fh: u64 }
    ForgetIn, 8 { nlookup: u64 }
    ForgetOne, 16 { nodeid: u64, nlookup: u64 }
    BatchForgetIn, 8 { count: u32, dummy: u32 }
    AccessIn, 8 { mask: u32, padding: u32 }
    StatfsOut, 80 {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32,
        frsize: u32, padding: u32, spare: [u32; 6],
    }
    Dirent, 24 { ino: u64, off: u64, namelen: u32, kind: u32 }
}

// Argument of the ioctl FUSE_DEV_IOC_BACKING_OPEN on /dev/fuse.
wire! {
    BackingMap, 16 { fd: i32, flags: u32, padding: u64 }
}

#[cfg(test)]
mod tests;
