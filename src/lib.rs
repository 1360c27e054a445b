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
mod ring_socket;

pub use ring_socket::{
    Batch, Builder, Credentials, Destination, Error, Family, Message, Parts, Result, Ring, RingSocket,
};
