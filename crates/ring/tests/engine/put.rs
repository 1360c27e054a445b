//! Messages that the socket has not received: they come behind everything that it has, and none is lost while the store has
//! room.

use crate::bench::{Bench, PID, set_status, status_of};
use crate::mock::Datagram;
use nlmmap_ring::abi::{nl_mmap_req, status};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;

fn four_frames() -> Geometry {
    let request = nl_mmap_req { nm_block_size: 4096, nm_block_nr: 1, nm_frame_size: 1024, nm_frame_nr: 4 };
    Geometry::check(&request, 4096, 1 << 30).unwrap()
}

/// A message that is its number.
fn message(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[0] = 20;
    bytes[4] = 2;
    bytes[16..].copy_from_slice(&number.to_ne_bytes());
    bytes
}

fn number_at(bench: &Bench, pos: u32) -> u32 {
    let mut bytes = [0u8; 20];
    if status_of(bench.rx(), pos) == status::COPY {
        bytes.copy_from_slice(&bench.receive_whole(20).unwrap());
        return u32::from_ne_bytes(bytes[16..].try_into().unwrap());
    }
    // SAFETY: a local of the stated length.
    unsafe { bench.rx().read_payload(pos, bytes.as_mut_ptr(), bytes.len()) };
    u32::from_ne_bytes(bytes[16..].try_into().unwrap())
}

#[test]
fn what_is_put_comes_behind_what_was_received() {
    for strict in [false, true] {
        let bench = Bench::new(Some(four_frames()), None, strict);
        let received = |number| Datagram { bytes: message(number), portid: 0, group: 0, creds: [0; 3] };
        bench.mock.queue.borrow_mut().push_back(received(1));
        assert!(bench.endpoint.put(&bench.mock, PID, &message(2)));
        bench.mock.queue.borrow_mut().push_back(received(3));
        bench.service(Context::Wait);
        // More than the ring holds: they wait for frames, in order.
        for number in 4..8 {
            assert!(bench.endpoint.put(&bench.mock, PID, &message(number)));
        }
        let mut seen = Vec::new();
        let mut pos = 0;
        while seen.len() < 7 {
            bench.service(Context::Wait);
            let before = seen.len();
            while status_of(bench.rx(), pos) >= status::VALID {
                seen.push(number_at(&bench, pos));
                set_status(bench.rx(), pos, status::UNUSED);
                pos = (pos + 1) % 4;
            }
            assert!(seen.len() > before, "strict {strict}: nothing comes after {seen:?}");
        }
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7], "strict {strict}");
    }
}

#[test]
fn without_a_ring_there_is_no_place() {
    let bench = Bench::new(None, Some(four_frames()), false);
    assert!(!bench.endpoint.put(&bench.mock, PID, &message(1)));
}
