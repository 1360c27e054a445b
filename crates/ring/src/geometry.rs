//! The shape of a ring: the rules of `netlink_set_ring` (Linux 4.4, `net/netlink/af_netlink.c`), in its order.
//!
//! | request | answer |
//! | --- | --- |
//! | `(int)nm_block_size <= 0`, or not a multiple of the page size | `EINVAL` |
//! | `nm_frame_size < NL_MMAP_HDRLEN`, or not a multiple of 4 | `EINVAL` |
//! | no frame fits in a block | `EINVAL` |
//! | `frames_per_block * nm_block_nr != nm_frame_nr` | `EINVAL` |
//! | more memory than the machine has | `ENOMEM` |
//!
//! A block may have slack behind its last frame, so the position of a frame is not linear in its index.

use crate::abi::{NL_MMAP_HDRLEN, NL_MMAP_MSG_ALIGNMENT, nl_mmap_req};
use crate::errno::{Errno, Result};

/// A checked ring shape: every value is in range, and every frame lies inside `len()` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    block_size: u32,
    block_nr: u32,
    frame_size: u32,
    frame_nr: u32,
    frames_per_block: u32,
    /// No block has slack: the frames lie one behind the other, and finding one takes no division.
    linear: bool,
}

impl Geometry {
    /// Judges a set-up request. `page` is the page size, `limit` the most bytes a ring may have.
    ///
    /// # Errors
    /// `EINVAL` and `ENOMEM` as in the table above. A request with `nm_block_nr == 0` is a tear-down, not for here.
    pub fn check(req: &nl_mmap_req, page: u32, limit: u64) -> Result<Geometry> {
        let nl_mmap_req { nm_block_size: bs, nm_block_nr: bn, nm_frame_size: fs, nm_frame_nr: fnr } = *req;
        if bs == 0 || bs > i32::MAX as u32 || !bs.is_multiple_of(page) {
            return Err(Errno::INVAL);
        }
        if fs < NL_MMAP_HDRLEN || !fs.is_multiple_of(NL_MMAP_MSG_ALIGNMENT) {
            return Err(Errno::INVAL);
        }
        let frames_per_block = bs / fs;
        // The kernel multiplies in 32 bits; a product that wraps to the number asked for passed its test and then failed for
        // lack of memory, so it does here.
        if frames_per_block == 0 || frames_per_block.wrapping_mul(bn) != fnr {
            return Err(Errno::INVAL);
        }
        if u64::from(bs) * u64::from(bn) > limit || bn == 0 || u64::from(frames_per_block) * u64::from(bn) > 1 << 31 {
            return Err(Errno::NOMEM);
        }
        let linear = bs == fs * frames_per_block;
        Ok(Geometry { block_size: bs, block_nr: bn, frame_size: fs, frame_nr: fnr, frames_per_block, linear })
    }

    /// Bytes of ring memory.
    pub fn len(&self) -> usize {
        self.block_size as usize * self.block_nr as usize
    }

    /// A checked geometry has at least one block.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Number of frames, at least 1.
    #[inline]
    pub fn frame_nr(&self) -> u32 {
        self.frame_nr
    }

    /// Bytes in a frame, header included.
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Bytes of payload that a frame holds.
    #[inline]
    pub fn room(&self) -> u32 {
        self.frame_size - NL_MMAP_HDRLEN
    }

    /// The request that made this geometry.
    pub fn request(&self) -> nl_mmap_req {
        nl_mmap_req {
            nm_block_size: self.block_size,
            nm_block_nr: self.block_nr,
            nm_frame_size: self.frame_size,
            nm_frame_nr: self.frame_nr,
        }
    }

    /// Byte offset of frame `pos`. Positions wrap, so that no index can lead outside.
    #[inline]
    pub fn offset(&self, pos: u32) -> usize {
        let pos = self.wrap(pos);
        if self.linear {
            return pos as usize * self.frame_size as usize;
        }
        let (block, frame) = (pos / self.frames_per_block, pos % self.frames_per_block);
        block as usize * self.block_size as usize + frame as usize * self.frame_size as usize
    }

    /// A position, whatever the number.
    #[inline]
    pub fn wrap(&self, pos: u32) -> u32 {
        if pos < self.frame_nr { pos } else { pos % self.frame_nr }
    }

    /// How many steps lead from position `from` to position `to`.
    #[inline]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { self.frame_nr - (from - to) }
    }

    /// The position after `pos`.
    #[inline]
    pub fn next(&self, pos: u32) -> u32 {
        if pos + 1 >= self.frame_nr { 0 } else { pos + 1 }
    }

    /// The position before `pos`.
    #[inline]
    pub fn prev(&self, pos: u32) -> u32 {
        if pos == 0 { self.frame_nr - 1 } else { pos - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn req(bs: u32, bn: u32, fs: u32, fnr: u32) -> nl_mmap_req {
        nl_mmap_req { nm_block_size: bs, nm_block_nr: bn, nm_frame_size: fs, nm_frame_nr: fnr }
    }
    fn check(bs: u32, bn: u32, fs: u32, fnr: u32) -> Result<Geometry> {
        Geometry::check(&req(bs, bn, fs, fnr), 4096, 1 << 32)
    }

    #[test]
    fn kernel_table() {
        assert!(check(4096, 4, 2048, 8).is_ok());
        assert!(check(12288, 2, 4096, 6).is_ok());
        assert!(check(4096, 2, 1500, 4).is_ok());
        assert!(check(4096, 1, 24, 170).is_ok());
        for (bs, bn, fs, fnr) in [
            (0, 4, 2048, 8),
            (4097, 4, 2048, 8),
            (2048, 4, 2048, 4),
            (0x8000_0000, 1, 4096, 0x80000),
            (4096, 1, 20, 204),
            (4096, 1, 26, 157),
            (4096, 1, 8192, 0),
            (16384, 2, 2048, 15),
            (4096, 3, 1500, 8),
        ] {
            assert_eq!(check(bs, bn, fs, fnr), Err(Errno::INVAL), "{bs} {bn} {fs} {fnr}");
        }
        assert_eq!(check(4096, 0x7fff_ffff, 4096, 0x7fff_ffff), Err(Errno::NOMEM));
        assert_eq!(check(8192, 0x8000_0000, 4096, 0), Err(Errno::NOMEM));
    }

    #[test]
    fn slack_at_the_end_of_blocks() {
        let g = check(4096, 2, 1500, 4).unwrap();
        assert_eq!([g.offset(0), g.offset(1), g.offset(2), g.offset(3)], [0, 1500, 4096, 5596]);
        assert_eq!(g.next(3), 0);
        assert_eq!([g.wrap(3), g.wrap(4), g.wrap(u32::MAX)], [3, 0, 3]);
        assert_eq!([g.distance(1, 3), g.distance(3, 1), g.distance(2, 2)], [2, 2, 0]);
        assert_eq!(g.prev(0), 3);
    }
}
