//! Answers: each request's object gives exactly one, from any thread, now or later.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use crate::Errno;
use crate::channel::Channel;
use crate::poll::PollFlags;
use crate::protocol::abi::{IoctlOut, PollOut, WriteOut};

mod open;
mod parked;

pub(crate) use open::Place;
pub use open::{OpenReply, Opening};
pub use parked::Parked;

/// Why an answer did not reach its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyError {
    /// The request is no more: the connection has ended, or the kernel has given the request up.
    Gone,
    /// The answer holds more than was asked for; the caller got `EIO`.
    TooLong,
    /// The file cannot have this backing: it is open with other memory, or the node has none; the
    /// caller got the error inside.
    Backing(Errno),
    /// The kernel refused the answer with this error.
    Refused(Errno),
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the request is gone, nobody waits for the answer"),
            Self::TooLong => f.write_str("the answer is longer than what was asked for"),
            Self::Backing(errno) => write!(f, "the file cannot have this backing: {errno}"),
            Self::Refused(errno) => write!(f, "the kernel refused the answer: {errno}"),
        }
    }
}

impl std::error::Error for ReplyError {}

impl From<io::Error> for ReplyError {
    fn from(error: io::Error) -> Self {
        match Errno::from(error) {
            // ENOENT: no such request (any more). The others: no such connection.
            Errno::ENOENT | Errno::ENODEV | Errno::ENOTCONN | Errno::EPIPE => Self::Gone,
            errno => Self::Refused(errno),
        }
    }
}

/// The right to answer one request.
pub struct Answer {
    channel: Arc<Channel>,
    unique: u64,
    done: bool,
}

impl Answer {
    pub(crate) fn new(channel: &Arc<Channel>, unique: u64) -> Self {
        channel.expect_answer(unique);
        Self { channel: channel.clone(), unique, done: false }
    }

    fn done(&mut self) {
        self.done = true;
        self.channel.answered(self.unique);
    }

    fn send(mut self, parts: &[&[u8]]) -> Result<(), ReplyError> {
        self.done();
        Ok(self.channel.reply(self.unique, parts)?)
    }

    fn error(mut self, errno: Errno) -> Result<(), ReplyError> {
        self.done();
        Ok(self.channel.reply_error(self.unique, errno.answer())?)
    }

    /// The device broke the rules: the caller gets `EIO`, the device `error`.
    fn broken(self, error: ReplyError) -> Result<(), ReplyError> {
        self.error(Errno::EIO)?;
        Err(error)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.done {
            self.done();
            let _ = self.channel.reply_error(self.unique, Errno::EIO);
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.unique)
    }
}

mod sealed {
    pub trait Sealed {
        fn answer(&self) -> &super::Answer;
        fn fail(self, errno: crate::Errno);
    }
}

/// The reply objects: those that can be [`Parked`].
pub trait Reply: sealed::Sealed + Sized + Send + 'static {}

