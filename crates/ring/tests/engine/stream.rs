//! A client that keeps the rules loses nothing, sees nothing twice, and everything in order: single messages, dumps of any
//! size through any ring, errors of the kernel's on the way, doorbells rung for unseen waiters.
//!
//! Dump parts and all other messages are two lanes: a dump goes on at the reader's pace, and what is queued behind it may pass
//! (compat.md). In strict mode a full ring loses messages, as the kernel did; then the lane has gaps, and they are counted.

use crate::bench::{Bench, geometry, payload, set_status, status_of, word};
use crate::dump::Dump;
use crate::message::{Class, class, datagram, header, size};
use nlmmap_ring::abi::{nl_mmap_req, status};
use nlmmap_ring::control::flag;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;
use nlmmap_ring::tx;
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, Debug)]
enum Op {
    Arrive(Class, usize),
    /// Lengths of the messages; whether the engine saw the request.
    Dump(Vec<usize>, bool),
    Service(Context),
    /// The client polls and takes so many frames, if told to.
    Poll(u32),
    /// It keeps the frame at its position, having read it.
    Keep,
    /// Somebody releases the frames that were kept.
    LetGo,
    Fault(Errno),
    /// Somebody waits where the engine does not see it.
    Unseen(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let context = prop_oneof![Just(Context::Wait), Just(Context::Send), Just(Context::Background)];
    let lens = prop_oneof![
        3 => prop::collection::vec(20usize..200, 0..80),
        2 => prop::collection::vec(20usize..3000, 0..40),
        1 => prop::collection::vec(100usize..130, many()),
    ];
    prop_oneof![
        8 => (class(), size()).prop_map(|(c, n)| Op::Arrive(c, n)),
        2 => (lens, any::<bool>()).prop_map(|(l, seen)| Op::Dump(l, seen)),
        6 => context.prop_map(Op::Service),
        6 => (1u32..20).prop_map(Op::Poll),
        1 => Just(Op::Keep),
        1 => Just(Op::LetGo),
        1 => prop_oneof![Just(Errno::INTR), Just(Errno::NOBUFS)].prop_map(Op::Fault),
        1 => any::<bool>().prop_map(Op::Unseen),
    ]
}

/// Parts of a dump that is larger than most rings.
fn many() -> std::ops::Range<usize> {
    if cfg!(miri) { 100..200 } else { 300..1500 }
}

const PORT: u32 = 4711;

struct Client {
    bench: Bench,
    strict: bool,
    at: u32,
    kept: Vec<u32>,
    has_kept: bool,
    seed: u32,
    /// What must arrive.
    sent: Vec<Vec<u8>>,
    dumped: Vec<u8>,
    /// What has.
    got: Vec<Vec<u8>>,
    pieces: Vec<u8>,
    /// Errors of the kernel's that the client must hear of at least once.
    faults: u32,
    errors: u32,
}

/// Whether these bytes are a chain of dump messages; no other message here looks like one.
fn is_part(bytes: &[u8]) -> bool {
    bytes.len() >= 16 && bytes[6..8] == [2, 0] && (bytes[4..6] == [24, 0] || bytes[4..6] == [3, 0])
}

impl Client {
    fn new(geometry: Geometry, strict: bool) -> Client {
        let bench = Bench::new(Some(geometry), None, strict);
        bench.bind(PORT);
        bench.control().set(flag::NO_ENOBUFS, true);
        Client {
            bench,
            strict,
            at: 0,
            kept: Vec::new(),
            has_kept: false,
            seed: 0,
            sent: Vec::new(),
            dumped: Vec::new(),
            got: Vec::new(),
            pieces: Vec::new(),
            faults: 0,
            errors: 0,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Arrive(class, len) => {
                self.seed += 1;
                let d = datagram(class, self.seed, len);
                if self.bench.mock.arrive(d.clone()) {
                    self.sent.push(d.bytes);
                }
            }
            Op::Dump(lens, seen) => {
                if self.bench.mock.dump.borrow().is_none() {
                    let dump = Dump::new(&lens);
                    self.dumped.extend(dump.whole());
                    if seen {
                        tx::note_request(self.bench.control(), &header(20, 26, 0x301));
                    }
                    self.bench.mock.start_dump(dump);
                }
            }
            Op::Service(context) => self.bench.service(context),
            Op::Poll(most) => {
                self.poll(most);
            }
            Op::Keep => {
                // In strict mode a message that is lost moves the head over kept frames, and no client can know.
                if !self.strict && status_of(self.bench.rx(), self.at) == status::VALID {
                    self.take(status::SKIP);
                }
            }
            Op::LetGo => self.let_go(),
            Op::Fault(error) => {
                self.faults += u32::from(error == Errno::NOBUFS);
                self.bench.mock.faults.borrow_mut().push_back(error);
            }
            Op::Unseen(on) => self.bench.endpoint.unseen.store(on, Relaxed),
        }
    }

