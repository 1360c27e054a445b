//! What a device does: the trait a daemon implements, and the requests it is handed.

use std::fmt;
use std::sync::Arc;

use crate::Errno;
use crate::poll::PollFlags;
use crate::reply::{IoctlReply, OpenReply, PollReply, ReadReply, WriteReply};

/// Number of one successful `open`, never used twice in a session.
///
/// It lives until [`Device::release`]; `dup`, `fork` and passing the fd on share it, as they share
/// the open file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileHandle(pub(crate) u64);

impl FileHandle {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Through which node a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A character device ([`Cuse`](crate::Cuse)).
    Cuse,
    /// A ring file ([`RingFile`](crate::RingFile)).
    Fuse,
}

/// Who made the system call, seen from the namespaces the session was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The **thread** id; 0 when the caller's pid namespace hides it.
    ///
    /// Until the request is answered the thread cannot die, so looking into `/proc/TID` or opening
    /// a pidfd before answering is free of the pid-reuse race.
    pub tid: u32,
    /// The user id of its file accesses (fsuid).
    pub uid: u32,
    /// The group id of its file accesses (fsgid).
    pub gid: u32,
}

/// An `open` of the node.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// Who opens.
    pub caller: Caller,
    /// Flags of `open(2)`: access mode, `O_NONBLOCK` and so on. Never with `O_CREAT` or `O_EXCL`.
    pub flags: i32,
    /// The number this open file will have.
    pub handle: FileHandle,
    /// Which node was opened.
    pub node: NodeKind,
    /// Ring files only: an open file whose memory this one shares, because the same file was
    /// opened again (through `/proc/PID/fd`, a bind mount of the file, `O_PATH`). It maps the
    /// other's backing whatever the answer says; a device that cannot have that answers an error.
    pub sibling: Option<FileHandle>,
}

/// A `read`.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// Who reads.
    pub caller: Caller,
    /// The open file.
    pub handle: FileHandle,
    /// Room in the caller's buffer, at most the session's `max_read`. Larger reads come in parts,
    /// and end with the first part that is not filled.
    pub size: u32,
    /// The file position; 0 for stream files and character devices.
    pub offset: u64,
    /// The open file's flags now: `O_NONBLOCK` may have been changed by `fcntl`.
    pub flags: i32,
}

/// A `write`.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    /// Who writes.
    pub caller: Caller,
    /// The open file.
    pub handle: FileHandle,
    /// What is written, at most the session's `max_write`; more comes in parts.
    pub data: &'a [u8],
    /// The file position; 0 for stream files and character devices.
    pub offset: u64,
    /// The open file's flags now.
    pub flags: i32,
}

/// An `ioctl`, in the restricted form: size and direction are those its number encodes
/// (`_IO`, `_IOR`, `_IOW`, `_IOWR`), at most 16383 bytes; the kernel copies them.
#[derive(Clone, Copy, Debug)]
pub struct IoctlRequest<'a> {
    /// Who calls.
    pub caller: Caller,
    /// The open file.
    pub handle: FileHandle,
    /// The ioctl's number.
    pub cmd: u32,
    /// The third argument: the value itself for `_IO` numbers, else an address in the caller.
    pub arg: u64,
    /// The argument's bytes for `_IOW` and `_IOWR`, else empty.
    pub data: &'a [u8],
    /// How many bytes the answer may carry: the encoded size for `_IOR` and `_IOWR`, else 0.
    pub out_size: u32,
    /// A 32-bit program called on a 64-bit kernel.
    pub compat: bool,
}

/// A `poll`, `select` or `epoll` that looks at the file.
#[derive(Clone, Copy, Debug)]
pub struct PollRequest {
    /// Who looks (for `epoll` the thread that waits, not the one that added the file).
    pub caller: Caller,
    /// The open file.
    pub handle: FileHandle,
    /// The events asked for.
    pub events: PollFlags,
    /// Whether somebody may go to sleep on the answer, and a notification is wanted.
    pub notify: bool,
}

/// A device in userspace. One implementation serves both kinds of node, also at the same time.
///
/// Methods are called by the session's reader threads, several at once. A method that blocks holds
/// its thread: when an answer has to wait, keep the reply object ([`ReadReply::park`] and its like)
/// and return. A reply that is dropped without an answer answers `EIO`.
pub trait Device: Send + Sync + 'static {
    /// State of one open file. Dropped when the file is released and no request uses it.
    type File: Send + Sync + 'static;

    /// Somebody opens the node. Answer with [`OpenReply::opened`] or an error.
    fn open(&self, request: &OpenRequest, reply: OpenReply<Self::File>);

    /// The last reference to the open file is gone; nothing more comes for it. A character
    /// device's `close` returns after this, a ring file's may return before. Mappings of a ring
    /// file's memory may live on: they hold the memory, not the open file.
    ///
    /// It is called for each opened file exactly once, at the latest when the session ends.
    fn release(&self, handle: FileHandle, file: Arc<Self::File>) {
        let _ = (handle, file);
    }

    /// Somebody reads.
    fn read(&self, request: &ReadRequest, file: &Arc<Self::File>, reply: ReadReply) {
        let _ = (request, file);
        reply.error(Errno::EINVAL);
    }

    /// Somebody writes.
    fn write(&self, request: &WriteRequest<'_>, file: &Arc<Self::File>, reply: WriteReply) {
        let _ = (request, file);
        reply.error(Errno::EINVAL);
    }

    /// Somebody calls an ioctl.
    fn ioctl(&self, request: &IoctlRequest<'_>, file: &Arc<Self::File>, reply: IoctlReply) {
        let _ = (request, file);
        reply.error(Errno::ENOTTY);
    }

    /// What is ready now, of any event; the kernel picks those that were asked for.
    ///
    /// When this changes later, call [`PollNotifier::notify`](crate::PollNotifier::notify) (the
    /// notifier comes from [`OpenReply::notifier`]) after the change.
    fn poll(&self, request: &PollRequest, file: &Arc<Self::File>) -> PollFlags {
        let _ = (request, file);
        PollFlags::IN | PollFlags::RDNORM | PollFlags::OUT | PollFlags::WRNORM
    }

    /// As [`Device::poll`], which this calls: for devices that have to ask elsewhere, and answer later.
    ///
    /// What changes after this was called, and is not in the answer, has to be notified, in whatever order the two reach
    /// the kernel.
    fn poll_later(&self, request: &PollRequest, file: &Arc<Self::File>, reply: PollReply) {
        // Undeliverable: then nobody waits for it.
        let _ = reply.ready(self.poll(request, file));
    }

    /// A file descriptor of the open file is closed, other copies may live on. Only ring files
    /// opened with [`Opening::flush`](crate::Opening::flush) ask; an error is `close`'s error.
    ///
    /// # Errors
    ///
    /// The number that `close` shall give.
    fn flush(&self, caller: Caller, file: &Arc<Self::File>) -> Result<(), Errno> {
        let _ = (caller, file);
        Ok(())
    }

    /// `fsync`, or with `data_only` `fdatasync`; only ring files ask.
    ///
    /// # Errors
    ///
    /// The number that the call shall give.
    fn fsync(&self, caller: Caller, file: &Arc<Self::File>, data_only: bool) -> Result<(), Errno> {
        let _ = (caller, file, data_only);
        Ok(())
    }
}
