//! Single cases: defects that the models have found, and promises that need no search.

use crate::bench::{Bench, compose, set_status, status_of, word};
use crate::dump::Dump;
use crate::message::{Class, datagram, header};
use nlmmap_ring::abi::{nl_mmap_req, status};
use nlmmap_ring::control::flag;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;
use nlmmap_ring::tx;
use std::sync::atomic::Ordering::Relaxed;

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

/// What passed a dump part on its way to a frame is received before it as well: `nm_len` of each frame is its own message's.
#[test]
fn recv_keeps_the_order_of_frames() {
    let tiny = nl_mmap_req { nm_block_size: 4096, nm_block_nr: 1, nm_frame_size: 24, nm_frame_nr: 170 };
    for strict in [false, true] {
        let bench = Bench::new(Some(Geometry::check(&tiny, 4096, 1 << 20).unwrap()), None, strict);
        tx::note_request(bench.control(), &header(20, 26, 0x301));
        bench.mock.start_dump(Dump::new(&[881, 45, 2825]));
        bench.service(Context::Send);
        bench.mock.arrive(datagram(Class::Ack, 1, 36));
        bench.service(Context::Send);
        bench.service(Context::Wait);
        let mut pos = 0;
        while status_of(bench.rx(), pos) == status::COPY {
            let len = word(bench.rx(), pos, 1).load(Relaxed) as usize;
            bench.receive_whole(len).unwrap();
            set_status(bench.rx(), pos, status::UNUSED);
            bench.service(Context::Wait);
            pos += 1;
        }
        assert!(pos >= 3, "strict: {strict}");
        assert_eq!(bench.control().copies.load(Relaxed), 0);
    }
}

/// Messages that pass a dump do not pass each other, whatever their sizes.
#[test]
fn small_messages_do_not_pass_large_ones() {
    let small = nl_mmap_req { nm_block_size: 4096, nm_block_nr: 1, nm_frame_size: 40, nm_frame_nr: 102 };
    let bench = Bench::new(Some(Geometry::check(&small, 4096, 1 << 20).unwrap()), None, false);
    tx::note_request(bench.control(), &header(20, 26, 0x301));
    bench.mock.start_dump(Dump::new(&[100; if cfg!(miri) { 120 } else { 300 }]));
    bench.service(Context::Wait);
    bench.mock.arrive(datagram(Class::Ack, 1, 36));
    bench.mock.arrive(datagram(Class::Reply, 2, 16));
    bench.service(Context::Send);
    let lens: Vec<u32> = (0..102)
        .filter(|pos| status_of(bench.rx(), *pos) != status::UNUSED)
        .map(|pos| word(bench.rx(), pos, 1).load(Relaxed))
        .filter(|len| matches!(len, 36 | 16))
        .collect();
    assert_eq!(lens, [36, 16]);
}

/// Replies that are queued when a kick returns are in the ring by then, as many as it has frames for.
#[test]
fn replies_are_in_the_ring_when_the_kick_returns() {
    let frames = if cfg!(miri) { 16 } else { 64 };
    for strict in [false, true] {
        let bench = Bench::new(Some(ring(frames)), Some(ring(frames)), strict);
        bench.mock.acks.set(true);
        (0..frames).for_each(|pos| compose(bench.tx(), pos, &header(16, 16, 5), 16));
        assert_eq!(bench.kick(None, 0), Ok(frames as usize * 16));
        let valid = (0..frames).filter(|pos| status_of(bench.rx(), *pos) == status::VALID).count();
        assert_eq!(valid, frames as usize, "strict: {strict}");
    }
}

/// A message that is longer than any the engine takes whole is lost aloud, never shown cut.
#[test]
fn what_is_too_large_is_told() {
    let huge = nl_mmap_req { nm_block_size: 1 << 20, nm_block_nr: 1, nm_frame_size: 1 << 19, nm_frame_nr: 2 };
    for geometry in [ring(8), Geometry::check(&huge, 4096, 1 << 21).unwrap()] {
        let bench = Bench::new(Some(geometry), None, false);
        bench.mock.arrive(datagram(Class::Reply, 1, 600 << 10));
        bench.mock.arrive(datagram(Class::Reply, 2, 40));
        bench.service(Context::Wait);
        assert_eq!(word(bench.rx(), 0, 1).load(Relaxed), 40);
        assert_eq!(bench.control().take_error(), 105);
        assert_eq!(bench.control().counters.overruns.load(Relaxed), 1);
    }
}

