//! What somebody sees who looks at the real socket only, unseen (readiness.md, "What a raw look sees"): a frame that is there, at any
//! moment, between any two calls of a pump; and, woken by arrivals alone, every frame in the end.

use crate::bench::{Bench, set_status, status_of, word};
use crate::cases::ring;
use crate::dump::Dump;
use crate::message::{Class, datagram, header};
use nlmmap_ring::abi::{nl_mmap_req, status};
use nlmmap_ring::control::flag;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::Socket as _;
use nlmmap_ring::tx;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

/// What others do between two calls of a pump.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nothing,
    Arrive,
    /// The waiter, if it has been woken, takes so many frames, or all and sleeps.
    Take(u32),
}

#[derive(Clone, Debug)]
enum Op {
    Now(Meanwhile),
    Pump(Context, Vec<Meanwhile>),
}

/// A client that waits for edges by calls that no pump sees: it sleeps only where the next frame is not there.
struct World {
    bench: Box<Bench>,
    plan: RefCell<VecDeque<Meanwhile>>,
    at: Cell<u32>,
    sent: Cell<u32>,
    got: Cell<u32>,
    edges_seen: Cell<u64>,
    is_awake: Cell<bool>,
    /// Whether the queue may run empty: the kernel has lost something, and wants to see it so.
    may_drain: Cell<bool>,
}

/// A frame of the test is told by its length.
fn len_of(serial: u32, room: u32) -> usize {
    (36 + serial as usize * 7 % 280).min(room as usize)
}

impl World {
    fn new(geometry: Geometry, strict: bool) -> Box<World> {
        let bench = Box::new(Bench::new(Some(geometry), None, strict));
        bench.bind(4711);
        bench.endpoint.unseen.store(true, Relaxed);
        let world = Box::new(World {
            bench,
            plan: RefCell::default(),
            at: Cell::new(0),
            sent: Cell::new(0),
            got: Cell::new(0),
            edges_seen: Cell::new(0),
            is_awake: Cell::new(true),
            may_drain: Cell::new(false),
        });
        let this: *const World = &raw const *world;
        *world.bench.mock.meanwhile.borrow_mut() = Some(Box::new(move || {
            // SAFETY: the world outlives its mock, and is not moved.
            let world = unsafe { &*this };
            world.look();
            let next = world.plan.borrow_mut().pop_front();
            world.act(next.unwrap_or(Meanwhile::Nothing));
            world.look();
        }));
        world
    }

    fn room(&self) -> u32 {
        self.bench.rx().geometry().room()
    }

    /// A raw look: the head frame, then the socket.
    fn look(&self) {
        let ring = self.bench.rx();
        let any = (0..ring.geometry().frame_nr()).any(|pos| status_of(ring, pos) == status::VALID);
        let is_readable = self.bench.mock.is_readable();
        assert!(!any || is_readable || self.may_drain.get(), "the socket is silent beside a frame");
    }

    fn act(&self, what: Meanwhile) {
        match what {
            Meanwhile::Nothing => {}
            Meanwhile::Arrive => {
                let serial = self.sent.get();
                if self.bench.mock.arrive(datagram(Class::Ack, serial, len_of(serial, self.room()))) {
                    self.sent.set(serial + 1);
                }
            }
            Meanwhile::Take(most) => self.take(most),
        }
    }

    fn take(&self, most: u32) {
        let edges = self.bench.mock.edges.get();
        if edges != self.edges_seen.replace(edges) {
            self.is_awake.set(true);
        }
        let ring = self.bench.rx();
        for _ in 0..most {
            if !self.is_awake.get() {
                return;
            }
            let pos = self.at.get();
            if status_of(ring, pos) != status::VALID {
                self.is_awake.set(false);
                return;
            }
            let len = word(ring, pos, 1).load(Relaxed) as usize;
            assert_eq!(len, len_of(self.got.get(), self.room()), "message {}", self.got.get());
            set_status(ring, pos, status::UNUSED);
            self.got.set(self.got.get() + 1);
            self.at.set((pos + 1) % ring.geometry().frame_nr());
        }
    }

