//! Beside a socket without rings: the same messages at the same time, the same receive buffer, a reader of the same pace.
//!
//! In default mode a ring socket refuses nothing, loses nothing and tells of nothing that the plain one would not: what the ring
//! cannot take waits in the socket, and at every moment that is no more than what waits in the plain one. At the end of a pump
//! either the socket is empty, or the ring is full of messages the reader has not read, all of which the plain socket still
//! holds beside those that wait; and between two pumps a reader can take no more than the ring has.

use crate::bench::{Bench, geometry, set_status, status_of, word};
use crate::message::{Class, class, datagram};
use crate::mock::Mock;
use nlmmap_ring::abi::status;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, Debug)]
enum Op {
    /// So many messages, unless they are refused.
    Flood(Class, u32),
    /// Both readers poll, and read so many messages.
    Read(u32),
    Service(Context),
}

fn op() -> impl Strategy<Value = Op> {
    let context = prop_oneof![Just(Context::Wait), Just(Context::Send), Just(Context::Background)];
    prop_oneof![
        6 => (class(), 1u32..40).prop_map(|(c, n)| Op::Flood(c, n)),
        6 => (1u32..40).prop_map(Op::Read),
        2 => context.prop_map(Op::Service),
    ]
}

/// What one of the two has seen.
#[derive(Default)]
struct Tally {
    refused: u32,
    told: u32,
    /// A message to a group was lost since it was last told.
    untold: bool,
    taken: Vec<Vec<u8>>,
    got: Vec<Vec<u8>>,
}

impl Tally {
    fn tell(&mut self) {
        assert!(self.untold, "told of a loss that did not happen");
        self.untold = false;
        self.told += 1;
    }
}

struct Both {
    bench: Bench,
    plain: Mock,
    at: u32,
    seed: u32,
    len: usize,
    ring: Tally,
    bare: Tally,
    /// What each had refused when both were last empty.
    refused_before: u32,
    ring_refused_before: u32,
}

impl Both {
    fn new(geometry: Geometry, room: u32, len: usize) -> Both {
        let bench = Bench::new(Some(geometry), None, false);
        let plain = Mock::default();
        for mock in [&bench.mock, &plain] {
            mock.is_limited.set(true);
            mock.receive_room.set(room);
        }
        let (ring, bare) = (Tally::default(), Tally::default());
        Both { bench, plain, at: 0, seed: 0, len, ring, bare, refused_before: 0, ring_refused_before: 0 }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Flood(class, n) => (0..n).for_each(|_| self.send(class)),
            Op::Read(n) => {
                self.read_plain(n);
                self.read_ring(n);
            }
            Op::Service(context) => self.bench.service(context),
        }
        // Once the plain socket has lost messages the two have not the same before them, until both are empty again.
        if self.bare.refused == self.refused_before {
            assert_eq!(self.ring.refused, self.ring_refused_before, "refused, unlike by the plain socket");
        }
        let is_empty = |t: &Tally| t.got.len() == t.taken.len();
        if is_empty(&self.ring) && is_empty(&self.bare) {
            (self.refused_before, self.ring_refused_before) = (self.bare.refused, self.ring.refused);
        }
    }

    fn send(&mut self, class: Class) {
        self.seed += 1;
        let d = datagram(class, self.seed, self.len);
        for (mock, tally) in [(&self.bench.mock, &mut self.ring), (&self.plain, &mut self.bare)] {
            // What the kernel itself sends is lost aloud; a peer is refused, or waits.
            let taken =
                if matches!(class, Class::Peer(_)) { mock.arrive(d.clone()) } else { mock.multicast(d.clone()) };
            if taken {
                tally.taken.push(d.bytes.clone());
            } else {
                tally.refused += 1;
                tally.untold |= !matches!(class, Class::Peer(_));
            }
        }
    }

    fn read_plain(&mut self, n: u32) {
        if self.plain.faults.borrow_mut().pop_front().is_some() {
            self.bare.tell();
        }
        for _ in 0..n {
            let Some(d) = self.plain.queue.borrow_mut().pop_front() else { return };
            self.plain.wake();
            self.bare.got.push(d.bytes);
        }
    }

    fn read_ring(&mut self, n: u32) {
        for i in 0..n {
            if i == 0 || !self.ready() {
                self.bench.service(Context::Wait);
                if self.bench.poll() & 8 != 0 && self.bench.control().take_error() != 0 {
                    self.ring.tell();
                }
                if !self.ready() {
                    assert!(self.bench.mock.queue.borrow().is_empty(), "messages wait for a reader who finds none");
                    return;
                }
            }
            let len = word(self.bench.rx(), self.at, 1).load(Relaxed) as usize;
            let bytes = if status_of(self.bench.rx(), self.at) == status::VALID {
                crate::bench::payload(self.bench.rx(), self.at, len)
            } else {
                match self.bench.receive_whole(len) {
                    Ok(bytes) => bytes,
                    Err(_) => {
                        self.ring.tell();
                        self.bench.receive_whole(len).unwrap()
                    }
                }
            };
            self.ring.got.push(bytes);
            set_status(self.bench.rx(), self.at, status::UNUSED);
            self.at = (self.at + 1) % self.bench.rx().geometry().frame_nr();
        }
    }

    fn ready(&self) -> bool {
        matches!(status_of(self.bench.rx(), self.at), status::VALID | status::COPY)
    }

    fn finish(&mut self) {
        for _ in 0..3 {
            self.apply(Op::Read(u32::MAX));
        }
        for tally in [&self.ring, &self.bare] {
            assert!(tally.got == tally.taken, "{} of {} messages", tally.got.len(), tally.taken.len());
        }
    }
}

proptest! {
    #![proptest_config(crate::config(250))]

    #[test]
    fn a_ring_loses_and_tells_no_more(
        geometry in geometry(),
        room in 2304u32..40_000,
        len in 36usize..3000,
        ops in prop::collection::vec(op(), crate::moves(80)),
    ) {
        let mut both = Both::new(geometry, room, len);
        ops.into_iter().for_each(|op| both.apply(op));
        both.finish();
    }
}
