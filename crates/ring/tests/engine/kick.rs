//! The transmit side: what leaves, in which order, and what a kick answers (`netlink_mmap_sendmsg`).
//!
//! Frames are filled at the client's position or anywhere, with lengths true or not; sends fail, would sleep, or are too large.
//! The fate of a message is bound to its bytes, as it is bound to the peer and not to how often the engine tries.

use crate::bench::{Bench, PID, compose, geometry, is_filled, set_status, status_of};
use crate::message::fill;
use crate::mock::{Outcome, Sent};
use nlmmap_ring::abi::status;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::sys::{MSG_DONTWAIT, SockaddrNl};
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, Debug)]
enum Op {
    /// The next frame: so much of its room, with this fate.
    Fill(f64, Outcome),
    /// Any frame.
    FillAt(u32, f64, Outcome),
    /// `nm_len` is not true.
    Lie(u32),
    /// Any frame, any status.
    Set(u32, u32),
    /// Port id and groups of the destination, whether it may sleep.
    Kick(Option<(u32, u32)>, bool),
    /// The next frame is taken out, into a buffer of this share of its room.
    Take(f64),
}

fn op() -> impl Strategy<Value = Op> {
    let outcome = || {
        prop_oneof![
            12 => Just(Outcome::Sent),
            1 => Just(Outcome::Sleeps),
            1 => Just(Outcome::TooLarge),
            1 => prop_oneof![Just(Errno::PERM), Just(Errno(111)), Just(Errno::NOBUFS)].prop_map(Outcome::Fails),
        ]
    };
    let to = prop_oneof![3 => Just(None), 1 => Just(Some((0, 0))), 1 => Just(Some((9, 0))), 1 => Just(Some((0, 4)))];
    prop_oneof![
        12 => (0.0f64..1.0, outcome()).prop_map(|(n, o)| Op::Fill(n, o)),
        1 => (any::<u32>(), 0.0f64..1.0, outcome()).prop_map(|(p, n, o)| Op::FillAt(p, n, o)),
        1 => prop_oneof![1u32..9, any::<u32>()].prop_map(Op::Lie),
        1 => (any::<u32>(), 0u32..6).prop_map(|(p, s)| Op::Set(p, s)),
        4 => (to, any::<bool>()).prop_map(|(t, s)| Op::Kick(t, s)),
        3 => prop_oneof![3 => Just(1.0), 1 => 0.0f64..1.0].prop_map(Op::Take),
    ]
}

#[derive(Clone, Default)]
struct Frame {
    status: u32,
    len: u32,
    bytes: Vec<u8>,
    fate: Option<Outcome>,
}

struct Client {
    bench: Bench,
    frames: Vec<Frame>,
    head: usize,
    at: u32,
    seed: u32,
    room: usize,
    sent: Vec<Sent>,
}

impl Client {
    fn new(geometry: Geometry) -> Client {
        let bench = Bench::new(None, Some(geometry), false);
        let frames = vec![Frame::default(); geometry.frame_nr() as usize];
        Client { bench, frames, head: 0, at: 0, seed: 0, room: geometry.room() as usize, sent: Vec::new() }
    }

    fn fill(&mut self, pos: u32, share: f64, fate: Outcome) {
        // Four bytes tell messages apart; smaller frames cannot have a fate of their own.
        let fate = if self.room < 4 { Outcome::Sent } else { fate };
        self.seed += 1;
        let len = if self.room < 4 { self.room } else { 4 + ((self.room - 4) as f64 * share * share) as usize };
        // As a netlink message's length it is none: what is one may travel to the kernel behind others.
        let bytes: Vec<u8> =
            (self.seed | 1 << 31).to_ne_bytes().into_iter().chain(fill(self.seed, len)).take(len).collect();
        compose(self.bench.tx(), pos, &bytes, len as u32);
        self.bench.mock.fates.borrow_mut().insert(bytes.clone(), fate);
        self.frames[pos as usize] = Frame { status: status::VALID, len: len as u32, bytes, fate: Some(fate) };
    }

