//! [`RingSocket`]: rings over netlink for new programs.
//!
//! | module | promise |
//! | --- | --- |
//! | [`builder`] | what a socket is made of |
//! | [`ring`] | shapes of rings |
//! | [`frames`] | the memory that messages are lent from, and why that is sound |
//! | [`places`] | which of it is lent |
//! | [`message`] | a lent message |
//! | [`receive`], [`transmit`] | the two directions in this process |
//! | [`socket`] | the netlink socket behind it |
//! | [`node`] | both directions over a device node |
//! | [`error`] | what can go wrong |

mod builder;
mod error;
mod frames;
mod message;
mod node;
mod places;
mod receive;
mod ring;
mod socket;
mod transmit;

pub use builder::Builder;
pub use error::{Error, Result};
pub use message::{Credentials, Message, Parts};
pub use ring::Ring;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use frames::Frames;
use node::MappedNode;
use receive::Receiver;
use transmit::Transmitter;

/// A netlink family (`NETLINK_*` of `linux/netlink.h`); any other number as `Family(22)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Family(pub u32);

impl Family {
    /// Links, addresses, routes, rules, neighbours, queueing.
    pub const ROUTE: Family = Family(0);
    /// Messages between processes.
    pub const USERSOCK: Family = Family(2);
    /// Statistics of sockets.
    pub const SOCK_DIAG: Family = Family(4);
    /// IPsec.
    pub const XFRM: Family = Family(6);
    /// Audit.
    pub const AUDIT: Family = Family(9);
    /// Queues, logs, connection tracking, nf_tables.
    pub const NETFILTER: Family = Family(12);
    /// Events of devices.
    pub const KOBJECT_UEVENT: Family = Family(15);
    /// Families that are named and not numbered.
    pub const GENERIC: Family = Family(16);

    /// Whether the family is a subsystem's of the kernel, in which processes do not speak with each other.
    fn is_the_kernels(self) -> bool {
        use Family as F;
        matches!(self, F::ROUTE | F::SOCK_DIAG | F::XFRM | F::AUDIT | F::NETFILTER | F::GENERIC)
    }
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The receiver's port id, 0 for the kernel.
    pub portid: u32,
    /// A mask of groups: bit 0 is group 1. 0 for none.
    pub groups: u32,
}

impl Destination {
    /// The kernel.
    pub const KERNEL: Destination = Destination { portid: 0, groups: 0 };
}

#[derive(Debug)]
enum Backend {
    /// A socket of this process.
    Local { fd: OwnedFd, receiver: Receiver, transmitter: Transmitter },
    /// A device node of `nlmmap serve`.
    Node(Box<MappedNode>),
}

/// A netlink socket with rings.
///
/// It may move to another thread, but is used by one at a time; the messages it lends may go to any thread:
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// is_sync::<nlmmap::RingSocket>();
/// ```
///
/// A forked child has a copy of what was received and shares the socket: messages go to whichever of the two receives first.
/// The transmit ring is shared: one of them may use it.
#[derive(Debug)]
pub struct RingSocket {
    family: Family,
    frames: Frames,
    backend: Backend,
}

impl RingSocket {
    /// Begins a socket of the family.
    pub fn builder(family: Family) -> Builder {
        Builder::new(family)
    }

