//! Netlink by memory-mapped rings, from userspace.
//!
//! [`RingSocket`] receives netlink faster than a loop of `recv` does: one system call fills many frames of a ring, and each
//! message is lent to the program where it lies, without a copy and without an allocation.
//!
//! ```
//! use nlmmap::{Family, RingSocket};
//!
//! fn main() -> nlmmap::Result<()> {
//!     let socket = RingSocket::builder(Family::ROUTE).build()?;
//!     // struct nlmsghdr { 20, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, struct rtgenmsg { AF_UNSPEC }
//!     let request: [u32; 5] = [20, 0x301 << 16 | 18, 1, 0, 0];
//!     socket.send(&request.map(u32::to_ne_bytes).concat())?;
//!     let links = socket.recv()?;
//!     println!("{} interfaces in the first {} bytes", links.parts().count(), links.len());
//!     Ok(())
//! }
//! ```
//!
//! | | |
//! | --- | --- |
//! | [`RingSocket::builder`] | family, rings, groups, buffer, namespace; over a socket of this process, one handed in, or a device node |
//! | [`recv`](RingSocket::recv), [`try_recv`](RingSocket::try_recv), [`recv_timeout`](RingSocket::recv_timeout), [`recv_batch`](RingSocket::recv_batch) | lend a [`Message`]: its bytes, sender, group and credentials; given back on drop, in any order, by any thread |
//! | [`send`](RingSocket::send), [`kick`](RingSocket::kick) | fill a frame with a message, send what is filled |
//! | [`AsFd`](std::os::fd::AsFd) | for `poll`, `mio`, `tokio` |
//! | [`Error`] | overrun, truncation, refusals with cause and cure, and the error number |
//!
//! Lengths are bytes; messages are whole datagrams, with `struct nlmsghdr` at the start of each of their [`parts`](Message::parts),
//! in the machine's byte order (`linux/netlink.h`, `netlink(7)`). Crates like `netlink-packet-core` parse them.
//!
//! # Frames
//!
//! A ring of *n* frames holds *n* messages that the program can keep at once. A message larger than a frame comes by the same
//! call, in one of 64 places of 448 KiB beside the ring. What nobody receives waits in the kernel's receive buffer, and the
//! kernel drops what finds no room there: [`Error::Overrun`].
//!
//! # Verdicts and requests
//!
//! ```no_run
//! # fn judge(packet: &[u8]) -> Vec<u8> { packet.to_vec() }
//! # fn main() -> nlmmap::Result<()> {
//! use nlmmap::{Family, Ring, RingSocket};
//!
//! let queue = RingSocket::builder(Family::NETFILTER).rx_ring(Ring::frames(256, 2048)).build()?;
//! loop {
//!     let packet = queue.recv()?;
//!     queue.send(&judge(&packet))?;
//! }
//! # }
//! ```
//!
//! No kick is needed here: `recv` sends the verdicts that wait before it asks the kernel for more packets, many of them in one
//! datagram.
//!
//! The package's feature `cli`, on by default, adds the command `nlmmap` and what it needs; the library is all of the rest.
#![warn(missing_docs)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod ring_socket;

pub use ring_socket::{
    Batch, Builder, Credentials, Destination, Error, Family, Message, Parts, Result, Ring, RingSocket,
};