    fn apply(&mut self, op: Op) {
        let nr = self.frames.len() as u32;
        match op {
            Op::Fill(share, fate) => {
                if status_of(self.bench.tx(), self.at) == status::UNUSED {
                    self.fill(self.at, share, fate);
                    self.at = (self.at + 1) % nr;
                }
            }
            Op::FillAt(pos, share, fate) => self.fill(pos % nr, share, fate),
            Op::Lie(by) => {
                let len = (self.room as u32).wrapping_add(by);
                compose(self.bench.tx(), self.at, &[], len);
                let frame = &mut self.frames[self.at as usize];
                (frame.status, frame.len) = (status::VALID, len);
                if len as usize <= self.room {
                    // It wrapped: an honest length after all, of whatever lies there, which has no fate.
                    set_status(self.bench.tx(), self.at, status::UNUSED);
                    let frame = &mut self.frames[self.at as usize];
                    (frame.status, frame.fate) = (status::UNUSED, None);
                }
            }
            Op::Set(pos, value) => {
                let frame = &mut self.frames[(pos % nr) as usize];
                // Only frames that were filled may be made VALID: the rest would be sent with bytes that have no fate.
                if value != status::VALID || frame.fate.is_some() && frame.len as usize <= self.room {
                    frame.status = value;
                    set_status(self.bench.tx(), pos % nr, value);
                }
            }
            Op::Kick(to, sleeps) => self.kick(to, sleeps),
            Op::Take(share) => self.take(share),
        }
        self.compare();
    }

    fn kick(&mut self, to: Option<(u32, u32)>, sleeps: bool) {
        let name = to.map(|(portid, groups)| SockaddrNl { family: 16, pad: 0, portid, groups });
        let answer = self.bench.kick(name, if sleeps { 0 } else { MSG_DONTWAIT });
        assert_eq!(answer, self.model(to, sleeps));
        // What failed has left the ring, and the client knows where the head is by that.
        self.at = self.head as u32;
    }

    /// As the first step of a kick, but for what becomes of the bytes.
    fn take(&mut self, share: f64) {
        let mut buffer = vec![0xee; (self.room as f64 * share) as usize];
        let answer = self.bench.endpoint.take_frame(PID, &mut buffer);
        let frame = &mut self.frames[self.head];
        let expected = match (frame.status, frame.len as usize) {
            (status::VALID, len) if len > self.room => Err(Errno::INVAL),
            (status::VALID, len) if len > buffer.len() => Err(Errno::MSGSIZE),
            (status::VALID, len) => {
                assert_eq!(buffer[..len], frame.bytes[..len]);
                Ok(Some(len))
            }
            _ => Ok(None),
        };
        assert_eq!(answer, expected);
        let taken = match answer {
            Ok(Some(len)) => len,
            Err(Errno::MSGSIZE) => 0,
            _ => return assert!(is_filled(&buffer, 0xee)),
        };
        assert!(is_filled(&buffer[taken..], 0xee), "written behind the message");
        frame.status = status::UNUSED;
        self.head = (self.head + 1) % self.frames.len();
        self.at = self.head as u32;
    }

    /// The kernel's own loop.
    fn model(&mut self, to: Option<(u32, u32)>, sleeps: bool) -> Result<usize> {
        let (mut total, nr) = (0, self.frames.len());
        for _ in 0..nr {
            let frame = &mut self.frames[self.head];
            if frame.status != status::VALID {
                break;
            }
            if frame.len as usize > self.room {
                return Err(Errno::INVAL);
            }
            frame.status = status::UNUSED;
            self.head = (self.head + 1) % nr;
            match frame.fate {
                Some(Outcome::Fails(error)) => return Err(error),
                Some(Outcome::Sleeps) if !sleeps => return Err(Errno::AGAIN),
                _ => {}
            }
            total += frame.len as usize;
            self.sent.push(Sent { bytes: frame.bytes.clone(), to });
        }
        Ok(total)
    }

    fn compare(&self) {
        for (pos, frame) in (0..).zip(&self.frames) {
            assert_eq!(status_of(self.bench.tx(), pos), frame.status, "frame {pos}");
        }
        assert_eq!(self.bench.control().tx_head.load(Relaxed) as usize, self.head);
        let sent = self.bench.mock.sent.borrow();
        let same = sent.iter().zip(&self.sent).take_while(|(a, b)| a == b).count();
        assert!(sent.len() == self.sent.len() && same == sent.len(), "{} sent, in order up to {same}", sent.len());
        assert!(self.bench.control().tx_lock.is_free());
    }
}

/// One run, by the choices of a fuzzer.
#[cfg(fuzzing)]
pub fn fuzz(source: &mut crate::Source) {
    if let Some(geometry) = source.one(&geometry()) {
        let mut client = Client::new(geometry);
        source.all(op).into_iter().for_each(|op| client.apply(op));
    }
}

proptest! {
    #![proptest_config(crate::config(300))]

    #[test]
    fn kicks_answer_as_the_kernel_did(geometry in geometry(), ops in prop::collection::vec(op(), crate::moves(150))) {
        let mut client = Client::new(geometry);
        for op in ops {
            client.apply(op);
        }
    }
}
