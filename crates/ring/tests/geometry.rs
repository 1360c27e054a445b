//! Ring shapes against a rule table of their own, written from `netlink_set_ring` (Linux 4.4) in C's arithmetic.

use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::geometry::Geometry;
use proptest::prelude::*;

const PAGE: u32 = 4096;
const LIMIT: u64 = 1 << 30;

/// The kernel's answer, statement by statement. C's `unsigned int` wraps, which Rust has to be told.
fn rules(r: &nl_mmap_req) -> Result<(), Errno> {
    if r.nm_block_size as i32 <= 0 {
        return Err(Errno::INVAL);
    }
    if r.nm_block_size & (PAGE - 1) != 0 {
        return Err(Errno::INVAL);
    }
    if r.nm_frame_size < 24 {
        return Err(Errno::INVAL);
    }
    if r.nm_frame_size & 3 != 0 {
        return Err(Errno::INVAL);
    }
    let frames_per_block = r.nm_block_size / r.nm_frame_size;
    if frames_per_block == 0 {
        return Err(Errno::INVAL);
    }
    if frames_per_block.wrapping_mul(r.nm_block_nr) != r.nm_frame_nr {
        return Err(Errno::INVAL);
    }
    // Two failures of alloc_pg_vec come after every check: too much memory, and with it a product that wrapped to fit.
    let blocks = u64::from(r.nm_block_nr);
    let wrapped = u64::from(frames_per_block) * blocks != u64::from(r.nm_frame_nr);
    if wrapped || u64::from(r.nm_block_size) * blocks > LIMIT {
        return Err(Errno::NOMEM);
    }
    Ok(())
}

/// Numbers at which a rule turns.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0u32..300,
        4 => (0u32..64).prop_map(|n| n * PAGE),
        2 => (0u32..20_000).prop_map(|n| n * 4),
        2 => (0u32..32).prop_map(|n| 1 << n),
        1 => (0u32..32).prop_map(|n| (1 << n) - 1),
        1 => (0u32..32).prop_map(|n| u32::MAX - (1 << n)),
        1 => any::<u32>(),
    ]
}

prop_compose! {
    /// Any request, most of them with the number of frames that the kernel would compute, wrapped as there.
    fn request()(bs in word(), bn in word(), fs in word(), fnr in word(), honest in 0..4) -> nl_mmap_req {
        let product = bs.checked_div(fs).unwrap_or(0).wrapping_mul(bn);
        nl_mmap_req {
            nm_block_size: bs,
            nm_block_nr: bn.max(1),
            nm_frame_size: fs,
            nm_frame_nr: if honest > 0 { product } else { fnr },
        }
    }
}

/// Each frame is looked at, of which 24 bytes each make thousands: fewer under miri.
const PAGES: u32 = if cfg!(miri) { 3 } else { 40 };
const BLOCKS: u32 = if cfg!(miri) { 4 } else { 20 };

prop_compose! {
    /// A request that must be granted.
    fn legal()(pages in 1..PAGES, blocks in 1..BLOCKS, share in 0.0f64..1.0) -> nl_mmap_req {
        let block = pages * PAGE;
        let frame = ((f64::from(block) * share * share * share) as u32 & !3).clamp(24, block);
        nl_mmap_req { nm_block_size: block, nm_block_nr: blocks, nm_frame_size: frame, nm_frame_nr: block / frame * blocks }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 10 } else { cases },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(20_000))]

    #[test]
    fn every_request_gets_the_kernels_answer(req in request()) {
        prop_assert_eq!(Geometry::check(&req, PAGE, LIMIT).map(|g| g.request()), rules(&req).map(|()| req));
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn frames_lie_apart_inside_their_blocks(req in legal(), beyond in any::<u32>()) {
        let g = Geometry::check(&req, PAGE, LIMIT).unwrap();
        let (block, frame, nr) = (req.nm_block_size as usize, req.nm_frame_size as usize, req.nm_frame_nr);
        prop_assert_eq!(g.frame_nr(), nr);
        prop_assert_eq!(g.room() as usize, frame - 24);
        prop_assert_eq!(g.len(), block * req.nm_block_nr as usize);
        let mut end = 0;
        let mut pos = 0;
        for i in 0..nr {
            prop_assert_eq!(pos, i);
            let at = g.offset(i);
            prop_assert!(at >= end, "frame {} overlaps the one before", i);
            prop_assert!(at.is_multiple_of(4));
            prop_assert_eq!(at / block, (at + frame - 1) / block, "frame {} lies in two blocks", i);
            // The documented place: blocks of whole frames, slack behind them.
            let per_block = block / frame;
            prop_assert_eq!(at, i as usize / per_block * block + i as usize % per_block * frame);
            prop_assert_eq!(g.prev(g.next(i)), i);
            end = at + frame;
            pos = g.next(pos);
        }
        prop_assert!(end <= g.len());
        prop_assert_eq!(pos, 0, "one step behind the last frame is the first");
        prop_assert_eq!(g.prev(0), nr - 1);
        // No index leads outside, wherever it came from.
        prop_assert!(g.offset(beyond) + frame <= g.len());
    }
}

/// The product wraps to the very number asked for: the kernel let it pass and then had no memory for it.
#[test]
fn products_that_wrap() {
    for (bs, bn, fs) in [(8192, 0x8000_0000, 4096), (4096 * 16, 0x1000_0001, 4096), (4096, 0x2000_0000, 512)] {
        let req = nl_mmap_req {
            nm_block_size: bs,
            nm_block_nr: bn,
            nm_frame_size: fs,
            nm_frame_nr: (bs / fs).wrapping_mul(bn),
        };
        assert_eq!(Geometry::check(&req, PAGE, u64::MAX), Err(Errno::NOMEM), "{req:?}");
    }
}
