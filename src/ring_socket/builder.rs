//! What a `RingSocket` is made of.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::error::{Error, Result};
use super::frames::Frames;
use super::node::Node;
use super::receive::Receiver;
use super::ring::Ring;
use super::transmit::Transmitter;
use super::{Backend, Family, RingSocket, socket};

/// The receive buffer is made this large at least (bytes, before the kernel doubles it).
const LEAST_BUFFER: usize = 1 << 20;

/// Says what a [`RingSocket`] shall be, and builds it: [`RingSocket::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing before `build`"]
pub struct Builder {
    family: Family,
    rx: Ring,
    tx: Ring,
    groups: Vec<u32>,
    portid: u32,
    buffer: Option<usize>,
    credentials: Option<bool>,
    socket: Option<OwnedFd>,
    namespace: Option<OwnedFd>,
    node: Option<PathBuf>,
}

impl Builder {
    pub(super) fn new(family: Family) -> Builder {
        Builder {
            family,
            rx: Ring::frames(128, 4096),
            tx: Ring::frames(64, 1024),
            groups: Vec::new(),
            portid: 0,
            buffer: None,
            credentials: None,
            socket: None,
            namespace: None,
            node: None,
        }
    }

    /// The receive ring; 128 frames of 4096 bytes if it is not said. As many messages can be held at once as it has frames.
    pub fn rx_ring(mut self, ring: Ring) -> Builder {
        self.rx = ring;
        self
    }

    /// The transmit ring; 64 frames of 1024 bytes if it is not said. As many messages are sent by one kick at most.
    pub fn tx_ring(mut self, ring: Ring) -> Builder {
        self.tx = ring;
        self
    }

    /// Multicast groups to join, by number (not by mask), besides those already named.
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Builder {
        self.groups.extend(groups);
        self
    }

    /// The port id to bind to; one of the kernel's choice if it is not said.
    pub fn portid(mut self, portid: u32) -> Builder {
        self.portid = portid;
        self
    }

    /// Bytes of the kernel's receive buffer (`SO_RCVBUF`, which the kernel doubles): what may come while the program does
    /// not receive. If it is not said: what fills the ring, 1 MiB at least. Without `CAP_NET_ADMIN` it ends at
    /// `net.core.rmem_max`. A larger buffer that a handed-in socket has stays.
    pub fn receive_buffer(mut self, bytes: usize) -> Builder {
        self.buffer = Some(bytes);
        self
    }

    /// Whether the sender's process, user and group id come with what other processes send. If it is not said: not in the
    /// families of the kernel's own subsystems ([`Family::ROUTE`], [`Family::NETFILTER`], ...), where messages of a process are
    /// told by [`Message::is_from_kernel`](crate::Message::is_from_kernel) and mostly dropped; in all others. Messages of the
    /// kernel have them in any case (all 0). They cost the kernel some time with each message.
    pub fn credentials(mut self, wanted: bool) -> Builder {
        self.credentials = Some(wanted);
        self
    }

    /// A netlink socket to use instead of a new one; it is bound if it is not yet.
    pub fn socket(mut self, socket: impl Into<OwnedFd>) -> Builder {
        self.socket = Some(socket.into());
        self
    }

    /// The network namespace of the new socket, by a descriptor of it (`/proc/PID/ns/net`, `/run/netns/NAME`). Needs
    /// `CAP_SYS_ADMIN`. The calling thread stays where it is.
    pub fn namespace(mut self, namespace: impl Into<OwnedFd>) -> Builder {
        self.namespace = Some(namespace.into());
        self
    }

    /// Over the device node of `nlmmap serve` at this path, instead of a socket of this process.
    pub fn node(mut self, path: impl Into<PathBuf>) -> Builder {
        self.node = Some(path.into());
        self
    }

    /// Builds it.
    ///
    /// # Errors
    /// [`Error::BadRing`], [`Error::NoFamily`], [`Error::NoGroup`], [`Error::NotNetlink`], [`Error::OtherFamily`],
    /// [`Error::NotNode`], [`Error::Options`] for a handed-in socket together with a namespace or a node, and
    /// [`Error::System`] for what the kernel refuses.
    pub fn build(self) -> Result<RingSocket> {
        let (rx, tx) = (self.rx.geometry()?, self.tx.geometry()?);
        let buffer = self.buffer.unwrap_or(LEAST_BUFFER.max(rx.len() / 2 + rx.frame_nr() as usize * 512));
        if self.socket.is_some() && (self.node.is_some() || self.namespace.is_some()) {
            let why = "a socket that is handed in has its namespace, and is none of a device node: leave one away";
            return Err(Error::Options(why));
        }
        let frames = Frames::new(rx)?;
        if let Some(path) = &self.node {
            let node = Node::open(path)?;
            node.socket(self.namespace.as_ref(), self.family, self.portid)?;
            for &group in &self.groups {
                node.membership(self.family, group, true)?;
            }
            let node = node.map(&rx, &tx, buffer)?;
            return Ok(RingSocket { family: self.family, frames, backend: Backend::Node(Box::new(node)) });
        }
        let handed_in = self.socket.is_some();
        let fd = match self.socket {
            Some(fd) => {
                socket::judge(fd.as_fd(), self.family)?;
                fd
            }
            None => socket::in_namespace(self.namespace.as_ref(), || socket::open(self.family))?,
        };
        socket::bind(fd.as_fd(), self.portid)?;
        let credentials = self.credentials.unwrap_or(!self.family.is_the_kernels());
        if credentials {
            socket::pass_credentials(fd.as_fd())?;
        }
        socket::receive_buffer(fd.as_fd(), buffer);
        for &group in &self.groups {
            socket::membership(fd.as_fd(), self.family, group, true)?;
        }
        let transmitter = Transmitter::new(self.family, tx)?;
        // A socket of somebody else's making may have been asked for more.
        let ancillary = credentials || handed_in || self.groups.iter().any(|&group| group > socket::GROUPS_IN_ADDRESS);
        let backend = Backend::Local { fd, receiver: Receiver::new(ancillary), transmitter };
        Ok(RingSocket { family: self.family, frames, backend })
    }
}
