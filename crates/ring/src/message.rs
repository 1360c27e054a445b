//! What a datagram is: its first header, whether it is a chain that may be cut, and how the 4.5 kernel would have built it.

use crate::abi::{self, NLMSG_HDRLEN, nlmsg_align};

/// `struct nlmsghdr` without its sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NlMsg {
    /// `nlmsg_len`
    pub len: u32,
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_pid`
    pub portid: u32,
}

/// Reads the header at `at`, `None` when the bytes end before it does.
pub fn header(bytes: &[u8], at: usize) -> Option<NlMsg> {
    let b: &[u8; NLMSG_HDRLEN] = bytes.get(at..at.checked_add(NLMSG_HDRLEN)?)?.try_into().ok()?;
    let [l0, l1, l2, l3, k0, k1, f0, f1, _, _, _, _, p0, p1, p2, p3] = *b;
    Some(NlMsg {
        len: u32::from_ne_bytes([l0, l1, l2, l3]),
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        portid: u32::from_ne_bytes([p0, p1, p2, p3]),
    })
}

/// `nlmsg_seq` of a header's bytes.
#[inline]
pub fn sequence(head: &[u8; NLMSG_HDRLEN]) -> u32 {
    let [_, _, _, _, _, _, _, _, s0, s1, s2, s3, ..] = *head;
    u32::from_ne_bytes([s0, s1, s2, s3])
}

/// Where the kernel of 4.5 would have built a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// An acknowledgement or error: in the frame.
    Ack,
    /// Part of a dump: in the frame, at a time of the flow control's choice.
    Dump,
    /// An NFQUEUE or NFLOG packet: in the frame.
    Packet,
    /// Anything else: in memory of its own, so it came by `COPY`, however small.
    Other,
}

/// The least a dump part was allocated (`NLMSG_GOODSIZE` of 4 KiB pages): with less room in a frame dumps came by `COPY`.
pub const NLMSG_GOODSIZE: u32 = 3776;

/// Classifies by the first header, the sender's port id (0: the kernel), its group and the socket's family.
pub fn origin(first: Option<NlMsg>, from: u32, group: u32, family: u32) -> Origin {
    let Some(msg) = first else {
        return Origin::Other;
    };
    if from != 0 || group != 0 {
        return Origin::Other;
    }
    if msg.kind == abi::NLMSG_ERROR && msg.flags & abi::NLM_F_MULTI == 0 {
        return Origin::Ack;
    }
    if msg.flags & abi::NLM_F_MULTI != 0 {
        return Origin::Dump;
    }
    if family == abi::NETLINK_NETFILTER && (msg.kind == abi::NFQNL_PACKET || msg.kind == abi::NFULNL_PACKET) {
        return Origin::Packet;
    }
    Origin::Other
}

/// What one walk over a datagram's messages shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Survey {
    /// It is a chain of whole dump messages, and so may be cut at their borders.
    pub is_dump_chain: bool,
    /// A dump's end (`NLMSG_DONE`, or the error that took its place) is among the messages.
    pub ends_dump: bool,
}

/// Walks over a datagram's messages.
pub fn survey(bytes: &[u8]) -> Survey {
    let (mut at, mut is_dump_chain, mut ends_dump) = (0, true, false);
    while at < bytes.len() {
        let Some(m) = header(bytes, at) else {
            is_dump_chain = false;
            break;
        };
        let len = m.len as usize;
        ends_dump |= m.kind == abi::NLMSG_DONE || m.kind == abi::NLMSG_ERROR;
        is_dump_chain &= m.flags & abi::NLM_F_MULTI != 0 && len >= NLMSG_HDRLEN && len <= bytes.len() - at;
        if len < NLMSG_HDRLEN {
            break;
        }
        at = at.saturating_add(nlmsg_align(len));
    }
    Survey { is_dump_chain, ends_dump }
}

/// See [`Survey::ends_dump`].
pub fn ends_dump(bytes: &[u8]) -> bool {
    survey(bytes).ends_dump
}

/// How many bytes of a dump part 4.5 would have sent as one: up to its `NLMSG_DONE`, which came alone as the next part, and, where
/// the dump goes through the families one by one (`rtnl_dump_all`: addresses, routes), up to the next family. Newer kernels put
/// either behind the last messages when it fits.
pub fn first_part(bytes: &[u8], family: u32) -> usize {
    let mut at = 0;
    let mut before = None;
    while let Some(m) = header(bytes, at) {
        let by_family = family == abi::NETLINK_ROUTE && matches!(m.kind, abi::RTM_NEWADDR | abi::RTM_NEWROUTE);
        // `ifaddrmsg` and `rtmsg` begin with it.
        let af = if by_family { bytes.get(at + NLMSG_HDRLEN) } else { None };
        if at > 0 && (m.kind == abi::NLMSG_DONE || before.is_some_and(|before| af.is_some_and(|af| af != before))) {
            return at;
        }
        if (m.len as usize) < NLMSG_HDRLEN {
            break;
        }
        before = af;
        at = at.saturating_add(nlmsg_align(m.len as usize));
    }
    bytes.len()
}

/// The pieces a datagram goes into frames of `room` bytes in: the whole, or a dump chain cut at message borders.
///
/// The 4.5 kernel built dump parts to the size of a frame; today's builds them to the size of the largest receive it has
/// seen. A single message larger than `room` is a piece of its own, to travel by `COPY`.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    bytes: &'a [u8],
    room: usize,
    cut: bool,
}

impl<'a> Pieces<'a> {
    /// Pieces of `bytes`; only what the kernel sent to us alone (`from_kernel`) is ever cut.
    pub fn new(bytes: &'a [u8], room: usize, from_kernel: bool) -> Pieces<'a> {
        let cut = bytes.len() > room && from_kernel && survey(bytes).is_dump_chain;
        Pieces { bytes, room, cut }
    }

    /// The same of bytes that were walked over before.
    pub fn of(bytes: &'a [u8], room: usize, from_kernel: bool, seen: Survey) -> Pieces<'a> {
        Pieces { bytes, room, cut: from_kernel && seen.is_dump_chain }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.bytes.is_empty() {
            return None;
        }
        let mut end = self.bytes.len();
        if self.cut && end > self.room {
            end = 0;
            while let Some(m) = header(self.bytes, end) {
                let next = end.saturating_add(nlmsg_align(m.len as usize)).min(self.bytes.len());
                if end > 0 && next > self.room || next <= end {
                    break;
                }
                end = next;
            }
        }
        let (piece, rest) = self.bytes.split_at_checked(end.max(1)).unwrap_or((self.bytes, &[]));
        self.bytes = rest;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn msg(len: usize, kind: u16, flags: u16) -> Vec<u8> {
        let mut m = std::vec![0u8; nlmsg_align(len).max(16)];
        m[0..4].copy_from_slice(&(len as u32).to_ne_bytes());
        m[4..6].copy_from_slice(&kind.to_ne_bytes());
        m[6..8].copy_from_slice(&flags.to_ne_bytes());
        m
    }

    #[test]
    fn parts_end_where_4_5_ended_them() {
        let address = |af: u8| {
            let mut m = msg(24, abi::RTM_NEWADDR, abi::NLM_F_MULTI);
            m[16] = af;
            m
        };
        let done = msg(20, abi::NLMSG_DONE, abi::NLM_F_MULTI);
        let all = [address(2), address(2), address(10), done.clone()].concat();
        let mut lens = Vec::new();
        let mut rest = &all[..];
        while !rest.is_empty() {
            lens.push(first_part(rest, abi::NETLINK_ROUTE));
            rest = &rest[lens[lens.len() - 1]..];
        }
        assert_eq!(lens, [48, 24, 20]);
        // What the first byte means is known of addresses and routes alone.
        assert_eq!(first_part(&all, abi::NETLINK_NETFILTER), 72);
        for odd in [&all[..7], &all[..40], &done[..], &[][..]] {
            assert_eq!(first_part(odd, abi::NETLINK_ROUTE), odd.len());
        }
    }

    #[test]
    fn chains_are_cut_at_borders() {
        let chain: Vec<u8> = (0..10).flat_map(|_| msg(100, 24, 2)).collect();
        let lens: Vec<usize> = Pieces::new(&chain, 250, true).map(<[u8]>::len).collect();
        assert_eq!(lens, [200; 5]);
        let whole: Vec<usize> = Pieces::new(&chain, 250, false).map(<[u8]>::len).collect();
        assert_eq!(whole, [1000]);
    }

    #[test]
    fn a_large_message_is_a_piece_of_its_own() {
        let chain = [msg(60, 24, 2), msg(500, 24, 2), msg(60, 24, 2), msg(60, 3, 2)].concat();
        let lens: Vec<usize> = Pieces::new(&chain, 250, true).map(<[u8]>::len).collect();
        assert_eq!(lens, [60, 500, 120]);
    }

    #[test]
    fn nothing_else_is_cut() {
        let plain = [msg(200, 24, 0), msg(200, 24, 0)].concat();
        assert_eq!(Pieces::new(&plain, 250, true).count(), 1);
        let broken = [msg(200, 24, 2), msg(8, 24, 2)].concat();
        assert_eq!(Pieces::new(&broken, 250, true).count(), 1);
        assert_eq!(Pieces::new(&[], 250, true).count(), 0);
    }

    #[test]
    fn origins() {
        let of = |kind, flags, from, group, family| {
            origin(Some(NlMsg { len: 36, kind, flags, portid: 0 }), from, group, family)
        };
        assert_eq!(of(2, 0, 0, 0, 0), Origin::Ack);
        assert_eq!(of(24, 2, 0, 0, 0), Origin::Dump);
        assert_eq!(of(3, 2, 0, 0, 0), Origin::Dump);
        assert_eq!(of(0x300, 0, 0, 0, 12), Origin::Packet);
        assert_eq!(of(0x300, 0, 0, 0, 0), Origin::Other);
        assert_eq!(of(24, 0, 0, 0, 0), Origin::Other);
        assert_eq!(of(2, 0, 7, 0, 0), Origin::Other);
        assert_eq!(origin(None, 0, 0, 0), Origin::Other);
    }

    #[test]
    fn the_end_of_a_dump() {
        assert!(ends_dump(&[msg(60, 24, 2), msg(20, 3, 2)].concat()));
        assert!(!ends_dump(&msg(60, 24, 2)));
        assert!(!ends_dump(&msg(4, 24, 2)));
    }
}
