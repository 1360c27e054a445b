//! Engine and reference model side by side: after every move of either side, every word that a client sees is the same.
//!
//! Moves of the client are legal ones and any other: statuses of any value, headers overwritten, frames released out of order
//! or kept, `COPY` frames released without `recv`, `recv` without looking at frames.

use crate::bench::{Bench, geometry, payload, set_status, status_of, word};
use crate::message::{Class, class, datagram, size};
use crate::reference::Reference;
use nlmmap_ring::abi::status;
use nlmmap_ring::control::flag;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;
use nlmmap_ring::sys::{MSG_CTRUNC, MSG_PEEK, MSG_TRUNC};
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, Debug)]
enum Op {
    Arrive(Class, usize),
    Service(Context),
    /// Vectors, flags, room for ancillary data.
    Receive(Vec<usize>, u32, usize),
    TakeError,
    NoEnobufs(bool),
    /// Asks for credentials and group information.
    Ancillary(bool, bool),
    /// Releases so many frames at the client's own position.
    Release(u32),
    /// Keeps the frame at the client's position.
    Skip,
    ReleaseAt(u32),
    /// Writes one word of one header.
    Write(u32, usize, u32),
    /// A receive of the engine's is interrupted.
    Interrupted,
}

fn op() -> impl Strategy<Value = Op> {
    let context = prop_oneof![Just(Context::Wait), Just(Context::Send), Just(Context::Background)];
    let flags = prop_oneof![4 => Just(0), 1 => Just(MSG_PEEK), 1 => Just(MSG_TRUNC), 1 => Just(MSG_PEEK | MSG_TRUNC)];
    let vectors = prop_oneof![
        2 => Just(vec![128 << 10]),
        1 => prop::collection::vec(0usize..300, 0..4),
        1 => prop::collection::vec(0usize..9000, 1..3),
    ];
    prop_oneof![
        10 => (class(), size()).prop_map(|(c, n)| Op::Arrive(c, n)),
        6 => context.prop_map(Op::Service),
        4 => (vectors, flags, 0usize..64).prop_map(|(v, f, c)| Op::Receive(v, f, c)),
        1 => Just(Op::TakeError),
        1 => any::<bool>().prop_map(Op::NoEnobufs),
        1 => any::<(bool, bool)>().prop_map(|(c, g)| Op::Ancillary(c, g)),
        6 => (1u32..6).prop_map(Op::Release),
        1 => Just(Op::Skip),
        1 => any::<u32>().prop_map(Op::ReleaseAt),
        1 => (any::<u32>(), 0usize..6, prop_oneof![0u32..7, any::<u32>()]).prop_map(|(p, i, v)| Op::Write(p, i, v)),
        1 => Just(Op::Interrupted),
    ]
}

struct Both {
    bench: Bench,
    model: Reference,
    /// The client's position.
    at: u32,
    seed: u32,
    /// Bytes of large messages under way: what waits in the store is kept below the limit at which the engine pauses.
    large: usize,
    is_legal: bool,
}

impl Both {
    fn new(geometry: Geometry, strict: bool) -> Both {
        let bench = Bench::new(Some(geometry), None, strict);
        Both { bench, model: Reference::new(&geometry, strict), at: 0, seed: 0, large: 0, is_legal: true }
    }

    fn nr(&self) -> u32 {
        self.model.frames.len() as u32
    }

