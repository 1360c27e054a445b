//! Structures and numbers against the header of the machine the tests run on.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::process::{Command, Stdio};

use super::*;
use crate::protocol::opcode;

/// Appends an assertion for the size of each structure and the place of each field. Fields that
/// the header has under another name, or only in later versions, are left out.
macro_rules! layouts {
    ($text:ident: $($name:ident = $c:ident { $($field:ident),* })*) => {$(
        let size = size_of::<$name>();
        let c = stringify!($c);
        writeln!($text, "_Static_assert(sizeof(struct {c}) == {size}, \"{c}\");").unwrap();
        $(
            let (field, at) = (stringify!($field), offset_of!($name, $field));
            writeln!($text, "_Static_assert(offsetof(struct {c}, {field}) == {at}, \"{field}\");")
                .unwrap();
        )*
    )*};
}

macro_rules! numbers {
    ($text:ident: $($name:ident = $c:ident)*) => {$(
        let (c, value) = (stringify!($c), i64::from(opcode::$name as u32));
        writeln!($text, "_Static_assert((unsigned){c} == {value}u, \"{c}\");").unwrap();
    )*};
}

#[test]
fn same_as_the_uapi_header() {
    let mut text = String::from("#include <stddef.h>\n#include <linux/fuse.h>\n");
    layouts! { text:
        InHeader = fuse_in_header { len, opcode, unique, nodeid, uid, gid, pid }
        OutHeader = fuse_out_header { len, error, unique }
        CuseInitIn = cuse_init_in { major, minor, flags }
        CuseInitOut = cuse_init_out { major, minor, flags, max_read, max_write, dev_major, dev_minor }
        FuseInitOut = fuse_init_out { major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages, map_alignment }
        OpenIn = fuse_open_in { flags }
        OpenOut = fuse_open_out { fh, open_flags }
        ReleaseIn = fuse_release_in { fh, flags, release_flags, lock_owner }
        FlushIn = fuse_flush_in { fh, lock_owner }
        FsyncIn = fuse_fsync_in { fh, fsync_flags }
        ReadIn = fuse_read_in { fh, offset, size, read_flags, lock_owner, flags }
        WriteIn = fuse_write_in { fh, offset, size, write_flags, lock_owner, flags }
        WriteOut = fuse_write_out { size }
        IoctlIn = fuse_ioctl_in { fh, flags, cmd, arg, in_size, out_size }
        IoctlOut = fuse_ioctl_out { result, flags, in_iovs, out_iovs }
        PollIn = fuse_poll_in { fh, kh, flags, events }
        PollOut = fuse_poll_out { revents }
        NotifyPollWakeupOut = fuse_notify_poll_wakeup_out { kh }
        InterruptIn = fuse_interrupt_in { unique }
        Attr = fuse_attr { ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags }
        EntryOut = fuse_entry_out { nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr }
        AttrOut = fuse_attr_out { attr_valid, attr_valid_nsec, attr }
        GetattrIn = fuse_getattr_in { getattr_flags, fh }
        ForgetIn = fuse_forget_in { nlookup }
        ForgetOne = fuse_forget_one { nodeid, nlookup }
        BatchForgetIn = fuse_batch_forget_in { count }
        AccessIn = fuse_access_in { mask }
        StatfsOut = fuse_kstatfs { blocks, bfree, bavail, files, ffree, bsize, namelen, frsize }
        Dirent = fuse_dirent { ino, off, namelen }
    }
    numbers! { text:
        LOOKUP = FUSE_LOOKUP FORGET = FUSE_FORGET GETATTR = FUSE_GETATTR SETATTR = FUSE_SETATTR
        OPEN = FUSE_OPEN READ = FUSE_READ WRITE = FUSE_WRITE STATFS = FUSE_STATFS
        RELEASE = FUSE_RELEASE FSYNC = FUSE_FSYNC FLUSH = FUSE_FLUSH INIT = FUSE_INIT
        OPENDIR = FUSE_OPENDIR READDIR = FUSE_READDIR RELEASEDIR = FUSE_RELEASEDIR
        FSYNCDIR = FUSE_FSYNCDIR ACCESS = FUSE_ACCESS INTERRUPT = FUSE_INTERRUPT
        DESTROY = FUSE_DESTROY IOCTL = FUSE_IOCTL POLL = FUSE_POLL NOTIFY_REPLY = FUSE_NOTIFY_REPLY
        BATCH_FORGET = FUSE_BATCH_FORGET FALLOCATE = FUSE_FALLOCATE CUSE_INIT = CUSE_INIT
        NOTIFY_POLL = FUSE_NOTIFY_POLL POLL_SCHEDULE_NOTIFY = FUSE_POLL_SCHEDULE_NOTIFY
        FSYNC_FDATASYNC = FUSE_FSYNC_FDATASYNC IOCTL_COMPAT = FUSE_IOCTL_COMPAT
        IOCTL_DIR = FUSE_IOCTL_DIR FOPEN_DIRECT_IO = FOPEN_DIRECT_IO FOPEN_STREAM = FOPEN_STREAM
        FOPEN_NOFLUSH = FOPEN_NOFLUSH
        FOPEN_PARALLEL_DIRECT_WRITES = FOPEN_PARALLEL_DIRECT_WRITES
        INIT_ATOMIC_O_TRUNC = FUSE_ATOMIC_O_TRUNC INIT_BIG_WRITES = FUSE_BIG_WRITES
        INIT_PARALLEL_DIROPS = FUSE_PARALLEL_DIROPS INIT_MAX_PAGES = FUSE_MAX_PAGES
        INIT_EXT = FUSE_INIT_EXT MAJOR = FUSE_KERNEL_VERSION ROOT_ID = FUSE_ROOT_ID
        MIN_READ_BUFFER = FUSE_MIN_READ_BUFFER
    }
    // Linux 6.9.
    text.push_str("#ifdef FOPEN_PASSTHROUGH\n");
    numbers! { text: FOPEN_PASSTHROUGH = FOPEN_PASSTHROUGH }
    layouts! { text:
        BackingMap = fuse_backing_map { fd, flags, padding }
        OpenOut = fuse_open_out { backing_id }
        FuseInitOut = fuse_init_out { flags2, max_stack_depth }
    }
    text.push_str("_Static_assert(FUSE_PASSTHROUGH == 1ULL << 37, \"\");\n#endif\n");
    let mut compiler = match Command::new("cc")
        .args(["-x", "c", "-fsyntax-only", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(compiler) => compiler,
        Err(error) => return eprintln!("skipped: no C compiler: {error}"),
    };
    std::io::Write::write_all(&mut compiler.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = compiler.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