/// What the socket sends to itself is a message like any other while a doorbell hangs in it.
#[test]
fn only_the_doorbell_is_swallowed() {
    for len in [0, 1, 8, 31, 32] {
        let bench = Bench::new(Some(ring(8)), None, false);
        bench.bind(4711);
        bench.endpoint.unseen.store(true, Relaxed);
        bench.mock.arrive(datagram(Class::Ack, 1, 36));
        bench.service(Context::Wait);
        assert!(bench.mock.is_readable(), "the doorbell has been rung");
        let mut own = datagram(Class::Peer(4711), 2, len);
        // As the doorbell begins, and just before it.
        own.bytes.iter_mut().zip([32, 0, 0, 0, 1, 0, 0, 0]).for_each(|(to, from)| *to = from);
        bench.mock.queue.borrow_mut().push_front(own);
        bench.service(Context::Wait);
        if len == 0 {
            assert_eq!(status_of(bench.rx(), 1), status::COPY);
            assert_eq!(bench.receive_whole(0).map(|b| b.len()), Ok(0));
        } else {
            assert_eq!(status_of(bench.rx(), 1), status::VALID, "{len} bytes");
            assert_eq!(word(bench.rx(), 1, 1).load(Relaxed) as usize, len);
        }
        (0..2).for_each(|pos| set_status(bench.rx(), pos, status::UNUSED));
        bench.service(Context::Wait);
        assert_eq!(status_of(bench.rx(), 2), status::UNUSED, "{len} bytes: the doorbell shows");
        assert!(!bench.mock.is_readable());
    }
}

/// A doorbell with messages on both sides of it: it leaves no gap, nothing is out of order, and they are received in batches.
#[test]
fn a_doorbell_among_messages_keeps_no_batch_small() {
    for before in (0..6).step_by(if cfg!(miri) { 3 } else { 1 }) {
        let bench = Bench::new(Some(ring(64)), None, false);
        bench.bind(4711);
        bench.endpoint.unseen.store(true, Relaxed);
        bench.mock.arrive(datagram(Class::Ack, 0, 36));
        bench.service(Context::Wait);
        assert!(bench.control().has(flag::BELL));
        let size = |i: u32| 36 + i as usize;
        (1..=before)
            .for_each(|i| bench.mock.queue.borrow_mut().insert(i as usize - 1, datagram(Class::Ack, i, size(i))));
        (before + 1..=40).for_each(|i| assert!(bench.mock.arrive(datagram(Class::Ack, i, size(i)))));
        let calls = bench.mock.calls.get();
        bench.service(Context::Wait);
        let calls = bench.mock.calls.get() - calls;
        assert!(calls <= 8, "{calls} calls for 40 messages, {before} of them before the doorbell");
        for i in 0..=40 {
            assert_eq!(status_of(bench.rx(), i), status::VALID, "frame {i}, {before} before the doorbell");
            assert_eq!(word(bench.rx(), i, 1).load(Relaxed) as usize, size(i));
        }
        assert_eq!(status_of(bench.rx(), 41), status::UNUSED);
    }
}

/// A bench with both rings whose kernel acknowledges requests, and a kick of one.
fn asked(sequence: u32, before: impl FnOnce(&Bench)) -> (Bench, u64) {
    let bench = Bench::new(Some(ring(8)), Some(ring(8)), false);
    bench.mock.acks.set(true);
    before(&bench);
    let mut request = header(16, 1, 5);
    request[8..12].copy_from_slice(&sequence.to_ne_bytes());
    compose(bench.tx(), 0, &request, 16);
    let calls = bench.mock.calls.get();
    assert_eq!(bench.kick(None, 0), Ok(16));
    let calls = bench.mock.calls.get() - calls;
    (bench, calls)
}

