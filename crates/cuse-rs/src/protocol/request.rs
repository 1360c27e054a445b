//! From bytes to a typed request, without a panic on any input.

use std::fmt;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::abi::{
    AccessIn, BatchForgetIn, CuseInitIn, FlushIn, ForgetIn, ForgetOne, FsyncIn, FuseInitIn, FuseInitInExt, GetattrIn,
    InHeader, InterruptIn, IoctlIn, OpenIn, PollIn, ReadIn, ReleaseIn, WriteIn,
};
use super::opcode;

/// One request of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request<'a> {
    /// Who asks, for what, under which id.
    pub header: InHeader,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// What is asked, with its arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "one variant an opcode of fuse.h, by the same name")]
pub enum Operation<'a> {
    CuseInit(CuseInitIn),
    FuseInit(FuseInitIn, FuseInitInExt),
    Lookup {
        name: &'a [u8],
    },
    Forget(ForgetIn),
    BatchForget(ForgetList<'a>),
    Getattr(GetattrIn),
    Setattr,
    Access(AccessIn),
    Statfs,
    Opendir(OpenIn),
    Readdir(ReadIn),
    Releasedir(ReleaseIn),
    Fsyncdir,
    Open(OpenIn),
    Release(ReleaseIn),
    Read(ReadIn),
    Write(WriteIn, &'a [u8]),
    Ioctl(IoctlIn, &'a [u8]),
    Poll(PollIn),
    Flush(FlushIn),
    Fsync(FsyncIn),
    Fallocate,
    Interrupt(InterruptIn),
    Destroy,
    /// An answer to a question this crate never asks.
    NotifyReply,
    /// An opcode this crate does not serve; it is answered with `ENOSYS`.
    Unknown,
}

/// The nodes of a BATCH_FORGET.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForgetList<'a> {
    bytes: &'a [u8],
}

impl ForgetList<'_> {
    /// Node ids with the number of look-ups that are taken back.
    pub fn iter(&self) -> impl Iterator<Item = ForgetOne> {
        self.bytes.chunks_exact(size_of::<ForgetOne>()).filter_map(|bytes| ForgetOne::read_from_bytes(bytes).ok())
    }
}

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Less than a header arrived: nothing can be answered.
    NoHeader {
        /// Bytes that arrived.
        len: usize,
    },
    /// The header's `len` is not a length these bytes can have: nothing can be answered.
    Length {
        /// Bytes that arrived.
        len: usize,
        /// What the header says.
        says: u32,
    },
    /// The body is too short for the opcode, or contradicts itself; the request can be refused.
    Body {
        /// The request's id.
        unique: u64,
        /// The request's opcode.
        opcode: u32,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader { len } => write!(f, "{len} bytes are too few for a request"),
            Self::Length { len, says } => {
                write!(f, "a request of {len} bytes says that it has {says}")
            }
            Self::Body { unique, opcode } => {
                write!(f, "request {unique} (operation {opcode}) has a broken body")
            }
        }
    }
}

impl std::error::Error for ParseError {}

impl<'a> Request<'a> {
    /// Takes one request off the bytes that one `read` gave.
    ///
    /// # Errors
    ///
    /// See [`ParseError`]. Bytes after the header's `len` are ignored, and so are bytes after the
    /// arguments an opcode has: later protocol versions append.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let len = bytes.len();
        let (header, _) = InHeader::read_from_prefix(bytes).map_err(|_| ParseError::NoHeader { len })?;
        let body = bytes
            .get(size_of::<InHeader>()..header.len as usize)
            .ok_or(ParseError::Length { len, says: header.len })?;
        let operation =
            operation(header.opcode, body).ok_or(ParseError::Body { unique: header.unique, opcode: header.opcode })?;
        Ok(Self { header, operation })
    }
}

/// A copy of the structure at the front, and what follows it; nothing is required of alignment.
fn take<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(body).ok()
}

fn only<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Option<T> {
    take(body).map(|(value, _)| value)
}

fn operation(code: u32, body: &[u8]) -> Option<Operation<'_>> {
    Some(match code {
        opcode::CUSE_INIT => Operation::CuseInit(only(body)?),
        opcode::INIT => {
            let (init, rest) = take(body)?;
            Operation::FuseInit(init, only(rest).unwrap_or_default())
        }
        opcode::LOOKUP => Operation::Lookup { name: name(body)? },
        opcode::FORGET => Operation::Forget(only(body)?),
        opcode::BATCH_FORGET => Operation::BatchForget(forget_list(body)?),
        opcode::GETATTR => Operation::Getattr(only(body)?),
        opcode::SETATTR => Operation::Setattr,
        opcode::ACCESS => Operation::Access(only(body)?),
        opcode::STATFS => Operation::Statfs,
        opcode::OPENDIR => Operation::Opendir(only(body)?),
        opcode::READDIR => Operation::Readdir(only(body)?),
        opcode::RELEASEDIR => Operation::Releasedir(only(body)?),
        opcode::FSYNCDIR => Operation::Fsyncdir,
        opcode::OPEN => Operation::Open(only(body)?),
        opcode::RELEASE => Operation::Release(only(body)?),
        opcode::READ => Operation::Read(only(body)?),
        opcode::WRITE => {
            let (write, rest) = take::<WriteIn>(body)?;
            Operation::Write(write, rest.get(..write.size as usize)?)
        }
        opcode::IOCTL => {
            let (ioctl, rest) = take::<IoctlIn>(body)?;
            Operation::Ioctl(ioctl, rest.get(..ioctl.in_size as usize)?)
        }
        opcode::POLL => Operation::Poll(only(body)?),
        opcode::FLUSH => Operation::Flush(only(body)?),
        opcode::FSYNC => Operation::Fsync(only(body)?),
        opcode::FALLOCATE => Operation::Fallocate,
        opcode::INTERRUPT => Operation::Interrupt(only(body)?),
        opcode::DESTROY => Operation::Destroy,
        opcode::NOTIFY_REPLY => Operation::NotifyReply,
        _ => Operation::Unknown,
    })
}

/// A name ends at its NUL, which must be there.
fn name(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|&byte| byte == 0)?;
    body.get(..end)
}

fn forget_list(body: &[u8]) -> Option<ForgetList<'_>> {
    let (head, rest) = take::<BatchForgetIn>(body)?;
    let len = (head.count as usize).checked_mul(size_of::<ForgetOne>())?;
    Some(ForgetList { bytes: rest.get(..len)? })
}

#[cfg(test)]
mod tests;