    /// Lends the next message, and waits for it if there is none. What [`send`](RingSocket::send) has filled is sent before it
    /// asks the kernel.
    ///
    /// # Errors
    /// [`Error::Overrun`], [`Error::Truncated`], [`Error::AllHeld`], [`Error::NodeGone`], or [`Error::System`]: with `EINTR`
    /// if a signal handler ran that does not restart calls (`SA_RESTART`), or what a send failed with. The next call goes on
    /// after each of them.
    pub fn recv(&self) -> Result<Message<'_>> {
        loop {
            if let Some(message) = self.poll_once(true)? {
                return Ok(message);
            }
            self.wait(None)?;
        }
    }

    /// Lends the next message, if there is one.
    ///
    /// # Errors
    /// As [`recv`](RingSocket::recv), without `EINTR`.
    pub fn try_recv(&self) -> Result<Option<Message<'_>>> {
        self.poll_once(false)
    }

    /// Lends the next message, and waits for it, but not longer than `limit`: `None` after that.
    ///
    /// # Errors
    /// As [`recv`](RingSocket::recv).
    pub fn recv_timeout(&self, limit: Duration) -> Result<Option<Message<'_>>> {
        let until = Instant::now().checked_add(limit);
        loop {
            if let Some(message) = self.poll_once(false)? {
                return Ok(Some(message));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.wait(left)?;
        }
    }

    /// Waits for messages, and gives all that one system call has received, as an iterator. It makes no system call itself.
    ///
    /// # Errors
    /// As [`recv`](RingSocket::recv).
    pub fn recv_batch(&self) -> Result<Batch<'_>> {
        let first = self.recv()?;
        let left = match &self.backend {
            Backend::Local { receiver, .. } => receiver.pending(),
            // Whatever is in the ring by now; not what the daemon adds for ever.
            Backend::Node(node) => node.frame_nr() as usize - 1,
        };
        Ok(Batch { socket: self, first: Some(first), left })
    }

    /// Fills a frame of the transmit ring with a message for the kernel. It is sent by [`kick`](RingSocket::kick), by the next
    /// receiving call that has to ask the kernel, or when the ring is full. A message larger than a frame is sent at once,
    /// after what was filled before it.
    ///
    /// # Errors
    /// What a send that this has led to failed with; then this message was not taken.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        match &self.backend {
            Backend::Local { fd, transmitter, .. } => transmitter.send(fd.as_raw_fd(), message),
            Backend::Node(node) => node.send(message),
        }
    }

    /// Sends what was filled, and then this message, to a process or to groups.
    ///
    /// # Errors
    /// What one of the sends failed with. A message to groups goes to the port id as well: `ECONNREFUSED` says that nobody
    /// is there, after the groups were reached.
    pub fn send_to(&self, message: &[u8], to: Destination) -> Result<()> {
        match &self.backend {
            Backend::Local { fd, transmitter, .. } => transmitter.send_now(fd.as_raw_fd(), message, to),
            Backend::Node(node) => node.send_to(message, to),
        }
    }

    /// Sends what was filled: how many bytes, 0 if there was nothing.
    ///
    /// # Errors
    /// What the first send that failed was answered. Its message is gone; earlier ones were sent, later ones wait for the
    /// next kick.
    pub fn kick(&self) -> Result<usize> {
        match &self.backend {
            Backend::Local { fd, transmitter, .. } => transmitter.kick(fd.as_raw_fd()),
            Backend::Node(node) => node.kick(Destination::KERNEL),
        }
    }

    /// Joins a multicast group, by number.
    ///
    /// # Errors
    /// [`Error::NoGroup`], or [`Error::System`] with `EPERM` for a group that needs privileges.
    pub fn join(&self, group: u32) -> Result<()> {
        self.membership(group, true)
    }

    /// Leaves a multicast group. Its messages that were received stay.
    ///
    /// # Errors
    /// [`Error::NoGroup`].
    pub fn leave(&self, group: u32) -> Result<()> {
        self.membership(group, false)
    }

    /// The socket's family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The port id that the socket is bound to.
    ///
    /// # Errors
    /// [`Error::NodeGone`].
    pub fn portid(&self) -> Result<u32> {
        match &self.backend {
            Backend::Local { fd, .. } => socket::portid(fd.as_fd()),
            Backend::Node(node) => node.portid(),
        }
    }

    fn membership(&self, group: u32, join: bool) -> Result<()> {
        match &self.backend {
            Backend::Local { fd, receiver, .. } => {
                socket::membership(fd.as_fd(), self.family, group, join)?;
                if join && group > socket::GROUPS_IN_ADDRESS {
                    receiver.expect_ancillary();
                }
                Ok(())
            }
            Backend::Node(node) => node.membership(self.family, group, join),
        }
    }

    /// The next message that is there, or that one system call brings; with `wait` that call may sleep.
    #[inline]
    fn poll_once(&self, wait: bool) -> Result<Option<Message<'_>>> {
        match &self.backend {
            Backend::Local { fd, receiver, transmitter } => {
                if let Some(message) = receiver.next(&self.frames) {
                    return message.map(Some);
                }
                if transmitter.has_filled() {
                    transmitter.kick(fd.as_raw_fd())?;
                }
                receiver.fill(fd.as_raw_fd(), &self.frames, wait)?;
                receiver.next(&self.frames).transpose()
            }
            Backend::Node(node) => node.receive(&self.frames),
        }
    }

    /// Waits for the descriptor.
    fn wait(&self, limit: Option<Duration>) -> Result<()> {
        match &self.backend {
            Backend::Local { fd, .. } => socket::wait(fd, limit).map(drop),
            Backend::Node(node) => node.wait(limit),
        }
    }
}

/// For `poll`, `epoll`, `mio`, `tokio`: the descriptor is readable when [`try_recv`](RingSocket::try_recv) has a message *from the
/// kernel*; what was received before is not in it. So call `try_recv` until it gives `None`, then wait, as for any edge-triggered
/// source. It is the socket's own, open and the same to its end.
impl AsFd for RingSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.backend {
            Backend::Local { fd, .. } => fd.as_fd(),
            Backend::Node(node) => node.as_fd(),
        }
    }
}

impl AsRawFd for RingSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The messages that one system call has received: [`RingSocket::recv_batch`]. What is not taken from it comes by the next
/// receiving call.
#[derive(Debug)]
pub struct Batch<'a> {
    socket: &'a RingSocket,
    first: Option<Message<'a>>,
    left: usize,
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<Message<'a>>;

    fn next(&mut self) -> Option<Result<Message<'a>>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        self.left = self.left.checked_sub(1)?;
        match &self.socket.backend {
            Backend::Local { receiver, .. } => receiver.next(&self.socket.frames),
            Backend::Node(node) => node.take(&self.socket.frames).transpose(),
        }
    }
}