macro_rules! reply {
    ($name:ident $(<$param:ident>)?) => {
        impl $(<$param: Send + Sync + 'static>)? $name $(<$param>)? {
            /// Answers with an error.
            pub fn error(self, errno: Errno) {
                // Undeliverable: then nobody waits for it.
                let _ = self.answer.error(errno);
            }

            /// Whether the caller has been interrupted by a signal (or killed) and waits only for
            /// the answer; `EINTR` is the right one if nothing has been done yet.
            pub fn is_interrupted(&self) -> bool {
                self.answer.channel.is_interrupted(self.answer.unique)
            }

            /// Calls `hook` once when the caller is interrupted, on a reader thread; at once when it
            /// has been already. The request stays unanswered until somebody answers it.
            pub fn on_interrupt(&self, hook: impl FnOnce() + Send + 'static) {
                self.answer.channel.on_interrupt(self.answer.unique, Box::new(hook));
            }

            /// Sets the reply aside until the device can answer. An interrupt of the caller takes it
            /// and answers `EINTR`; whoever takes it first has it.
            pub fn park(self) -> Parked<Self> {
                Parked::new(self)
            }

            /// As `park`, and when nobody has taken the reply after this time it answers `EINTR`, as
            /// if a signal had come. Parked again, it keeps the time that was set first.
            pub fn park_for(self, patience: Duration) -> Parked<Self> {
                self.answer.channel.give_up_at(self.answer.unique, Instant::now() + patience);
                Parked::new(self)
            }
        }

        impl $(<$param: Send + Sync + 'static>)? sealed::Sealed for $name $(<$param>)? {
            fn answer(&self) -> &Answer {
                &self.answer
            }

            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        }

        impl $(<$param: Send + Sync + 'static>)? Reply for $name $(<$param>)? {}
    };
}

/// Answers a [`ReadRequest`](crate::ReadRequest).
#[derive(Debug)]
pub struct ReadReply {
    answer: Answer,
    size: u32,
}

/// Answers a [`WriteRequest`](crate::WriteRequest).
#[derive(Debug)]
pub struct WriteReply {
    answer: Answer,
    size: u32,
}

/// Answers an [`IoctlRequest`](crate::IoctlRequest).
#[derive(Debug)]
pub struct IoctlReply {
    answer: Answer,
    out_size: u32,
}

reply!(ReadReply);
reply!(WriteReply);
reply!(IoctlReply);
reply!(PollReply);
reply!(OpenReply<F>);

/// Answers a [`PollRequest`](crate::PollRequest).
#[derive(Debug)]
pub struct PollReply {
    answer: Answer,
}

impl PollReply {
    pub(crate) fn new(answer: Answer) -> Self {
        Self { answer }
    }

    /// Answers with what is ready, of any event; the kernel picks those that were asked for.
    ///
    /// An error instead (also that of a reply dropped, or parked and interrupted) is `POLLERR` to the caller.
    ///
    /// # Errors
    ///
    /// Why the caller did not hear of it.
    pub fn ready(self, events: PollFlags) -> Result<(), ReplyError> {
        self.answer.send(&[PollOut { revents: events.bits(), padding: 0 }.as_bytes()])
    }
}

impl ReadReply {
    pub(crate) fn new(answer: Answer, size: u32) -> Self {
        Self { answer, size }
    }

    /// Answers with these bytes; none mean the end of the file.
    ///
    /// # Errors
    ///
    /// [`ReplyError::TooLong`] when there are more than [`ReadRequest::size`](crate::ReadRequest),
    /// or why the caller did not get them.
    pub fn data(self, data: &[u8]) -> Result<(), ReplyError> {
        if data.len() > self.size as usize {
            return self.answer.broken(ReplyError::TooLong);
        }
        self.answer.send(&[data])
    }
}

impl WriteReply {
    pub(crate) fn new(answer: Answer, size: u32) -> Self {
        Self { answer, size }
    }

    /// Answers that `len` bytes of the data were taken.
    ///
    /// # Errors
    ///
    /// [`ReplyError::TooLong`] when there were not so many, or why the caller did not hear of it.
    pub fn written(self, len: usize) -> Result<(), ReplyError> {
        match u32::try_from(len) {
            Ok(size) if size <= self.size => self.answer.send(&[WriteOut { size, padding: 0 }.as_bytes()]),
            _ => self.answer.broken(ReplyError::TooLong),
        }
    }

    /// Answers that all of the data was taken.
    ///
    /// # Errors
    ///
    /// Why the caller did not hear of it.
    pub fn all_written(self) -> Result<(), ReplyError> {
        let size = self.size as usize;
        self.written(size)
    }
}

impl IoctlReply {
    pub(crate) fn new(answer: Answer, out_size: u32) -> Self {
        Self { answer, out_size }
    }

    /// Answers with the call's result, which is not negative, and with bytes for the caller's
    /// argument (fewer than it has room for leave the rest as it was).
    ///
    /// # Errors
    ///
    /// [`ReplyError::TooLong`] when there are more than
    /// [`IoctlRequest::out_size`](crate::IoctlRequest), or why the caller did not get them.
    pub fn done(self, result: u16, data: &[u8]) -> Result<(), ReplyError> {
        if data.len() > self.out_size as usize {
            return self.answer.broken(ReplyError::TooLong);
        }
        let out = IoctlOut { result: i32::from(result), flags: 0, in_iovs: 0, out_iovs: 0 };
        self.answer.send(&[out.as_bytes(), data])
    }
}