    fn pump(&self, context: Context) {
        self.bench.service(context);
        self.look();
    }

    /// All has arrived: pumps look again as the backing thread does, and the waiter is woken by edges alone.
    fn finish(&self) {
        self.plan.borrow_mut().clear();
        for _ in 0..4 * self.sent.get() + 16 {
            self.take(u32::MAX);
            self.pump(Context::Background);
        }
        assert_eq!(self.got.get(), self.sent.get(), "a waiter sleeps beside frames");
        assert!(!self.bench.mock.is_readable(), "the socket tells of nothing");
        assert_eq!(self.bench.control().bells.load(Relaxed), 0);
    }
}

fn run(geometry: Geometry, strict: bool, ops: Vec<Op>) {
    let world = World::new(geometry, strict);
    for op in ops {
        match op {
            Op::Now(what) => world.act(what),
            Op::Pump(context, plan) => {
                *world.plan.borrow_mut() = plan.into();
                world.pump(context);
            }
        }
    }
    world.finish();
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        4 => Just(Meanwhile::Nothing),
        3 => Just(Meanwhile::Arrive),
        2 => (1u32..4).prop_map(Meanwhile::Take),
        1 => Just(Meanwhile::Take(u32::MAX)),
    ]
}

/// Rings whose frames take each message.
fn roomy() -> impl Strategy<Value = Geometry> {
    let single = nl_mmap_req { nm_block_size: 4096, nm_block_nr: 1, nm_frame_size: 4096, nm_frame_nr: 1 };
    let large = nl_mmap_req { nm_block_size: 65536, nm_block_nr: 3, nm_frame_size: 65536, nm_frame_nr: 3 };
    let of = |req| Just(Geometry::check(&req, 4096, 1 << 20).unwrap());
    prop_oneof![Just(ring(8)), Just(ring(64)), of(single), of(large)]
}

fn op() -> impl Strategy<Value = Op> {
    let context = prop_oneof![4 => Just(Context::Background), 1 => Just(Context::Send), 1 => Just(Context::Wait)];
    prop_oneof![
        3 => meanwhile().prop_map(Op::Now),
        2 => (context, prop::collection::vec(meanwhile(), 0..20)).prop_map(|(c, plan)| Op::Pump(c, plan)),
    ]
}

proptest! {
    #![proptest_config(crate::config(400))]

    #[test]
    fn a_raw_look_sees_each_frame(geometry in roomy(), ops in prop::collection::vec(op(), crate::moves(60))) {
        run(geometry, false, ops);
    }

    #[test]
    fn so_it_does_in_strict_mode(ops in prop::collection::vec(op(), crate::moves(60))) {
        // What 4.5 loses at a full ring is lost there: this one has room for all.
        run(ring(1024), true, ops);
    }
}

/// A single message to an unseen waiter: four calls, and two for its doorbell's end.
#[test]
fn a_message_costs_four_calls() {
    let world = World::new(ring(8), false);
    let calls = || world.bench.mock.calls.get();
    for _ in 0..3 {
        world.act(Meanwhile::Arrive);
        let before = calls();
        world.pump(Context::Background);
        assert_eq!(calls() - before, 3, "a look, a doorbell, a receive (and one question for what is left)");
        world.take(1);
        let before = calls();
        world.pump(Context::Background);
        assert_eq!(calls() - before, 3, "the doorbell seen and taken, and a look for more");
    }
}

/// What waits behind frames that are held comes in batches.
#[test]
fn a_burst_comes_in_batches() {
    let world = World::new(ring(64), false);
    for _ in 0..41 {
        world.act(Meanwhile::Arrive);
    }
    let before = world.bench.mock.calls.get();
    world.pump(Context::Background);
    let calls = world.bench.mock.calls.get() - before;
    assert!(calls <= 16, "{calls} calls for 41 messages");
}

