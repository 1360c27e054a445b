//! From requests to the device: what both kinds of node have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Errno;
use crate::channel::Channel;
use crate::device::{
    Caller, Device, FileHandle, IoctlRequest, NodeKind, OpenRequest, PollRequest, ReadRequest, WriteRequest,
};
use crate::files::{Entry, Files};
use crate::fuse::Tree;
use crate::poll::PollFlags;
use crate::protocol::abi::{InHeader, IoctlIn, OpenIn, PollIn, ReadIn, WriteIn};
use crate::protocol::{Operation, ParseError, Request, opcode};
use crate::reply::{Answer, IoctlReply, OpenReply, Place, PollReply, ReadReply, WriteReply};

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    /// The kernel has taken its leave.
    End,
}

pub(crate) struct Core<D: Device> {
    pub(crate) device: Arc<D>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) files: Arc<Files<D::File>>,
    /// The directory around a ring file; none for a character device.
    pub(crate) tree: Option<Tree>,
    next_handle: AtomicU64,
}

fn caller(header: &InHeader) -> Caller {
    Caller { tid: header.pid, uid: header.uid, gid: header.gid }
}

impl<D: Device> Core<D> {
    pub(crate) fn new(device: Arc<D>, channel: Arc<Channel>, tree: Option<Tree>) -> Self {
        let next_handle = AtomicU64::new(1);
        Self { device, channel, files: Arc::new(Files::new()), tree, next_handle }
    }

    /// Serves one request.
    pub(crate) fn handle(&self, bytes: &[u8]) -> Flow {
        let Request { header, operation } = match Request::parse(bytes) {
            Ok(request) => request,
            Err(ParseError::Body { unique, .. }) => {
                self.finish(unique, Err(Errno::EINVAL));
                return Flow::Continue;
            }
            // Nothing in it can be answered. No kernel sends this.
            Err(ParseError::NoHeader { .. } | ParseError::Length { .. }) => return Flow::Continue,
        };
        let unique = header.unique;
        match operation {
            Operation::Open(open) => self.open(&header, open),
            Operation::Release(release) => {
                self.release(release.fh);
                self.finish(unique, Ok(()));
            }
            Operation::Read(read) => self.read(&header, read),
            Operation::Write(write, data) => self.write(&header, write, data),
            Operation::Ioctl(ioctl, data) => self.ioctl(&header, ioctl, data),
            Operation::Poll(poll) => self.poll(&header, poll),
            Operation::Flush(flush) => {
                let done = self.with(flush.fh, |file| self.device.flush(caller(&header), file));
                self.finish(unique, done);
            }
            Operation::Fsync(fsync) => {
                let data_only = fsync.fsync_flags & opcode::FSYNC_FDATASYNC != 0;
                let done = self.with(fsync.fh, |file| self.device.fsync(caller(&header), file, data_only));
                self.finish(unique, done);
            }
            Operation::Interrupt(interrupt) => self.channel.interrupt(unique, interrupt.unique),
            Operation::NotifyReply => {}
            Operation::Destroy => {
                self.finish(unique, Ok(()));
                return Flow::End;
            }
            other => match &self.tree {
                Some(tree) => tree.handle(&self.channel, &header, other),
                None => self.refuse(unique),
            },
        }
        Flow::Continue
    }

    /// Answers requests without a body. Errors of sending mean that nobody waits.
    fn finish(&self, unique: u64, result: Result<(), Errno>) {
        let _ = match result {
            Ok(()) => self.channel.reply(unique, &[]),
            Err(errno) => self.channel.reply_error(unique, errno.answer()),
        };
    }

    /// An operation that does not exist here: the kernel does without it from now on.
    fn refuse(&self, unique: u64) {
        let _ = self.channel.reply_error(unique, Errno::ENOSYS);
    }

    fn with(&self, fh: u64, f: impl FnOnce(&Arc<D::File>) -> Result<(), Errno>) -> Result<(), Errno> {
        f(&self.files.find(fh).ok_or(Errno::EBADF)?.file)
    }

