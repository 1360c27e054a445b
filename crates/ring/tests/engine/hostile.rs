//! A client, or a stray thread of its, that writes anything into any frame header at any time, also while the engine is inside
//! a system call. It may spoil its own data, and nothing else: no panic, no access outside the ring (miri and the sanitizer look
//! on), no call without end, nothing of the engine's private memory in a frame, no payload larger than a frame on the wire;
//! and when it stops, the endpoint works.

use crate::bench::{Bench, compose, geometry, set_status, status_of, word};
use crate::dump::Dump;
use crate::message::{Class, class, datagram, size};
use nlmmap_ring::abi::status;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::memory::RingMemory;
use nlmmap_ring::rx::Context;
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, Debug)]
enum Op {
    Arrive(Class, usize),
    Dump(Vec<usize>),
    Service(Context),
    Receive(usize, u32),
    Fill(usize),
    Kick(bool),
    Bell(bool),
    Poll,
    /// Sets every status to the same value.
    Flood(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let context = prop_oneof![Just(Context::Wait), Just(Context::Send), Just(Context::Background)];
    prop_oneof![
        6 => (class(), size()).prop_map(|(c, n)| Op::Arrive(c, n)),
        1 => prop::collection::vec(20usize..500, 0..200).prop_map(Op::Dump),
        6 => context.prop_map(Op::Service),
        3 => (0usize..5000, prop_oneof![Just(0u32), Just(2), Just(0x20)]).prop_map(|(n, f)| Op::Receive(n, f)),
        3 => (0usize..5000).prop_map(Op::Fill),
        2 => any::<bool>().prop_map(Op::Kick),
        1 => any::<bool>().prop_map(Op::Bell),
        1 => Just(Op::Poll),
        1 => prop_oneof![0u32..6, any::<u32>()].prop_map(Op::Flood),
    ]
}

/// Writes a few words, by a generator of its own so that a run can be repeated.
fn scribble(rings: &[RingMemory], seed: &mut u64, writes: u32) {
    let mut next = |below: u32| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*seed >> 33) as u32) % below
    };
    for _ in 0..writes {
        let ring = &rings[next(rings.len() as u32) as usize];
        let (pos, index) = (next(ring.geometry().frame_nr()), next(6) as usize);
        let room = ring.geometry().room();
        let value = match next(6) {
            // Mostly statuses that mean something, and lengths at the border.
            0..=2 => next(6),
            3 => room.wrapping_add(next(3)).wrapping_sub(1),
            4 => u32::MAX - next(3),
            _ => next(u32::MAX),
        };
        word(ring, pos, index).store(value, Relaxed);
    }
}

fn run(rx: Geometry, tx: Geometry, strict: bool, mut seed: u64, ops: Vec<Op>) {
    let bench = Bench::new(Some(rx), Some(tx), strict);
    bench.bind(4711);
    bench.mock.acks.set(true);
    let rings = vec![*bench.rx(), *bench.tx()];
    let mut inner = seed ^ 0x5555;
    let theirs = rings.clone();
    *bench.mock.meanwhile.borrow_mut() = Some(Box::new(move || scribble(&theirs, &mut inner, 2)));
    let mut serial = 0;
    for op in ops {
        scribble(&rings, &mut seed, 3);
        serial += 1;
        match op {
            Op::Arrive(class, len) => {
                bench.mock.arrive(datagram(class, serial, len));
            }
            Op::Dump(lens) => {
                if bench.mock.dump.borrow().is_none() {
                    bench.mock.start_dump(Dump::new(&lens));
                }
            }
            Op::Service(context) => bench.service(context),
            Op::Receive(room, flags) => {
                if let Ok(got) = bench.receive(&[room], flags, 64) {
                    assert!(got.bytes.len() <= room);
                }
            }
            Op::Fill(len) => {
                let pos = serial % tx.frame_nr();
                let len = len % (tx.room() as usize + 1);
                compose(bench.tx(), pos, &vec![7; len], len as u32);
            }
            Op::Kick(sleeps) => {
                let before = bench.mock.sent.borrow().len();
                let _ = bench.kick(None, if sleeps { 0 } else { 0x40 });
                let sent = bench.mock.sent.borrow();
                assert!(sent.len() - before <= tx.frame_nr() as usize, "a kick goes once around at most");
                assert!(sent.iter().all(|s| s.bytes.len() <= tx.room() as usize));
            }
            Op::Bell(on) => bench.endpoint.unseen.store(on, Relaxed),
            Op::Poll => {
                bench.poll();
            }
            Op::Flood(value) => {
                rings.iter().for_each(|r| (0..r.geometry().frame_nr()).for_each(|pos| set_status(r, pos, value)));
            }
        }
        bench.check();
    }
    *bench.mock.meanwhile.borrow_mut() = None;
    bench.check_no_leak();
    recover(&bench);
}

/// The client comes to its senses: it releases every frame, reads everything, and finds the next message at the head.
fn recover(bench: &Bench) {
    bench.endpoint.unseen.store(false, Relaxed);
    let (rx, c) = (*bench.rx(), bench.control());
    let mut rounds = 0;
    loop {
        (0..rx.geometry().frame_nr()).for_each(|pos| set_status(&rx, pos, status::UNUSED));
        let before = bench.mock.calls.get();
        bench.service(Context::Wait);
        let mut received = 0;
        // Room for the largest message that arrives.
        while let Err(Errno::NOBUFS) | Ok(_) = bench.receive(&[128 << 10], 0, 0) {
            received += 1;
        }
        rounds += 1;
        assert!(rounds < 20_000, "the endpoint does not come to rest");
        let is_idle = (0..rx.geometry().frame_nr()).all(|pos| status_of(&rx, pos) == status::UNUSED);
        if is_idle && received == 0 && bench.mock.queue.borrow().is_empty() && bench.mock.calls.get() > before {
            break;
        }
    }
    assert_eq!((c.copies.load(Relaxed), c.unplaced.load(Relaxed)), (0, 0));
    let head = c.rx_head.load(Relaxed);
    let message = datagram(Class::Ack, 1, 36);
    bench.mock.arrive(message);
    bench.service(Context::Wait);
    assert_ne!(status_of(&rx, head), status::UNUSED, "the next message is at the head");
    assert_eq!(word(&rx, head, 1).load(Relaxed), 36);
    assert_eq!(bench.poll() & 1, 1);
}

/// One run, by the choices of a fuzzer.
#[cfg(fuzzing)]
pub fn fuzz(source: &mut crate::Source) {
    let first = (geometry(), geometry(), any::<bool>(), any::<u64>());
    if let Some((rx, tx, strict, seed)) = source.one(&first) {
        run(rx, tx, strict, seed, source.all(op));
    }
}

proptest! {
    #![proptest_config(crate::config(150))]

    #[test]
    fn a_hostile_client_harms_only_itself(
        rx in geometry(), tx in geometry(), strict in any::<bool>(), seed in any::<u64>(),
        ops in prop::collection::vec(op(), crate::moves(100)),
    ) {
        run(rx, tx, strict, seed, ops);
    }
}