/// The first message cannot be received though it was looked at: it is in the ring once.
#[test]
fn a_message_that_cannot_be_taken_is_not_there_twice() {
    for error in [Errno::INTR, Errno::NOMEM, Errno::INVAL] {
        let world = World::new(ring(8), false);
        world.act(Meanwhile::Arrive);
        let this = &raw const *world;
        let nr = Cell::new(0);
        *world.bench.mock.meanwhile.borrow_mut() = Some(Box::new(move || {
            nr.set(nr.get() + 1);
            if nr.get() == 3 {
                // SAFETY: the world outlives its mock.
                unsafe { &*this }.bench.mock.faults.borrow_mut().push_back(error);
            }
        }));
        world.bench.service(Context::Background);
        assert_eq!(world.bench.control().has(flag::PLACED), error == Errno::INVAL);
        *world.bench.mock.meanwhile.borrow_mut() = None;
        world.act(Meanwhile::Arrive);
        world.bench.service(Context::Background);
        let ring = world.bench.rx();
        assert_eq!([0, 1, 2].map(|pos| status_of(ring, pos)), [status::VALID, status::VALID, status::UNUSED]);
        assert_eq!([0, 1].map(|pos| word(ring, pos, 1).load(Relaxed) as usize), [0, 1].map(|n| len_of(n, 512)));
    }
}

/// A socket that has lost something takes nothing more before it was seen empty: a doorbell, here the one that filled it, must not
/// keep it from that.
#[test]
fn a_socket_that_has_lost_something_is_drained() {
    let world = World::new(ring(64), false);
    world.may_drain.set(true);
    world.act(Meanwhile::Arrive);
    world.pump(Context::Background);
    assert!(world.bench.control().has(flag::BELL));
    (0..5).for_each(|_| world.act(Meanwhile::Arrive));
    let mock = &world.bench.mock;
    mock.receive_room.set(mock.queued().unwrap());
    mock.is_limited.set(true);
    let this = &raw const *world;
    *mock.meanwhile.borrow_mut() = Some(Box::new(move || {
        // SAFETY: the world outlives its mock.
        let mock = unsafe { &(*this).bench.mock };
        if !mock.is_congested.get() && mock.queued().unwrap() > mock.receive_room.get() {
            assert!(!mock.multicast(datagram(Class::Event(3), 9, 40)));
        }
    }));
    world.bench.service(Context::Background);
    assert_eq!(world.bench.control().take_error(), 105);
    assert!(!mock.is_congested.get(), "nothing comes any more");
    assert!(mock.is_readable() && world.bench.control().has(flag::BELL));
    *mock.meanwhile.borrow_mut() = None;
    world.finish();
}

/// Parts of dumps, which come one by one.
#[test]
fn a_raw_look_sees_each_part_of_a_dump() {
    for strict in [false, true] {
        for release in [1, 3, 8] {
            let world = World::new(ring(8), strict);
            let ring = world.bench.rx();
            for lens in [&[100, 60][..], &[300; 7], &[400; 40], &[40; 90]] {
                tx::note_request(world.bench.control(), &header(20, 26, 0x301));
                world.bench.mock.start_dump(Dump::new(lens));
                world.pump(Context::Send);
                for round in 0..1000 {
                    for pos in (0..8).filter(|pos| status_of(ring, *pos) == status::COPY) {
                        world.bench.receive_whole(word(ring, pos, 1).load(Relaxed) as usize).unwrap();
                        set_status(ring, pos, status::UNUSED);
                    }
                    let held = (0..8).map(|n| (round + n) % 8).filter(|pos| status_of(ring, *pos) == status::VALID);
                    held.take(release).for_each(|pos| set_status(ring, pos, status::UNUSED));
                    world.pump(if round % 2 == 0 { Context::Background } else { Context::Wait });
                }
                assert!(world.bench.mock.dump.borrow().is_none() && world.bench.mock.queue.borrow().is_empty());
                assert_eq!(world.bench.control().bells.load(Relaxed), 0);
            }
        }
    }
}
