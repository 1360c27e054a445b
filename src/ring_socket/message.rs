//! A received message, lent by the ring.

use std::fmt;
use std::ops::Deref;

use nlmmap_ring::abi::{NLMSG_HDRLEN, nlmsg_align};
use nlmmap_ring::message::header;

use super::frames::Lease;

/// Process, user and group id of a sender; all 0 for the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What is known of a message beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub portid: Option<u32>,
    pub group: u32,
    pub credentials: Option<Credentials>,
}

/// One received datagram, as a slice of the ring: it derefs to its bytes. Dropping it gives its frame back; several may be
/// held, and dropped in any order and by any thread.
///
/// A datagram holds one netlink message or, in the parts of a dump, many: [`Message::parts`] gives each of them.
///
/// Nothing can be read after the frame was given back:
///
/// ```compile_fail,E0505
/// # let socket = nlmmap::RingSocket::builder(nlmmap::Family::ROUTE).build().unwrap();
/// let message = socket.recv().unwrap();
/// let bytes: &[u8] = &message;
/// drop(message);
/// println!("{}", bytes.len());
/// ```
///
/// nor after the socket has gone:
///
/// ```compile_fail,E0505
/// # let socket = nlmmap::RingSocket::builder(nlmmap::Family::ROUTE).build().unwrap();
/// let message = socket.recv().unwrap();
/// drop(socket);
/// println!("{}", message.len());
/// ```
pub struct Message<'a> {
    lease: Lease<'a>,
    meta: Meta,
}

impl<'a> Message<'a> {
    pub(super) fn new(lease: Lease<'a>, meta: Meta) -> Message<'a> {
        Message { lease, meta }
    }

    /// Whether the kernel itself has sent it. What another process sends can look like anything: most programs drop it.
    ///
    /// Over a device node it is told by the credentials, which are all 0 for the kernel.
    pub fn is_from_kernel(&self) -> bool {
        self.meta.portid == Some(0)
    }

    /// The sender's port id, 0 for the kernel. `None` where it is not known: over a device node, for what a process has sent.
    pub fn portid(&self) -> Option<u32> {
        self.meta.portid
    }

    /// The multicast group it was sent to, 0 for a message to this socket alone.
    pub fn group(&self) -> u32 {
        self.meta.group
    }

    /// The sender's credentials, as the kernel vouches for them. `None` for what a process has sent, if the socket was built
    /// without [`credentials`](crate::Builder::credentials).
    pub fn credentials(&self) -> Option<Credentials> {
        self.meta.credentials
    }

    /// The netlink messages in it, each from its `nlmsghdr` to its end.
    pub fn parts(&self) -> Parts<'_> {
        Parts { rest: self.lease.bytes() }
    }
}

impl Deref for Message<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.lease.bytes()
    }
}

impl AsRef<[u8]> for Message<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("len", &self.len())
            .field("portid", &self.meta.portid)
            .field("group", &self.meta.group)
            .field("credentials", &self.meta.credentials)
            .finish()
    }
}

/// The netlink messages of one datagram: [`Message::parts`]. It ends at the first whose length cannot be.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Those in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Parts<'a> {
        Parts { rest: bytes }
    }

    /// What is left: empty at the end of a whole datagram.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = header(self.rest, 0)?.len as usize;
        if len < NLMSG_HDRLEN {
            return None;
        }
        let part = self.rest.get(..len)?;
        self.rest = self.rest.get(nlmsg_align(len)..).unwrap_or_default();
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_where_a_length_cannot_be() {
        let part = |len: u32, bytes: usize| {
            let mut part = len.to_ne_bytes().to_vec();
            part.resize(bytes, 7);
            part
        };
        let lens = |bytes: &[u8]| Parts::new(bytes).map(<[u8]>::len).collect::<Vec<_>>();
        assert_eq!(lens(&[part(17, 20), part(16, 16)].concat()), [17, 16]);
        assert_eq!(lens(&[part(16, 16), part(17, 17)].concat()), [16, 17]);
        assert_eq!(lens(&[part(16, 16), part(15, 16)].concat()), [16]);
        assert_eq!(lens(&[part(16, 16), part(u32::MAX, 16)].concat()), [16]);
        assert_eq!(lens(&[part(16, 16), part(16, 12)].concat()), [16]);
        assert_eq!(lens(&[]), [0; 0]);
        let cut = part(16, 15);
        let mut parts = Parts::new(&cut);
        assert!(parts.next().is_none() && parts.rest().len() == 15);
    }
}
