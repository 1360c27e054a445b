//! What can go wrong, in one enum.

use std::io;

use crate::Family;

/// What a call on a [`RingSocket`](crate::RingSocket) answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call on a [`RingSocket`](crate::RingSocket) failed. The text names cause and cure; [`Error::errno`] is the number that
/// C would give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel had messages for the socket and no room in its receive buffer: some are lost. Everything that was received
    /// is still there, and the next call goes on.
    #[error("messages were lost, the receive buffer was full: receive more often, or set a larger receive_buffer")]
    Overrun,
    /// One message was larger than anything that is taken whole. The rest of it is lost; the next call goes on.
    #[error("a message of {len} bytes was cut: no more than {room} are taken whole; use frames of {len} bytes")]
    Truncated {
        /// Bytes of the message.
        len: usize,
        /// Bytes there was room for.
        room: usize,
    },
    /// The program holds every frame, or (`large`) every place for a message larger than a frame: nothing can be received
    /// before one is dropped. Nothing is lost by that but what the kernel loses when its receive buffer runs over.
    #[error("all {} are held: drop a message, or use a ring with more frames", if *large { "places for large messages" } else { "frames" })]
    AllHeld {
        /// Whether it is the places for messages larger than a frame.
        large: bool,
    },
    /// A ring of this shape cannot be.
    #[error("a ring of {block_nr} blocks of {block_size} bytes with {frame_nr} frames of {frame_size} bytes: {why}")]
    BadRing {
        /// Bytes in a block, 0 if none could be chosen.
        block_size: u32,
        /// Number of blocks.
        block_nr: u32,
        /// Bytes in a frame.
        frame_size: u32,
        /// Number of frames.
        frame_nr: u32,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// This kernel lacks the netlink family: its module is not there, or was not built.
    #[error("this kernel has no netlink family {}: its module is not loaded, or was not built", .0.0)]
    NoFamily(Family),
    /// The descriptor handed in is not a netlink socket.
    #[error("the descriptor is not a netlink socket: hand in one made by socket(AF_NETLINK, ...)")]
    NotNetlink,
    /// The socket handed in is of another family than the builder was asked for.
    #[error("the socket is of netlink family {}, not {}", found.0, wanted.0)]
    OtherFamily {
        /// The socket's own.
        found: Family,
        /// The builder's.
        wanted: Family,
    },
    /// Multicast groups are numbered from 1 on; the family says up to where.
    #[error("netlink family {} has no multicast group {group}", family.0)]
    NoGroup {
        /// The socket's family.
        family: Family,
        /// The group asked for.
        group: u32,
    },
    /// Two options of the builder exclude each other.
    #[error("{0}")]
    Options(&'static str),
    /// Opened, and something else than a node of `nlmmap serve`, or one of another version.
    #[error("{path} is not a device node of nlmmap {}: {why}", env!("CARGO_PKG_VERSION"))]
    NotNode {
        /// What was opened.
        path: Box<str>,
        /// What it answered.
        why: &'static str,
    },
    /// The daemon behind the node has ended, or the node was taken away. Messages that are lent stay valid, and so does what
    /// had reached the ring: it is received before this is told.
    #[error("the daemon behind the device node has ended: start `nlmmap serve` and build a new socket")]
    NodeGone,
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// The error number (`errno(3)`) for this.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Overrun => libc::ENOBUFS,
            Error::Truncated { .. } => libc::EMSGSIZE,
            Error::AllHeld { .. } => libc::EBUSY,
            Error::BadRing { .. } | Error::NoGroup { .. } | Error::Options(_) => libc::EINVAL,
            Error::NoFamily(_) => libc::EPROTONOSUPPORT,
            Error::NotNetlink => libc::ENOTSOCK,
            Error::OtherFamily { .. } => libc::EPROTOTYPE,
            Error::NotNode { .. } => libc::ENOTTY,
            Error::NodeGone => libc::ENOTCONN,
            Error::System { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// Whether a signal handler ran while the call waited. Nothing is lost; call again, or end.
    pub fn is_interrupted(&self) -> bool {
        self.errno() == libc::EINTR
    }

    pub(crate) fn system(what: &'static str, errno: i32) -> Error {
        Error::System { what, source: io::Error::from_raw_os_error(errno) }
    }

    pub(crate) fn last(what: &'static str) -> Error {
        Error::System { what, source: io::Error::last_os_error() }
    }
}

impl From<Error> for io::Error {
    /// An error of the same number; its text is the library's where the number alone says less.
    fn from(error: Error) -> io::Error {
        match error {
            Error::System { source, .. } => source,
            other => io::Error::new(io::Error::from_raw_os_error(other.errno()).kind(), other),
        }
    }
}
