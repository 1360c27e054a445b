//! The shape of a ring, as a program asks for it.

use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::sys;

use super::error::{Error, Result};

/// Blocks are tried up to this many pages when a program says frames alone.
const MOST_PAGES: u32 = 64;

/// The shape of a ring: frames in blocks of whole pages (`struct nl_mmap_req`).
///
/// A frame starts with a header of 24 bytes; the rest is room for a message. Messages that are larger come all the same, by the
/// same calls, only less cheaply. It is checked when the socket is built, by the rules of the kernel that had rings
/// (`netlink_set_ring` of Linux 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    block_size: u32,
    block_nr: u32,
    frame_size: u32,
    frame_nr: u32,
}

impl Ring {
    /// `frame_nr` frames of `frame_size` bytes, or the few more that fill whole pages, in blocks of the library's choice.
    /// `frame_size` is a multiple of 4, more than 24.
    pub const fn frames(frame_nr: u32, frame_size: u32) -> Ring {
        Ring { block_size: 0, block_nr: 0, frame_size, frame_nr }
    }

    /// A ring in the words of the ABI: `block_nr` blocks of `block_size` bytes, a multiple of the page size; `frame_nr` is as
    /// many frames as these blocks hold.
    pub const fn blocks(block_size: u32, block_nr: u32, frame_size: u32, frame_nr: u32) -> Ring {
        Ring { block_size, block_nr, frame_size, frame_nr }
    }

    /// Number of frames, as asked for.
    pub const fn frame_nr(&self) -> u32 {
        self.frame_nr
    }

    /// Bytes in a frame, its header included.
    pub const fn frame_size(&self) -> u32 {
        self.frame_size
    }

    fn bad(&self, why: &'static str) -> Error {
        let Ring { block_size, block_nr, frame_size, frame_nr } = *self;
        Error::BadRing { block_size, block_nr, frame_size, frame_nr, why }
    }

    /// The request that is made of it.
    pub(crate) fn request(&self) -> Result<nl_mmap_req> {
        let page = sys::PAGE as u32;
        let Ring { block_size, block_nr, frame_size, frame_nr } = *self;
        if frame_size <= nlmmap_ring::abi::NL_MMAP_HDRLEN || !frame_size.is_multiple_of(4) {
            return Err(self.bad("a frame has a multiple of 4 bytes, and more than the 24 of its header"));
        }
        if frame_nr == 0 {
            return Err(self.bad("a ring has one frame at least"));
        }
        if block_size != 0 || block_nr != 0 {
            return Ok(nl_mmap_req {
                nm_block_size: block_size,
                nm_block_nr: block_nr,
                nm_frame_size: frame_size,
                nm_frame_nr: frame_nr,
            });
        }
        // Exactly so many frames if there is a way, and then the least memory.
        let pages = 1..=MOST_PAGES.max(frame_size.div_ceil(page));
        let ways = pages.filter_map(|pages| {
            let block = pages.checked_mul(page)?;
            let per_block = block / frame_size;
            let blocks = frame_nr.checked_next_multiple_of(per_block).filter(|_| per_block > 0)? / per_block;
            Some((
                blocks * per_block - frame_nr,
                u64::from(block) * u64::from(blocks),
                block,
                blocks,
                blocks * per_block,
            ))
        });
        let (_, _, nm_block_size, nm_block_nr, nm_frame_nr) =
            ways.min().ok_or_else(|| self.bad("that is more memory than this machine has"))?;
        Ok(nl_mmap_req { nm_block_size, nm_block_nr, nm_frame_size: frame_size, nm_frame_nr })
    }

    /// The shape, judged.
    pub(crate) fn geometry(&self) -> Result<Geometry> {
        let request = self.request()?;
        Geometry::check(&request, sys::PAGE as u32, sys::total_memory().max(1 << 20)).map_err(|errno| {
            let why = if errno == nlmmap_ring::Errno::NOMEM {
                "that is more memory than this machine has"
            } else if !request.nm_block_size.is_multiple_of(sys::PAGE as u32) || request.nm_block_size == 0 {
                "a block is a multiple of the page size (4096)"
            } else if request.nm_block_size < request.nm_frame_size {
                "no frame fits in a block"
            } else {
                "the number of frames is not what the blocks hold"
            };
            self.bad(why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(ring: Ring) -> (u32, u32) {
        let request = ring.request().unwrap();
        assert!(ring.geometry().is_ok());
        (request.nm_block_size, request.nm_block_nr)
    }

    #[test]
    fn blocks_are_chosen_for_frames() {
        assert_eq!(blocks(Ring::frames(256, 2048)), (4096, 128));
        assert_eq!(blocks(Ring::frames(1, 65536)), (65536, 1));
        assert_eq!(blocks(Ring::frames(1, 1 << 20)), (1 << 20, 1));
        assert_eq!(blocks(Ring::frames(4, 1500)), (4096, 2));
        assert_eq!(blocks(Ring::frames(3, 4096)), (4096, 3));
        assert_eq!(blocks(Ring::frames(64, 256)), (4096, 4));
        assert_eq!(blocks(Ring::frames(2, 1024)), (4096, 1));
        assert_eq!(Ring::frames(2, 1024).request().unwrap().nm_frame_nr, 4);
        assert_eq!(Ring::frames(4, 1024).request().unwrap().nm_frame_nr, 4);
    }

    #[test]
    fn wrong_shapes_say_why() {
        for (ring, why) in [
            (Ring::frames(8, 24), "more than the 24"),
            (Ring::frames(8, 2050), "multiple of 4"),
            (Ring::frames(0, 2048), "one frame"),
            (Ring::frames(u32::MAX / 16 * 16, 4096), "more memory"),
            (Ring::blocks(1000, 1, 500, 2), "page size"),
            (Ring::blocks(4096, 1, 8192, 1), "no frame fits"),
            (Ring::blocks(4096, 2, 2048, 5), "not what the blocks hold"),
            (Ring::blocks(4096, 0, 2048, 2), "not what the blocks hold"),
        ] {
            let error = ring.geometry().unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(error.errno(), libc::EINVAL);
        }
    }
}