    /// Releases kept frames. Not those that the kernel has already passed over: it would fill them again before the client has
    /// read what lies behind them. So it was with every kernel.
    fn let_go(&mut self) {
        self.step();
        let (ring, nr, at) = (self.bench.rx(), self.bench.rx().geometry().frame_nr(), self.at);
        let is_ready = |pos: u32| matches!(status_of(ring, pos), status::VALID | status::COPY);
        let last = (0..nr).rev().find(|n| is_ready((at + n) % nr));
        self.kept.retain(|pos| {
            let is_ahead = last.is_none_or(|last| (pos + nr - at) % nr > last);
            if is_ahead {
                set_status(ring, *pos, status::UNUSED);
            }
            !is_ahead
        });
    }

    /// Reads the frame at the client's position and leaves it with this status.
    fn take(&mut self, leave: u32) {
        let ring = self.bench.rx();
        let len = word(ring, self.at, 1).load(Relaxed) as usize;
        let bytes = if status_of(ring, self.at) == status::VALID {
            assert!(len <= ring.geometry().room() as usize);
            payload(ring, self.at, len)
        } else {
            loop {
                match self.bench.receive_whole(len) {
                    Err(Errno::NOBUFS) => {
                        self.errors += 1;
                        assert!(self.errors < 10_000, "an error without end");
                    }
                    other => break other.unwrap(),
                }
            }
        };
        if is_part(&bytes) {
            assert_border(&bytes);
            self.pieces.extend(bytes);
        } else {
            self.got.push(bytes);
        }
        set_status(self.bench.rx(), self.at, leave);
        if leave == status::SKIP {
            self.kept.push(self.at);
            self.has_kept = true;
        }
        self.at = (self.at + 1) % self.bench.rx().geometry().frame_nr();
    }

    /// Polls, and takes up to `most` frames. Returns how many it took.
    fn poll(&mut self, most: u32) -> u32 {
        self.bench.service(Context::Wait);
        self.check_socket();
        let events = self.bench.poll();
        if events & 8 != 0 {
            self.errors += u32::from(self.bench.control().take_error() != 0);
        }
        assert_eq!(events & 1 != 0, self.step(), "whether poll tells that a frame is ready");
        let mut n = 0;
        while n < most && self.step() {
            self.take(status::UNUSED);
            n += 1;
        }
        n
    }

    /// Steps to the next frame that is ready, over frames that are or were kept, if there is one.
    fn step(&mut self) -> bool {
        let (ring, nr) = (self.bench.rx(), self.bench.rx().geometry().frame_nr());
        let ahead = (0..nr).map(|n| (self.at + n) % nr);
        let ready = ahead.clone().find(|pos| matches!(status_of(ring, *pos), status::VALID | status::COPY));
        let Some(pos) = ready else { return false };
        if pos != self.at {
            assert!(self.has_kept, "the frame at the head is passed over");
        }
        self.at = pos;
        true
    }

    /// Whoever waits on the bare socket, unseen, must find it readable while there is something to read, and only then.
    fn check_socket(&self) {
        let c = self.bench.control();
        let readable = self.bench.poll() & 1 != 0;
        if self.bench.endpoint.unseen.load(Relaxed) && readable {
            assert!(self.bench.mock.is_readable() || c.has(flag::NO_BELL), "an unseen waiter sleeps beside a message");
        }
        if !readable && !c.has(flag::BLOCKED) && c.unplaced.load(Relaxed) == 0 {
            assert!(!self.bench.mock.is_readable(), "an unseen waiter wakes for nothing");
        }
    }

    /// Reads to the end.
    fn drain(&mut self) {
        let mut idle = 0;
        let mut rounds = 0;
        while idle < 3 {
            self.let_go();
            // A client that keeps frames steps over them.
            idle = if self.poll(u32::MAX) == 0 { idle + 1 } else { 0 };
            rounds += 1;
            assert!(rounds < 100_000, "the stream does not end");
        }
    }

