//! Captures as Wireshark reads them: pcapng, link type NETLINK (each packet behind the 16 bytes that Linux's `nlmon` puts there).

use std::io::{self, Write};

/// `LINKTYPE_NETLINK`
const NETLINK: u16 = 253;
/// `ARPHRD_NETLINK`
const ARPHRD: u16 = 824;

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the kernel, or to another process by it (`PACKET_KERNEL`).
    Out,
    /// To the program (`PACKET_USER`).
    In,
}

/// One message.
#[derive(Debug)]
pub struct Packet<'a> {
    /// Number of its interface, from 0 on.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    pub way: Way,
    pub family: u16,
    pub bytes: &'a [u8],
    /// Bytes of the whole message.
    pub whole: u32,
    pub comment: &'a str,
    /// Messages lost to the capture since the packet before.
    pub dropped: u64,
}

/// A block: its type, its body, its length before and behind.
fn block(to: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() + 12) as u32;
    to.write_all(&kind.to_ne_bytes())?;
    to.write_all(&len.to_ne_bytes())?;
    to.write_all(body)?;
    to.write_all(&len.to_ne_bytes())
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..0xfff0).unwrap_or(value);
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// The beginning of a file.
pub fn section(to: &mut impl Write) -> io::Result<()> {
    let mut body = Vec::new();
    body.extend(0x1a2b_3c4du32.to_ne_bytes());
    // Version 1.0, a section of unknown length.
    body.extend([1u16.to_ne_bytes(), 0u16.to_ne_bytes()].concat());
    body.extend((-1i64).to_ne_bytes());
    option(&mut body, 4, concat!("nlmmap ", env!("CARGO_PKG_VERSION")).as_bytes());
    end_of_options(&mut body);
    block(to, 0x0a0d_0d0a, &body)
}

/// One endpoint; they are numbered in order.
pub fn interface(to: &mut impl Write, name: &str, description: &str) -> io::Result<()> {
    let mut body = Vec::new();
    body.extend([NETLINK.to_ne_bytes(), [0; 2]].concat());
    body.extend(0u32.to_ne_bytes());
    option(&mut body, 2, name.as_bytes());
    option(&mut body, 3, description.as_bytes());
    // Nanoseconds.
    option(&mut body, 9, &[9]);
    end_of_options(&mut body);
    block(to, 1, &body)
}

/// One message.
pub fn packet(to: &mut impl Write, p: &Packet<'_>) -> io::Result<()> {
    let (kind, way): (u16, u32) = match p.way {
        Way::Out => (7, 2),
        Way::In => (6, 1),
    };
    let mut body = Vec::with_capacity(p.bytes.len() + p.comment.len() + 96);
    body.extend(p.interface.to_ne_bytes());
    body.extend(((p.time >> 32) as u32).to_ne_bytes());
    body.extend((p.time as u32).to_ne_bytes());
    body.extend((p.bytes.len() as u32 + 16).to_ne_bytes());
    body.extend(p.whole.saturating_add(16).to_ne_bytes());
    body.extend(kind.to_be_bytes());
    body.extend(ARPHRD.to_be_bytes());
    body.extend([0; 10]);
    body.extend(p.family.to_be_bytes());
    body.extend(p.bytes);
    pad(&mut body);
    option(&mut body, 1, p.comment.as_bytes());
    option(&mut body, 2, &way.to_ne_bytes());
    if p.dropped > 0 {
        option(&mut body, 4, &p.dropped.to_ne_bytes());
    }
    end_of_options(&mut body);
    block(to, 6, &body)
}

/// What an interface has had, at the end.
pub fn statistics(to: &mut impl Write, interface: u32, time: u64, received: u64, dropped: u64) -> io::Result<()> {
    let mut body = Vec::new();
    body.extend(interface.to_ne_bytes());
    body.extend(((time >> 32) as u32).to_ne_bytes());
    body.extend((time as u32).to_ne_bytes());
    option(&mut body, 1, format!("{dropped} messages are missing here: the capture was too slow for them").as_bytes());
    option(&mut body, 4, &received.to_ne_bytes());
    option(&mut body, 5, &dropped.to_ne_bytes());
    end_of_options(&mut body);
    block(to, 5, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole() {
        let mut file = Vec::new();
        section(&mut file).unwrap();
        interface(&mut file, "1.1", "x").unwrap();
        let p = Packet {
            interface: 0,
            time: 5 << 32 | 7,
            way: Way::In,
            family: 16,
            bytes: &[1; 21],
            whole: 30,
            comment: "abc",
            dropped: 4,
        };
        packet(&mut file, &p).unwrap();
        statistics(&mut file, 0, 1, 2, 3).unwrap();
        let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let len = word(at + 4) as usize;
            assert_eq!((len % 4, word(at + len - 4) as usize), (0, len));
            kinds.push(word(at));
            at += len;
        }
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 5]);
    }
}
