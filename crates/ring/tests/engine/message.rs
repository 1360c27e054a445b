//! Messages by their class: what they look like, and what the kernel says of them.

use crate::mock::{Datagram, POISON};
use proptest::prelude::*;

/// What a message is, hence where the kernel of 4.5 built it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An acknowledgement or error of the kernel's.
    Ack,
    /// An NFQUEUE packet.
    Packet,
    /// A single answer to a request.
    Reply,
    /// To a group of the socket's.
    Event(u32),
    /// From another process, which need not be made of netlink headers.
    Peer(u32),
}

pub fn header(len: usize, kind: u16, flags: u16) -> Vec<u8> {
    let mut h = Vec::with_capacity(16);
    h.extend((len as u32).to_ne_bytes());
    h.extend(kind.to_ne_bytes());
    h.extend(flags.to_ne_bytes());
    h.extend([0; 8]);
    h
}

/// They come again after so many, a prime number: each message's begin at another one of them.
const PERIOD: usize = 0x7f;
/// Twice, so that they can be cut out from any on.
const BYTES: [u8; 2 * PERIOD] = {
    let mut bytes = [0; 2 * PERIOD];
    let mut i = 0;
    while i < bytes.len() {
        bytes[i] = (i * 7 % PERIOD) as u8 + 1;
        i += 1;
    }
    bytes
};

/// Bytes that tell this message from others; never [`POISON`].
pub fn fill(seed: u32, len: usize) -> Vec<u8> {
    let from = seed as usize % PERIOD * 31 % PERIOD;
    let mut bytes = BYTES[from..from + PERIOD].repeat(len.div_ceil(PERIOD));
    bytes.truncate(len);
    bytes
}

/// The next length whose bytes can stand in a message.
pub fn honest(len: usize) -> usize {
    (len..).find(|n| !n.to_ne_bytes().contains(&POISON)).unwrap_or(len)
}

/// Message number `seed` of `class` with `len` bytes, or as few as such a message has.
pub fn datagram(class: Class, seed: u32, len: usize) -> Datagram {
    let (kind, least) = match class {
        Class::Ack => (2, 36),
        Class::Packet => (0x300, 20),
        Class::Reply => (24, 16),
        Class::Event(_) => (16, 16),
        Class::Peer(_) => (0, 0),
    };
    let len = honest(len.max(least));
    let mut bytes = if least > 0 { header(len, kind, 0) } else { Vec::new() };
    bytes.extend(fill(seed, len - bytes.len()));
    let (portid, group, creds) = match class {
        Class::Peer(portid) => (portid, 0, [seed + 1, 1000, 1001]),
        Class::Event(group) => (0, group, [0; 3]),
        _ => (0, 0, [0; 3]),
    };
    Datagram { bytes, portid, group, creds }
}

/// The acknowledgement of a request.
pub fn ack(request: &[u8]) -> Datagram {
    let mut bytes = header(36, 2, 0x100);
    let request: Vec<u8> = request.iter().copied().chain(std::iter::repeat(0)).take(16).collect();
    let request = request.into_iter().map(|b| if b == POISON { 0 } else { b });
    // The request's sequence number, and its header behind the error.
    bytes[8..12].iter_mut().zip(request.clone().skip(8)).for_each(|(to, from)| *to = from);
    bytes.extend([0; 4]);
    bytes.extend(request);
    Datagram { bytes, portid: 0, group: 0, creds: [0; 3] }
}

pub fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        3 => Just(Class::Ack),
        3 => Just(Class::Packet),
        2 => Just(Class::Reply),
        2 => (1u32..40).prop_map(Class::Event),
        2 => (1u32..4).prop_map(Class::Peer),
    ]
}

/// Sizes around those of frames, and now and then a large one.
pub fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0usize..200,
        4 => 0usize..5000,
        1 => 0usize..100 << 10,
    ]
}
