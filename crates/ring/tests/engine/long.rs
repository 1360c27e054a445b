//! Long messages: received apart from their frames, and copied there.

use crate::bench::{Bench, payload, set_status, status_of, word};
use crate::message::{Class, datagram};
use nlmmap_ring::abi::{nl_mmap_req, status};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;
use std::sync::atomic::Ordering::Relaxed;

/// A bench with `frames` frames of `size` bytes.
fn bench(size: u32, frames: u32) -> Bench {
    let req = nl_mmap_req { nm_block_size: size, nm_block_nr: frames, nm_frame_size: size, nm_frame_nr: frames };
    Bench::new(Some(Geometry::check(&req, 4096, 1 << 24).unwrap()), None, false)
}

/// Sends messages of these lengths, and takes them: whether each was received into the ring.
fn pass(bench: &Bench, lens: &[usize]) -> Vec<bool> {
    let sent: Vec<_> = (1..).zip(lens).map(|(i, &len)| datagram(Class::Ack, i, len)).collect();
    sent.iter().for_each(|d| assert!(bench.mock.arrive(d.clone())));
    bench.mock.landed.borrow_mut().clear();
    let frames = bench.rx().geometry().frame_nr();
    let mut pos = bench.control().rx_head.load(Relaxed);
    for d in sent {
        bench.service(Context::Wait);
        let len = d.bytes.len();
        assert_eq!(word(bench.rx(), pos, 1).load(Relaxed) as usize, len);
        let got = match status_of(bench.rx(), pos) {
            status::VALID => payload(bench.rx(), pos, len),
            status::COPY => bench.receive_whole(len).unwrap(),
            other => panic!("frame {pos} is {other}"),
        };
        assert!(got == d.bytes, "a message of {len} bytes, frame {pos}");
        set_status(bench.rx(), pos, status::UNUSED);
        pos = (pos + 1) % frames;
    }
    bench.check_no_leak();
    bench.mock.landed.take()
}

/// Where the last message went says where the next would.
fn is_apart(bench: &Bench, lens: &[usize]) -> bool {
    pass(bench, lens);
    pass(bench, &[24]) == [false]
}

#[test]
fn long_messages_are_received_apart_and_short_ones_in_place() {
    let bench = bench(4096, 32);
    assert!(!is_apart(&bench, &[100; 40]));
    assert!(is_apart(&bench, &[1400; 40]));
    assert!(!is_apart(&bench, &[511; 40]));
    assert!(is_apart(&bench, &[512; 40]));
    // What comes after long ones is in place again.
    assert_eq!(pass(&bench, &[2000]), [true]);
    assert_eq!(pass(&bench, &[2000, 2000]), [false; 2]);
}

#[test]
fn those_that_no_frame_holds_keep_their_place_among_the_others() {
    let bench = bench(4096, 32);
    pass(&bench, &[1400; 20]);
    let lens = [1400, 4072, 4073, 900, 30_000, 24, 24, 3000, 100_000, 1400];
    for skipped in 0..lens.len() {
        pass(&bench, &lens[skipped..]);
        pass(&bench, &[1400; 3]);
    }
    assert!(bench.mock.landed.take().is_empty());
}

#[test]
fn what_a_frame_cannot_tell_is_kept_for_recv() {
    let bench = bench(4096, 32);
    bench.mock.tells_namespace.set(true);
    pass(&bench, &[1400; 20]);
    assert_eq!(pass(&bench, &[700, 1400, 24])[..2], [false; 2]);
}

/// Private memory has room for frames up to a size; one call fills no more of it than a near cache holds.
#[test]
fn as_much_as_there_is_room_for() {
    assert!(!is_apart(&bench(128 << 10, 16), &[30_000; 8]));
    let bench = bench(64 << 10, 16);
    assert!(is_apart(&bench, &[30_000; 8]));
    pass(&bench, &[30_000; 2]);
    let calls = bench.mock.calls.get();
    (1..=8).for_each(|i| assert!(bench.mock.arrive(datagram(Class::Ack, i, 30_000))));
    bench.service(Context::Wait);
    assert!(bench.mock.calls.get() - calls >= 4, "two by one call");
    (0..16).for_each(|pos| set_status(bench.rx(), pos, status::UNUSED));
}
