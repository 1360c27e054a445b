//! Rings that are filled beyond what was asked for.

use std::sync::atomic::AtomicU32;

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use nlmmap_ring::abi::status;
use nlmmap_ring::sys::SockaddrNl;

use super::*;
use crate::serve::socket::Socket;

const FRAME: usize = 512;

/// A receive ring on `NETLINK_USERSOCK`, as its client has it, and who sends to it.
struct Stream {
    ours: Ours,
    frames: u32,
    sender: Socket,
    to: SockaddrNl,
}

impl Stream {
    fn new(bench: &mut Bench, handle: u64, frames: u32) -> Stream {
        let (shared, memory) = (Shared::new().unwrap(), memory::new().unwrap());
        let (raw, usersock) = (libc::SOCK_RAW as u32, libc::NETLINK_USERSOCK as u32);
        let kind = abi::Socket { kind: raw, protocol: usersock };
        let made = bench.say(op::SOCKET, handle, 0, abi::bytes(&kind), &[shared.memory().as_fd()]);
        let name = [libc::AF_NETLINK as u32, 0, 0];
        let name: Vec<u8> = name.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let bound = bench.say(op::IOCTL, handle, abi::BIND.into(), &name, &[]);
        let ring =
            nl_mmap_req { nm_block_size: 4096, nm_block_nr: frames / 8, nm_frame_size: 512, nm_frame_nr: frames };
        let set = bench.say(op::IOCTL, handle, abi::RX_RING.into(), abi::bytes(&ring), &[memory.as_fd()]);
        bench.engine.step();
        assert!(bench.answered(made) && bench.answered(bound) && bench.answered(set));
        let socket = bench.engine.opens[&handle].socket();
        setsockopt(socket.fd(), RcvBufForce, &(64 << 20)).unwrap();
        let portid = socket.name().unwrap().portid;
        let ring = MmapOptions::new().len(frames as usize * FRAME).map_raw(&memory).unwrap();
        Stream {
            ours: Ours { handle, shared, ring },
            frames,
            sender: Socket::new(raw, usersock, 0).unwrap(),
            to: SockaddrNl { family: libc::AF_NETLINK as u16, portid, ..Default::default() },
        }
    }

    fn send(&self, messages: u32) {
        (0..messages).for_each(|_| assert!(self.sender.send(Some(self.to), &[0; 64], None).is_ok()));
    }

    fn status(&self, frame: u32) -> &AtomicU32 {
        // SAFETY: the frame lies in the ring, which stays mapped; its first word is its status.
        unsafe { AtomicU32::from_ptr(self.ours.ring.as_mut_ptr().add(frame as usize * FRAME).cast()) }
    }

    fn valid(&self) -> Vec<u32> {
        (0..self.frames).filter(|frame| self.status(*frame).load(Ordering::Acquire) == status::VALID).collect()
    }

    /// Goes through the ring. How many there were.
    fn walk(&self) -> u32 {
        let valid = self.valid();
        valid.iter().for_each(|frame| self.status(*frame).store(status::UNUSED, Ordering::Release));
        valid.len() as u32
    }

    /// Asks, and has the answer within one round of requests: whatever is taken later is not for this question.
    fn ask(&self, bench: &mut Bench) {
        let asked = bench.say(op::POLL, self.ours.handle, 0, &[], &[]);
        bench.engine.wait();
        assert!(bench.answered(asked));
    }
}

#[test]
fn a_full_ring_that_was_gone_through_is_filled_before_anybody_asks() {
    let mut bench = Bench::new();
    let stream = Stream::new(&mut bench, 1, 8);
    stream.send(16);
    // (On a busy machine its time may come meanwhile: then once more.)
    let is_filled_ahead = (0..10).any(|_| {
        // The longer it stands full, the later its time comes; and its client, who asks, is at work.
        let start = Instant::now();
        while bench.engine.opens[&1].nap_until.is_none_or(|due| due < Instant::now() + Duration::from_millis(300)) {
            let asked = bench.say(op::POLL, 1, 0, &[], &[]);
            assert!(bench.answers_within(asked, 20));
            bench.engine.step();
            assert!(start.elapsed() < Duration::from_secs(20), "it is looked at less and less");
        }
        let asked = bench.say(op::POLL, 1, 0, &[], &[]);
        assert!(bench.answers_within(asked, 20));
        assert_eq!(stream.valid().len(), 8);
        assert!(bench.engine.opens[&1].attended != 0 && stream.ours.shared.control().waits.is_attended());
        let due = bench.engine.opens[&1].nap_until.unwrap();
        stream.send(8);
        stream.walk();
        for _ in 0..3 {
            bench.engine.step();
        }
        assert_eq!(stream.valid().len(), 8);
        Instant::now() < due
    });
    assert!(is_filled_ahead, "not before its time");
    // Nobody asks any more: it is left, and has its times as ever.
    let start = Instant::now();
    while bench.engine.opens[&1].attended != 0 {
        bench.engine.step();
        assert!(start.elapsed() < Duration::from_secs(20), "it is never left");
    }
    assert!(!stream.ours.shared.control().waits.is_attended() && bench.engine.opens[&1].nap_until.is_some());
    assert_eq!(bench.engine.ahead.len(), 0);
}

#[test]
fn who_comes_back_at_once_is_answered_with_more_than_a_slice() {
    const FRAMES: u32 = 2048;
    let (slice, mut bench) = (1..300, Bench::new());
    let (stream, other) = (Stream::new(&mut bench, 1, FRAMES), Stream::new(&mut bench, 2, FRAMES));
    stream.send(2 * FRAMES);
    stream.ask(&mut bench);
    assert!(slice.contains(&stream.walk()), "who has never asked");
    // (On a busy machine who has just asked is not at work any more: then once more.)
    let is_more = (0..100).any(|_| {
        stream.send(1024);
        stream.ask(&mut bench);
        stream.walk();
        stream.ask(&mut bench);
        stream.walk() > slice.end
    });
    assert!(is_more);
    for why in ["not for long", "not through all of it", "another one asks", "another one has something"] {
        stream.send(2 * FRAMES);
        stream.ask(&mut bench);
        stream.walk();
        let mut before = 0;
        match why {
            "not for long" => std::thread::sleep(Duration::from_millis(2)),
            "not through all of it" => {
                stream.ask(&mut bench);
                before = stream.valid().len() as u32;
            }
            "another one asks" => {}
            _ => other.send(1),
        }
        let asked = bench.say(op::POLL, 1, 0, &[], &[]);
        if why == "another one asks" {
            bench.say(op::POLL, 2, 0, &[], &[]);
        }
        bench.engine.wait();
        assert!(bench.answered(asked));
        assert!(slice.contains(&(stream.walk() - before)), "{why}");
    }
}

/// As if more were to come: the worker looked again and again until its moment was over.
#[test]
fn nothing_more_comes_of_a_ring_that_its_client_keeps() {
    let mut bench = Bench::new();
    let stream = Stream::new(&mut bench, 1, 64);
    (0..stream.frames).for_each(|frame| stream.status(frame).store(status::SKIP, Ordering::Release));
    stream.ask(&mut bench);
    let open = bench.engine.opens.get_mut(&1).unwrap();
    assert!(open.has_more() && !open.take_more());
}
