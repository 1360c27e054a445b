//! What the name and the ancillary data of a received message say.

use crate::abi::{self, FrameHdr};
use crate::store::Meta;
use crate::sys::{SOL_SOCKET, SockaddrNl};

/// Bytes of `SCM_CREDENTIALS` in ancillary data.
const CREDENTIALS: usize = 32;
/// `struct cmsghdr` of them: 28 bytes, `SOL_SOCKET`, `SCM_CREDENTIALS`.
const CREDENTIALS_HEAD: [u8; 16] = {
    let (len, level, kind) = (28u64.to_ne_bytes(), SOL_SOCKET.to_ne_bytes(), 2u32.to_ne_bytes());
    let ([a, b, c, d, e, f, g, h], [i, j, k, l], [m, n, o, p]) = (len, level, kind);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
};

/// Process, user and group id behind the head of `SCM_CREDENTIALS`.
fn words(from: &[u8; CREDENTIALS]) -> Option<[u32; 3]> {
    let word = |at: usize| from.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    Some([word(16)?, word(20)?, word(24)?])
}

/// Reads name and ancillary data of a received message.
pub(crate) fn meta_of(name: &SockaddrNl, control: &[u8], len: usize, truncated: bool) -> Meta {
    let mut hdr = FrameHdr { len: len as u32, ..FrameHdr::default() };
    if name.groups != 0 {
        hdr.group = name.groups.trailing_zeros() + 1;
    }
    // The usual one, and nothing else: credentials.
    if let Ok(only) = <&[u8; CREDENTIALS]>::try_from(control)
        && only.first_chunk() == Some(&CREDENTIALS_HEAD)
        && let Some([p, u, g]) = words(only)
    {
        (hdr.pid, hdr.uid, hdr.gid) = (p, u, g);
        return Meta { truncated: u32::from(truncated), ..Meta::of(hdr, name) };
    }
    let (mut rest, mut extra) = (control, 0);
    // struct cmsghdr: length (8 bytes), level, type; data follows, 8-aligned.
    while let Some((head, data)) = rest.split_at_checked(16) {
        let word = |b: &[u8], at: usize| -> u32 {
            b.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
        };
        let (len, level, kind) = (word(head, 0) as usize, word(head, 8) as i32, word(head, 12));
        match (level, kind) {
            (SOL_SOCKET, 2) => (hdr.pid, hdr.uid, hdr.gid) = (word(data, 0), word(data, 4), word(data, 8)),
            (abi::SOL_NETLINK, 3) => hdr.group = word(data, 0),
            // The namespace it came from, a security label: a frame cannot tell.
            _ => extra = control.len() as u32,
        }
        let Some(next) = rest.get((len.saturating_add(7) & !7).max(16)..) else {
            break;
        };
        rest = next;
    }
    Meta { truncated: u32::from(truncated), extra, ..Meta::of(hdr, name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancillary_data() {
        let mut c = std::vec![];
        for (len, level, kind, data) in [(28u64, 1u32, 2u32, &[7u32, 1000, 1001][..]), (20, 270, 3, &[40])] {
            c.extend(len.to_ne_bytes());
            c.extend(level.to_ne_bytes());
            c.extend(kind.to_ne_bytes());
            data.iter().for_each(|w| c.extend(w.to_ne_bytes()));
            c.resize(c.len().next_multiple_of(8), 0);
        }
        let name = SockaddrNl { family: 16, pad: 0, portid: 5, groups: 0 };
        let m = meta_of(&name, &c, 9, false);
        assert_eq!(m.hdr, FrameHdr { len: 9, group: 40, pid: 7, uid: 1000, gid: 1001 });
        let m = meta_of(&SockaddrNl { groups: 1 << 4, ..name }, &[], 9, false);
        assert_eq!(m.hdr.group, 5);
        assert_eq!(m.extra, 0);
        // A namespace behind them: kept whole.
        c.extend([20u64.to_ne_bytes(), (u64::from(8u32) << 32 | 270).to_ne_bytes(), 7u64.to_ne_bytes()].concat());
        let m = meta_of(&name, &c, 9, false);
        assert_eq!((m.extra as usize, m.hdr.group), (c.len(), 40));
        for cut in 0..c.len() {
            meta_of(&name, &c[..cut], 0, false);
        }
        meta_of(&name, &[0xff; 40], 0, false);
        meta_of(&name, &[0; 40], 0, false);
    }
}
