//! Single cases: defects that the models have found, and promises that need no search.

use crate::bench::{Bench, set_status, status_of};
use crate::message::{Class, datagram};
use nlmmap_ring::abi::{nl_mmap_req, status};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;

/// A ring of frames of 512 bytes.
pub fn ring(frames: u32) -> Geometry {
    let blocks = frames / 8;
    let req = nl_mmap_req { nm_block_size: 4096, nm_block_nr: blocks, nm_frame_size: 512, nm_frame_nr: frames };
    Geometry::check(&req, 4096, 1 << 20).unwrap()
}

/// The head steps over kept frames with a message in hand, not before: a frame that is released in time is the next one.
#[test]
fn a_frame_released_in_time_is_not_passed_over() {
    for strict in [false, true] {
        let bench = Bench::new(Some(ring(8)), None, strict);
        for i in 0..8 {
            bench.mock.arrive(datagram(Class::Ack, i, 40));
        }
        bench.service(Context::Wait);
        set_status(bench.rx(), 0, status::SKIP);
        (1..8).for_each(|pos| set_status(bench.rx(), pos, status::UNUSED));
        bench.service(Context::Wait);
        set_status(bench.rx(), 0, status::UNUSED);
        bench.mock.arrive(datagram(Class::Ack, 8, 40));
        bench.service(Context::Wait);
        assert_eq!(status_of(bench.rx(), 0), status::VALID, "strict: {strict}");
    }
}
