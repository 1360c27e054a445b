//! Netlink messages and attributes, as the kernel's parsers walk over them (`netlink_rcv_skb`, `nla_parse`). Where those
//! skip what they cannot read, this says no.

use std::fmt;

pub const HEADER: usize = 16;
/// Types below this are control messages, which the kernel acknowledges and does nothing for.
pub const FIRST_TYPE: u16 = 16;
const NLA_HEADER: usize = 4;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Why bytes were not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw(pub String);

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msg<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub payload: &'a [u8],
}

/// An attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr<'a> {
    pub kind: u16,
    pub payload: &'a [u8],
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn be16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The rest behind an item of `len` bytes, padding included; the last item may lack its padding.
fn behind(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(len.next_multiple_of(4)..).unwrap_or_default()
}

/// All messages of a datagram.
pub fn messages(datagram: &[u8]) -> Result<Vec<Msg<'_>>, Flaw> {
    let (mut rest, mut found) = (datagram, Vec::new());
    while !rest.is_empty() {
        let header = |at| u16_at(rest, at);
        let (Some(len), Some(kind), Some(flags), true) = (u32_at(rest, 0), header(4), header(6), rest.len() >= HEADER)
        else {
            return Err(Flaw(format!("{} bytes behind message {} are none", rest.len(), found.len())));
        };
        let len = len as usize;
        let Some(payload) = rest.get(HEADER..len) else {
            return Err(Flaw(format!(
                "message {} has length {len}, and there are {} bytes",
                found.len() + 1,
                rest.len()
            )));
        };
        found.push(Msg { kind, flags, seq: u32_at(rest, 8).unwrap_or(0), payload });
        rest = behind(rest, len);
    }
    if found.is_empty() { Err(Flaw("it holds no message".into())) } else { Ok(found) }
}

/// All attributes of a message, or of an attribute.
pub fn attributes(bytes: &[u8]) -> Result<Vec<Attr<'_>>, Flaw> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) else {
            return Err(Flaw(format!("{} bytes behind the attributes are none", rest.len())));
        };
        let Some(payload) = rest.get(NLA_HEADER..usize::from(len)) else {
            return Err(Flaw(format!("an attribute has length {len}, and there are {} bytes", rest.len())));
        };
        found.push(Attr { kind: kind & NLA_TYPE_MASK, payload });
        rest = behind(rest, usize::from(len));
    }
    Ok(found)
}

/// Makes messages, for tests and for questions to the kernel.
#[derive(Clone, Debug, Default)]
pub struct Builder(pub Vec<u8>);

impl Builder {
    /// A message, its payload padded.
    #[must_use]
    pub fn message(mut self, kind: u16, flags: u16, payload: &[u8]) -> Builder {
        let start = self.0.len();
        self.0.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend([0; 8]);
        self.0.extend(payload);
        self.0.resize(start + (HEADER + payload.len()).next_multiple_of(4), 0);
        self
    }
}

/// The bytes of an attribute, padded.
#[cfg(test)]
pub fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((NLA_HEADER + payload.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_whole_or_not_at_all() {
        let two = Builder::default().message(16, 1, &[1, 2, 3]).message(17, 5, &[]).0;
        let read = messages(&two).unwrap();
        assert_eq!(read[0], Msg { kind: 16, flags: 1, seq: 0, payload: &[1, 2, 3] });
        assert_eq!(read[1], Msg { kind: 17, flags: 5, seq: 0, payload: &[] });
        for len in 1..two.len() {
            // Cut anywhere but behind a message, with or without its padding.
            assert_eq!(messages(&two[..len]).is_ok(), len == 19 || len == 20, "{len}");
        }
        for lie in [0u32, 15, 1000, u32::MAX] {
            let mut lying = two.clone();
            lying[..4].copy_from_slice(&lie.to_ne_bytes());
            assert!(messages(&lying).is_err(), "{lie}");
        }
        assert!(messages(&[]).is_err());
    }

    #[test]
    fn attributes_are_read_whole_or_not_at_all() {
        let two = [attribute(3, b"abc"), attribute(0x8000 | 4, &[])].concat();
        let read = attributes(&two).unwrap();
        assert_eq!(read, [Attr { kind: 3, payload: b"abc" }, Attr { kind: 4, payload: &[] }]);
        for len in 1..two.len() {
            assert_eq!(attributes(&two[..len]).is_ok(), len == 7 || len == 8, "{len}");
        }
        assert!(attributes(&[3, 0, 1, 0]).is_err(), "shorter than its header");
        assert_eq!(attributes(&[]).unwrap(), []);
    }
}