    fn open(&self, header: &InHeader, open: OpenIn) {
        let handle = FileHandle(self.next_handle.fetch_add(1, Ordering::Relaxed));
        let (place, node, sibling) = match &self.tree {
            None => (Place::Cuse, NodeKind::Cuse, None),
            Some(tree) => match tree.nodes.opening(header.nodeid, handle) {
                Some(sibling) => {
                    let place = Place::Fuse { nodes: tree.nodes.clone(), node: header.nodeid };
                    (place, NodeKind::Fuse, sibling)
                }
                None => return self.finish(header.unique, Err(Errno::ESTALE)),
            },
        };
        let answer = Answer::new(&self.channel, header.unique);
        let reply = OpenReply::new(answer, self.files.clone(), handle, place);
        let flags = open.flags.cast_signed();
        let request = OpenRequest { caller: caller(header), flags, handle, node, sibling };
        self.device.open(&request, reply);
    }

    fn release(&self, fh: u64) {
        if let Some(entry) = self.files.remove(fh) {
            self.released(fh, entry);
        }
    }

    fn released(&self, fh: u64, entry: Entry<D::File>) {
        entry.poll.disarm();
        self.device.release(FileHandle(fh), entry.file);
        if let Some(tree) = &self.tree {
            tree.nodes.closed(entry.node, FileHandle(fh));
        }
    }

    fn read(&self, header: &InHeader, read: ReadIn) {
        let Some(entry) = self.files.find(read.fh) else {
            return self.finish(header.unique, Err(Errno::EBADF));
        };
        let reply = ReadReply::new(Answer::new(&self.channel, header.unique), read.size);
        let request = ReadRequest {
            caller: caller(header),
            handle: FileHandle(read.fh),
            size: read.size,
            offset: read.offset,
            flags: read.flags.cast_signed(),
        };
        self.device.read(&request, &entry.file, reply);
    }

    fn write(&self, header: &InHeader, write: WriteIn, data: &[u8]) {
        let Some(entry) = self.files.find(write.fh) else {
            return self.finish(header.unique, Err(Errno::EBADF));
        };
        let reply = WriteReply::new(Answer::new(&self.channel, header.unique), write.size);
        let request = WriteRequest {
            caller: caller(header),
            handle: FileHandle(write.fh),
            data,
            offset: write.offset,
            flags: write.flags.cast_signed(),
        };
        self.device.write(&request, &entry.file, reply);
    }

    fn ioctl(&self, header: &InHeader, ioctl: IoctlIn, data: &[u8]) {
        // A directory has no ioctls, and `fh` is not one of ours there.
        if ioctl.flags & opcode::IOCTL_DIR != 0 {
            return self.finish(header.unique, Err(Errno::ENOTTY));
        }
        let Some(entry) = self.files.find(ioctl.fh) else {
            return self.finish(header.unique, Err(Errno::EBADF));
        };
        let reply = IoctlReply::new(Answer::new(&self.channel, header.unique), ioctl.out_size);
        let request = IoctlRequest {
            caller: caller(header),
            handle: FileHandle(ioctl.fh),
            cmd: ioctl.cmd,
            arg: ioctl.arg,
            data,
            out_size: ioctl.out_size,
            compat: ioctl.flags & opcode::IOCTL_COMPAT != 0,
        };
        self.device.ioctl(&request, &entry.file, reply);
    }

    fn poll(&self, header: &InHeader, poll: PollIn) {
        let Some(entry) = self.files.find(poll.fh) else {
            return self.finish(header.unique, Err(Errno::EBADF));
        };
        let notify = poll.flags & opcode::POLL_SCHEDULE_NOTIFY != 0;
        if notify {
            entry.poll.arm(poll.kh);
        }
        let request = PollRequest {
            caller: caller(header),
            handle: FileHandle(poll.fh),
            events: PollFlags::from_bits(poll.events),
            notify,
        };
        let reply = PollReply::new(Answer::new(&self.channel, header.unique));
        self.device.poll_later(&request, &entry.file, reply);
    }

    /// The session has ended: closes the connection, then gives the device its files back.
    pub(crate) fn close(&self) {
        self.channel.close();
        for (fh, entry) in self.files.take_all() {
            self.released(fh, entry);
        }
        if let Some(tree) = &self.tree {
            tree.nodes.clear();
        }
    }
}

// The replies are written down as bytes of a little-endian machine.
#[cfg(all(test, target_endian = "little"))]
mod tests;