/// An acknowledgement that somebody else has asked for by the same number.
fn stale(bench: &Bench, sequence: u32) {
    let mut request = header(16, 1, 5);
    request[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bench.mock.queue.borrow_mut().push_back(crate::message::ack(&request));
}

/// A single request costs its send and the receive of its acknowledgement, no third call that finds nothing.
#[test]
fn a_single_request_ends_with_its_acknowledgement() {
    let (bench, calls) = asked(7, |_| {});
    assert_eq!(calls, 2);
    assert_eq!(status_of(bench.rx(), 0), status::VALID);
    assert!(!bench.mock.is_readable());
    // What comes before it is taken on the way.
    let (bench, _) = asked(7, |bench| {
        stale(bench, 6);
        bench.mock.arrive(datagram(Class::Event(3), 1, 40));
    });
    assert_eq!([0, 1, 2, 3].map(|pos| status_of(bench.rx(), pos)), [2, 2, 2, 0]);
    assert!(!bench.mock.is_readable());
}

/// Where another answer of the same number may lie in front of it, everything is taken: after a pump that did not see the end
/// of the queue, beside another thread that sends, and where several processes do.
#[test]
fn a_single_request_is_not_content_with_an_earlier_acknowledgement() {
    let doubts: [fn(&Bench); 3] = [
        |bench| bench.control().set(flag::BEHIND, true),
        |bench| bench.endpoint.sending.store(2, Relaxed),
        |bench| {
            // A live process, and then another one.
            bench.endpoint.begin_send(1);
            bench.endpoint.end_send();
            bench.endpoint.begin_send(2);
            bench.endpoint.end_send();
        },
    ];
    for doubt in doubts {
        let (bench, _) = asked(7, |bench| {
            stale(bench, 7);
            doubt(bench);
        });
        assert_eq!([0, 1, 2].map(|pos| status_of(bench.rx(), pos)), [2, 2, 0]);
        assert!(!bench.mock.is_readable());
    }
}

/// A verdict for which the mock has an error to tell, and packets that wait to be read.
fn walk(packets: u32) -> Bench {
    let bench = Bench::new(Some(ring(8)), Some(ring(8)), false);
    for i in 0..packets {
        bench.mock.arrive(datagram(Class::Packet, i, 40));
    }
    bench.service(Context::Wait);
    bench
}

/// Kicks one verdict, which the kernel answers. Returns how many calls that took.
fn judge(bench: &Bench, flags: u16) -> u64 {
    bench.mock.acks.set(true);
    let at = bench.control().tx_head.load(Relaxed);
    compose(bench.tx(), at, &header(16, 0x301, flags), 16);
    let calls = bench.mock.calls.get();
    assert_eq!(bench.kick(None, 0), Ok(16));
    bench.mock.calls.get() - calls
}

/// While there is more to read than the frame that the client may be at, a verdict's error may wait in the socket; by the kick
/// for the last frame, and by a wait or a receive at the end, everything is there, in order.
#[test]
fn a_verdict_amid_a_walk_is_not_pumped_after() {
    let bench = walk(3);
    for pos in 0..3 {
        let calls = judge(&bench, 1);
        assert_eq!(calls == 1, pos < 2, "verdict {pos}: {calls} calls");
        assert_eq!(status_of(bench.rx(), 3), if pos < 2 { status::UNUSED } else { status::VALID });
        set_status(bench.rx(), pos, status::UNUSED);
    }
    assert_eq!([3, 4, 5, 6].map(|pos| status_of(bench.rx(), pos)), [2, 2, 2, 0], "one error a verdict");
    for by_wait in [false, true] {
        let bench = walk(3);
        assert_eq!(judge(&bench, 1), 1);
        (0..3).for_each(|pos| set_status(bench.rx(), pos, status::UNUSED));
        assert!(bench.mock.is_readable(), "whoever waits on the socket wakes");
        if by_wait {
            bench.service(Context::Wait);
        } else {
            assert!(bench.receive(&[64], 0, 0).is_err());
        }
        assert_eq!(status_of(bench.rx(), 3), status::VALID, "by a wait: {by_wait}");
    }
    // Who asks for an answer has it at once, with all that was left.
    let bench = walk(3);
    assert_eq!(judge(&bench, 1), 1);
    judge(&bench, 5);
    assert_eq!([3, 4, 5].map(|pos| status_of(bench.rx(), pos)), [2, 2, 0]);
}

/// Frames that hold what 4.5 allocated for a dump part.
fn parts(frames: u32) -> Geometry {
    let req = nl_mmap_req { nm_block_size: 4096, nm_block_nr: frames, nm_frame_size: 4096, nm_frame_nr: frames };
    Geometry::check(&req, 4096, 1 << 20).unwrap()
}

fn statuses(bench: &Bench) -> Vec<u32> {
    (0..bench.rx().geometry().frame_nr()).map(|pos| status_of(bench.rx(), pos)).collect()
}

/// Strict: a dump that finds no frame is told, and begins in the first wait with space, half a ring at a time.
#[test]
fn a_dump_begins_when_there_is_space() {
    let bench = Bench::new(Some(parts(4)), None, true);
    for i in 0..4 {
        bench.mock.arrive(datagram(Class::Ack, i, 36));
    }
    bench.service(Context::Send);
    bench.mock.start_dump(Dump::new(&[1000; 30]));
    bench.service(Context::Send);
    assert_eq!(bench.control().take_error(), 105);
    set_status(bench.rx(), 0, status::UNUSED);
    for context in [Context::Send, Context::Wait] {
        bench.service(context);
        assert_eq!(status_of(bench.rx(), 0), status::UNUSED, "the frame half a ring further is not free");
    }
    (1..4).for_each(|pos| set_status(bench.rx(), pos, status::UNUSED));
    bench.service(Context::Wait);
    assert_eq!(statuses(&bench), [2, 2, 2, 0]);
    assert_eq!(bench.control().take_error(), 0);
}

/// Strict: the end of a dump is a part of its own, made when there is space for it.
#[test]
fn the_end_of_a_dump_comes_alone() {
    let bench = Bench::new(Some(parts(3)), None, true);
    bench.mock.start_dump(Dump::new(&[100; 3]));
    bench.service(Context::Send);
    assert_eq!(statuses(&bench), [2, 0, 0]);
    assert_eq!(word(bench.rx(), 0, 1).load(Relaxed), 300);
    bench.mock.arrive(datagram(Class::Ack, 1, 36));
    bench.service(Context::Send);
    bench.service(Context::Wait);
    assert_eq!(statuses(&bench), [2, 2, 0], "the second frame is the acknowledgement, and half a ring further it lies");
    (0..2).for_each(|pos| set_status(bench.rx(), pos, status::UNUSED));
    bench.service(Context::Wait);
    assert_eq!((statuses(&bench), word(bench.rx(), 2, 1).load(Relaxed)), (vec![0, 0, 2], 20));
}

/// Strict: `recv` of any message makes one part of a running dump, and is told where that finds no frame.
#[test]
fn recv_goes_on_with_a_dump() {
    let bench = Bench::new(Some(parts(4)), None, true);
    for i in 0..2 {
        bench.mock.arrive(datagram(Class::Reply, i, 36));
    }
    bench.service(Context::Send);
    bench.mock.start_dump(Dump::new(&[1000; 30]));
    bench.service(Context::Send);
    assert_eq!(statuses(&bench), [3, 3, 2, 0]);
    bench.receive_whole(36).unwrap();
    assert_eq!(statuses(&bench), [3, 3, 2, 2]);
    bench.receive_whole(36).unwrap();
    assert_eq!(bench.control().take_error(), 105);
    (0..4).for_each(|pos| set_status(bench.rx(), pos, status::UNUSED));
    bench.service(Context::Wait);
    assert_eq!(statuses(&bench), [2, 2, 2, 0], "the dump lives on");
}

/// Strict: a congested socket hears of its first loss alone, also of what the kernel loses by its own count.
#[test]
fn a_congested_socket_is_told_once() {
    let bench = Bench::new(Some(ring(8)), None, true);
    for i in 0..9 {
        bench.mock.arrive(datagram(Class::Reply, i, 36));
    }
    bench.service(Context::Wait);
    assert_eq!(bench.control().take_error(), 105);
    bench.mock.faults.borrow_mut().push_back(Errno::NOBUFS);
    bench.service(Context::Wait);
    assert_eq!(bench.control().take_error(), 0);
    bench.endpoint.forgive(&bench.mock, crate::bench::PID);
    bench.mock.faults.borrow_mut().push_back(Errno::NOBUFS);
    bench.service(Context::Wait);
    assert_eq!(bench.control().take_error(), 105);
}

/// Any kick gives a socket its port id, whatever becomes of it.
#[test]
fn a_kick_of_nothing_binds() {
    for len in [None, Some(4000)] {
        let bench = Bench::new(None, Some(ring(8)), false);
        if let Some(len) = len {
            compose(bench.tx(), 0, &[], len);
        }
        assert_eq!(bench.kick(None, 0), if len.is_some() { Err(Errno::INVAL) } else { Ok(0) });
        assert_eq!(bench.mock.portid.get(), 4321);
    }
}
