//! The answer to `open`: it registers the file before the kernel can ask for it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::{Answer, ReplyError};
use crate::device::FileHandle;
use crate::files::{Entry, Files};
use crate::fuse::Nodes;
use crate::poll::{PollNotifier, PollState};
use crate::protocol::abi::OpenOut;
use crate::protocol::opcode::{
    FOPEN_DIRECT_IO, FOPEN_NOFLUSH, FOPEN_PARALLEL_DIRECT_WRITES, FOPEN_PASSTHROUGH, FOPEN_STREAM,
};

/// How a file is opened, beyond that it is.
#[derive(Debug, Default)]
pub struct Opening {
    backing: Option<Arc<OwnedFd>>,
    flush: bool,
}

impl Opening {
    /// Without backing and without flush.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ring files: `mmap` of the node maps this memfd (or other regular file on a file system that
    /// is not stacked). It may be empty now and grow later; mapped pages past its end give SIGBUS,
    /// so seal it (`F_SEAL_SHRINK`, `F_SEAL_GROW`) before clients map. A character device ignores it.
    ///
    /// With a backing the open file has a position, and the kernel a lock on it: while a `read`
    /// waits for its answer, other `read`s and `write`s on the same open file wait behind it
    /// (`pread`, `pwrite`, `ioctl` and `poll` do not). Without, the file is a stream.
    ///
    /// The fd is held until the file is released; an `Arc` that the device shares saves a second.
    #[must_use]
    pub fn backing(mut self, memory: impl Into<Arc<OwnedFd>>) -> Self {
        self.backing = Some(memory.into());
        self
    }

    /// Ring files: ask [`Device::flush`](crate::Device::flush) at each `close`.
    #[must_use]
    pub fn flush(mut self, flush: bool) -> Self {
        self.flush = flush;
        self
    }
}

/// Where the opened node is, and what is owed to it if the open fails.
pub(crate) enum Place {
    Cuse,
    Fuse { nodes: Arc<Nodes>, node: u64 },
}

/// Answers an [`OpenRequest`](crate::OpenRequest).
pub struct OpenReply<F> {
    pub(super) answer: Answer,
    files: Arc<Files<F>>,
    handle: FileHandle,
    poll: Arc<PollState>,
    claim: Claim,
}

impl<F: Send + Sync + 'static> OpenReply<F> {
    pub(crate) fn new(answer: Answer, files: Arc<Files<F>>, handle: FileHandle, place: Place) -> Self {
        let poll = PollState::new(answer.channel.clone());
        Self { answer, files, handle, poll, claim: Claim { handle, place: Some(place) } }
    }

    /// The number the open file will have, as in the request.
    pub fn handle(&self) -> FileHandle {
        self.handle
    }

    /// What wakes those who will poll the open file.
    pub fn notifier(&self) -> PollNotifier {
        PollNotifier::new(self.poll.clone())
    }

    /// Answers that the file is open. Requests for it may arrive before this returns.
    ///
    /// # Errors
    ///
    /// See [`OpenReply::opened_with`].
    pub fn opened(self, file: impl Into<Arc<F>>) -> Result<(), ReplyError> {
        self.opened_with(file, Opening::new())
    }

    /// Answers that the file is open, and how. Requests for it may arrive before this returns.
    ///
    /// # Errors
    ///
    /// The file is not open then, and [`Device::release`](crate::Device::release) will not be
    /// called for it: [`ReplyError::Gone`] when the caller died or the session ended,
    /// [`ReplyError::Backing`] when the node cannot have this backing.
    pub fn opened_with(self, file: impl Into<Arc<F>>, opening: Opening) -> Result<(), ReplyError> {
        let Self { answer, files, handle, poll, mut claim } = self;
        let mut out = OpenOut { fh: handle.0, ..OpenOut::default() };
        let mut node_id = 0;
        if let Some(Place::Fuse { nodes, node }) = &claim.place {
            node_id = *node;
            out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
            out.open_flags |= if opening.flush { 0 } else { FOPEN_NOFLUSH };
            match nodes.back(*node, opening.backing) {
                // The kernel refuses the flag of streams beside this one.
                Ok(Some(id)) => {
                    out.open_flags |= FOPEN_PASSTHROUGH;
                    out.backing_id = id;
                }
                Ok(None) => out.open_flags |= FOPEN_STREAM,
                Err(errno) => {
                    answer.error(errno)?;
                    return Err(ReplyError::Backing(errno));
                }
            }
        }
        // Before the answer: the next request for the file may be read before `send` returns.
        files.insert(handle.0, Entry { file: file.into(), poll, node: node_id });
        if let Err(error) = answer.send(&[out.as_bytes()]) {
            files.remove(handle.0);
            return Err(error);
        }
        claim.place = None;
        Ok(())
    }
}

impl<F> fmt::Debug for OpenReply<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenReply({:?}, {:?})", self.handle, self.answer)
    }
}

/// A node counts its open files from the request on; a failed open gives its count back.
struct Claim {
    handle: FileHandle,
    place: Option<Place>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(Place::Fuse { nodes, node }) = self.place.take() {
            nodes.closed(node, self.handle);
        }
    }
}