    fn finish(&mut self) {
        self.drain();
        assert!(self.bench.mock.dump.borrow().is_none(), "the dump has stopped");
        assert!(self.bench.mock.queue.borrow().is_empty(), "messages are left in the socket");
        assert_eq!(self.pieces.len(), self.dumped.len(), "bytes of dumps");
        assert!(self.pieces == self.dumped, "dumps are not what was dumped");
        let overruns = self.bench.control().counters.overruns.load(Relaxed);
        if self.strict {
            let mut left = self.sent.iter();
            for bytes in &self.got {
                assert!(left.any(|sent| sent == bytes), "a message out of order, twice or never sent");
            }
            let lost = (self.sent.len() - self.got.len()) as u64;
            assert_eq!(lost + u64::from(self.faults), overruns, "messages lost without a count");
        } else {
            let same = self.got.iter().zip(&self.sent).take_while(|(a, b)| a == b).count();
            let (got, sent) = (self.got.len(), self.sent.len());
            assert!(got == sent && same == got, "{got} of {sent} messages, in order up to {same}");
        }
        assert!(self.faults == 0 || self.errors > 0, "an error of the kernel's was kept from the client");
        assert_eq!(self.bench.control().copies.load(Relaxed), 0);
        self.bench.check();
        self.bench.check_no_leak();
    }
}

/// A piece is whole messages.
fn assert_border(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let len = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert!(len >= 16 && len <= bytes.len(), "cut inside a message");
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
}

fn run(geometry: Geometry, strict: bool, ops: Vec<Op>) {
    let mut client = Client::new(geometry, strict);
    for op in ops {
        client.apply(op);
    }
    client.finish();
}

/// One run, by the choices of a fuzzer.
#[cfg(fuzzing)]
pub fn fuzz(source: &mut crate::Source) {
    if let Some((geometry, strict)) = source.one(&(geometry(), any::<bool>())) {
        run(geometry, strict, source.all(|| prop_oneof![op(), dump_op()]));
    }
}

proptest! {
    #![proptest_config(crate::config(120))]

    #[test]
    fn default_mode_loses_nothing(geometry in geometry(), ops in prop::collection::vec(op(), crate::moves(100))) {
        run(geometry, false, ops);
    }

    #[test]
    fn strict_mode_counts_what_it_loses(geometry in geometry(), ops in prop::collection::vec(op(), crate::moves(100))) {
        run(geometry, true, ops);
    }
}

/// What makes dumps begin, wait and end close to each other.
fn dump_op() -> impl Strategy<Value = Op> {
    let lens = prop_oneof![prop::collection::vec(20usize..200, 0..80), prop::collection::vec(100usize..130, many())];
    prop_oneof![
        4 => size().prop_map(|len| Op::Arrive(Class::Ack, len)),
        4 => (lens, any::<bool>()).prop_map(|(l, seen)| Op::Dump(l, seen)),
        3 => prop_oneof![Just(Context::Wait), Just(Context::Send)].prop_map(Op::Service),
        5 => (1u32..20).prop_map(Op::Poll),
        1 => Just(Op::Keep),
        1 => Just(Op::LetGo),
        1 => any::<bool>().prop_map(Op::Unseen),
    ]
}

proptest! {
    #![proptest_config(crate::config(120))]

    #[test]
    fn dumps_follow_each_other(frames in 1u32..5, ops in prop::collection::vec(dump_op(), crate::moves(60))) {
        let req = nl_mmap_req { nm_block_size: 65536, nm_block_nr: frames, nm_frame_size: 65536, nm_frame_nr: frames };
        run(Geometry::check(&req, 4096, 1 << 20).unwrap(), false, ops);
    }
}

/// Parts larger than most frames, in frames that hold them: begun behind a doorbell, one by one, the dump went on in batches, past
/// the parts that were set aside for a sender.
#[test]
fn a_dump_goes_on_as_it_began() {
    let req = nl_mmap_req { nm_block_size: 65536, nm_block_nr: 2, nm_frame_size: 65536, nm_frame_nr: 2 };
    let geometry = Geometry::check(&req, 4096, 1 << 20).unwrap();
    let parts = if cfg!(miri) { 300 } else { 1200 };
    let lens: Vec<usize> = (0..parts).map(|i| 100 + i % 30).collect();
    let ops = vec![
        Op::Unseen(true),
        Op::Arrive(Class::Ack, 0),
        Op::Service(Context::Wait),
        Op::Dump(lens, false),
        Op::Keep,
        Op::Poll(9),
        Op::Service(Context::Send),
        Op::Poll(19),
        Op::Service(Context::Send),
    ];
    run(geometry, false, ops);
}

/// At a full ring an interrupted look at the doorbell left it in the socket, which stayed readable for nothing.
#[test]
fn a_doorbell_is_pulled_through_an_interruption() {
    let req = nl_mmap_req { nm_block_size: 4096, nm_block_nr: 1, nm_frame_size: 4096, nm_frame_nr: 1 };
    let ops = vec![
        Op::Unseen(true),
        Op::Arrive(Class::Ack, 0),
        Op::Service(Context::Wait),
        Op::Keep,
        Op::Fault(Errno::INTR),
        Op::Poll(1),
    ];
    run(Geometry::check(&req, 4096, 1 << 20).unwrap(), false, ops);
}