    /// The client writes a status.
    fn set(&mut self, pos: u32, value: u32) {
        set_status(self.bench.rx(), pos, value);
        self.model.frames[pos as usize].words[0] = value;
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Arrive(class, len) => {
                self.large += len;
                let len = if self.large > 700 << 10 { len % 300 } else { len };
                self.seed += 1;
                let d = datagram(class, self.seed, len);
                assert!(self.bench.mock.arrive(d.clone()));
                self.model.socket.push_back((class, d));
            }
            Op::Service(context) => {
                self.bench.service(context);
                self.model.service(context == Context::Wait);
            }
            Op::Receive(vectors, flags, room) => {
                // In default mode it is free to pump or not.
                self.settle();
                self.receive(&vectors, flags, room);
                self.settle();
            }
            Op::TakeError => {
                assert_eq!(self.bench.control().take_error(), self.model.error as i32);
                self.model.error = 0;
            }
            Op::NoEnobufs(on) => {
                self.bench.control().set(flag::NO_ENOBUFS, on);
                self.model.no_enobufs = on;
            }
            Op::Ancillary(creds, group) => {
                self.bench.control().set(flag::PASSCRED, creds);
                self.bench.control().set(flag::PKTINFO, group);
            }
            Op::Release(n) => {
                for _ in 0..n {
                    if !matches!(status_of(self.bench.rx(), self.at), status::VALID | status::COPY) {
                        break;
                    }
                    self.set(self.at, status::UNUSED);
                    self.at = (self.at + 1) % self.nr();
                }
            }
            Op::Skip => {
                if status_of(self.bench.rx(), self.at) == status::VALID {
                    self.set(self.at, status::SKIP);
                    self.at = (self.at + 1) % self.nr();
                }
            }
            Op::ReleaseAt(pos) => self.set(pos % self.nr(), status::UNUSED),
            Op::Write(pos, index, value) => {
                let pos = pos % self.nr();
                self.is_legal = false;
                word(self.bench.rx(), pos, index).store(value, Relaxed);
                self.model.frames[pos as usize].words[index] = value;
            }
            Op::Interrupted => self.bench.mock.faults.borrow_mut().push_back(Errno::INTR),
        }
        self.compare();
    }

    fn settle(&mut self) {
        if !self.model.strict {
            self.bench.service(Context::Send);
            self.model.service(false);
        }
    }

    fn receive(&mut self, vectors: &[usize], flags: u32, room: usize) {
        let answer = self.bench.receive(vectors, flags, room);
        self.model.service(false);
        if self.model.error != 0 {
            assert_eq!(answer, Err(Errno::NOBUFS));
            self.model.error = 0;
            return;
        }
        let Some(d) = self.model.copies.front().cloned() else {
            assert_eq!(answer, Err(Errno::AGAIN));
            self.model.drained();
            return;
        };
        let got = answer.unwrap();
        let copied = d.bytes.len().min(vectors.iter().sum());
        assert_eq!(got.len, if flags & MSG_TRUNC != 0 { d.bytes.len() } else { copied });
        assert_eq!(got.bytes, d.bytes[..copied]);
        assert_eq!(got.flags & MSG_TRUNC != 0, copied < d.bytes.len());
        let groups = if (1..=32).contains(&d.group) { 1 << (d.group - 1) } else { 0 };
        assert_eq!((got.portid, got.groups), (d.portid, groups));
        self.ancillary(&got.control, got.flags & MSG_CTRUNC != 0, room, d.group, d.creds);
        if flags & MSG_PEEK == 0 {
            self.model.copies.pop_front();
            self.model.service(true);
        }
    }

    /// `put_cmsg`, as often as the client asked.
    fn ancillary(&self, got: &[u8], cut: bool, room: usize, group: u32, creds: [u32; 3]) {
        let (mut want, mut want_cut) = (Vec::new(), false);
        let asked = [(flag::PKTINFO, 270u32, 3u32, vec![group]), (flag::PASSCRED, 1, 2, creds.to_vec())];
        for (_, level, kind, words) in asked.into_iter().filter(|a| self.bench.control().has(a.0)) {
            if room < want.len() + 16 {
                want_cut = true;
                continue;
            }
            let whole = 16 + words.len() * 4;
            let len = whole.min(room - want.len());
            want_cut |= len < whole;
            let from = want.len();
            want.extend((len as u64).to_ne_bytes());
            want.extend(level.to_ne_bytes());
            want.extend(kind.to_ne_bytes());
            words.iter().for_each(|w| want.extend(w.to_ne_bytes()));
            want.truncate(from + len);
            want.resize(want.len().next_multiple_of(8).min(room), 0);
        }
        assert_eq!((got, cut), (&want[..], want_cut));
    }

    fn compare(&self) {
        let (ring, c) = (self.bench.rx(), self.bench.control());
        for (pos, frame) in (0..).zip(&self.model.frames) {
            let words: [u32; 6] = std::array::from_fn(|i| word(ring, pos, i).load(Relaxed));
            assert_eq!(words, frame.words, "frame {pos}");
            if words[0] == status::VALID && self.is_legal {
                assert_eq!(payload(ring, pos, frame.payload.len()), frame.payload, "payload of frame {pos}");
            }
        }
        assert_eq!(c.rx_head.load(Relaxed) as usize, self.model.head, "the head");
        assert_eq!(c.copies.load(Relaxed) as usize, self.model.copies.len(), "messages for recv");
        assert_eq!(c.error.load(Relaxed), self.model.error, "the pending error");
        if self.is_legal {
            assert_eq!(self.bench.poll() & 1 != 0, self.model.is_readable(), "POLLIN");
        }
        assert_eq!(self.bench.poll() & !0x49, 0x304, "always writable");
    }

    fn finish(&self) {
        self.bench.check_no_leak();
        assert_eq!(self.bench.control().counters.overruns.load(Relaxed), self.model.lost, "lost messages");
    }
}

fn run(geometry: Geometry, strict: bool, ops: Vec<Op>) {
    let mut both = Both::new(geometry, strict);
    for op in ops {
        both.apply(op);
    }
    both.finish();
}

/// One run, by the choices of a fuzzer.
#[cfg(fuzzing)]
pub fn fuzz(source: &mut crate::Source) {
    if let Some((geometry, strict)) = source.one(&(geometry(), any::<bool>())) {
        run(geometry, strict, source.all(op));
    }
}

proptest! {
    #![proptest_config(crate::config(250))]

    #[test]
    fn strict_mode_is_the_kernel_of_4_5(geometry in geometry(), ops in prop::collection::vec(op(), crate::moves(120))) {
        run(geometry, true, ops);
    }

    #[test]
    fn default_mode_only_waits_and_fills(geometry in geometry(), ops in prop::collection::vec(op(), crate::moves(120))) {
        run(geometry, false, ops);
    }
}
