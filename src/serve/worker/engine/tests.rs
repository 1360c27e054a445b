//! A worker's engine over real sockets, step by step: what comes between a request and its answer.

mod streams;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use memmap2::{MmapOptions, MmapRaw};
use nlmmap_ring::abi::nl_mmap_req;

use super::super::wire::op;
use super::*;
use crate::serve::abi;
use crate::serve::memory::{self, Shared};

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 4;
const FRAME: usize = 256;
const FRAMES: usize = BLOCK * BLOCKS / FRAME;
/// Where a frame's message begins.
const HEADER: usize = 32;

/// An open file as its client has it.
struct Ours {
    handle: u64,
    shared: Shared,
    ring: MmapRaw,
}

impl Ours {
    fn sent(&self) -> u64 {
        self.shared.control().counters.tx_frames.load(Ordering::Relaxed)
    }

    /// Puts a request for the first link into so many frames.
    fn fill(&self, frames: usize) {
        let mut message = [0u8; 32];
        // Length, RTM_GETLINK with NLM_F_REQUEST, sequence, port; then the family and the index.
        for (at, word) in [(0, 32u32), (4, 0x1_0012), (8, 1), (20, 1)] {
            message[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        for frame in 0..frames {
            // SAFETY: the frame lies in the ring, and the engine is at rest.
            unsafe {
                let frame = self.ring.as_mut_ptr().add(frame * FRAME);
                frame.add(HEADER).copy_from_nonoverlapping(message.as_ptr(), message.len());
                frame.add(4).cast::<u32>().write(message.len() as u32);
                frame.cast::<u32>().write(2);
            }
        }
    }
}

/// An engine, and the front's end of its channel.
struct Bench {
    engine: Engine,
    front: OwnedFd,
    receiver: Receiver,
    heard: VecDeque<Head>,
    ids: u64,
}

impl Bench {
    fn new() -> Bench {
        let (front, back) = wire::channel().unwrap();
        let engine = Engine::new(back).unwrap();
        Bench { engine, front, receiver: Receiver::new(), heard: VecDeque::new(), ids: 100 }
    }

    fn say(&mut self, op: u32, handle: u64, value: u64, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> u64 {
        self.ids += 1;
        let head = Head { op, id: self.ids, handle, value, ..Head::default() };
        wire::send(self.front.as_fd(), &head, bytes, fds).unwrap();
        self.ids
    }

    fn hear(&mut self) {
        while let Ok(Some(packet)) = self.receiver.receive(self.front.as_fd()) {
            self.heard.push_back(packet.head);
        }
    }

    /// Whether this has been answered, well.
    fn answered(&mut self, id: u64) -> bool {
        self.hear();
        let answer = self.heard.iter().find(|head| head.op == op::ANSWER && head.id == id);
        answer.inspect(|head| assert_eq!(head.error, 0)).is_some()
    }

    /// The same, within so many steps: on a busy machine the time of a slice may be over when the least of it is done, and then it
    /// goes on as work that lasts, which takes a pass.
    fn answers_within(&mut self, id: u64, steps: u32) -> bool {
        (0..steps).any(|step| {
            if step > 0 && self.engine.passes.waits() {
                self.say(op::GO_ON, 0, 0, &[], &[]);
            }
            self.engine.step();
            self.answered(id)
        })
    }

    /// Whether the worker has asked to go on since the last question.
    fn asks(&mut self) -> bool {
        self.hear();
        let before = self.heard.len();
        self.heard.retain(|head| !(head.op == op::TURN && head.value == 1));
        self.heard.len() < before
    }

    fn open(&mut self, handle: u64) -> Ours {
        let (shared, memory) = (Shared::new().unwrap(), memory::new().unwrap());
        let route = abi::Socket { kind: libc::SOCK_RAW as u32, protocol: 0 };
        let made = self.say(op::SOCKET, handle, 0, abi::bytes(&route), &[shared.memory().as_fd()]);
        let ring = nl_mmap_req {
            nm_block_size: BLOCK as u32,
            nm_block_nr: BLOCKS as u32,
            nm_frame_size: FRAME as u32,
            nm_frame_nr: FRAMES as u32,
        };
        let set = self.say(op::IOCTL, handle, abi::TX_RING.into(), abi::bytes(&ring), &[memory.as_fd()]);
        self.engine.step();
        assert!(self.answered(made) && self.answered(set));
        let ring = MmapOptions::new().len(BLOCK * BLOCKS).map_raw(&memory).unwrap();
        Ours { handle, shared, ring }
    }

    fn kick(&mut self, open: &Ours) -> u64 {
        self.say(op::IOCTL, open.handle, abi::KICK.into(), abi::bytes(&abi::Kick::default()), &[])
    }
}

/// What a client may ask at any time: bytes of the kind, and what belongs to it.
fn small_requests() -> [(u32, u32, Vec<u8>); 4] {
    let mut write = abi::bytes(&abi::Send::default()).to_vec();
    write.extend([16, 0, 0, 0, 1, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    [
        (op::IOCTL, abi::GETSOCKNAME, Vec::new()),
        (op::POLL, 0, Vec::new()),
        (op::IOCTL, abi::STATE, Vec::new()),
        (op::WRITE, 0, write),
    ]
}

/// How often this thread has let go of the processor.
fn naps_of_this_thread() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

fn turn_length() -> u64 {
    let mut attributes = [0u64; 6];
    // SAFETY: the kernel writes `struct sched_attr` of the size that it is told.
    assert_eq!(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, attributes.as_mut_ptr(), 48, 0) }, 0);
    attributes[3]
}

#[test]
fn no_request_stands_behind_more_than_a_slice_of_anybodys_data() {
    let mut bench = Bench::new();
    let kickers = [bench.open(1), bench.open(2), bench.open(3)];
    let (asker, other) = (bench.open(4), bench.open(5));
    let kicks = kickers.each_ref().map(|open| {
        open.fill(FRAMES);
        bench.kick(open)
    });
    // Until it asks for a pass: meanwhile slices, one a step.
    let mut steps = 0;
    while !bench.asks() {
        bench.engine.step();
        steps += 1;
        assert!(steps < 1000, "work that lasts is not noticed");
    }
    let sent = |kickers: &[Ours; 3]| kickers.each_ref().map(Ours::sent);
    assert!(sent(&kickers).iter().all(|frames| *frames > 0), "each has had its turn");
    // Without a pass nothing is sent, and everybody is answered in the step that hears of it.
    let before = sent(&kickers);
    for (what, value, bytes) in small_requests() {
        let id = bench.say(what, asker.handle, value.into(), &bytes, &[]);
        bench.engine.step();
        assert!(bench.answered(id), "{what} {value}");
    }
    assert_eq!(sent(&kickers), before, "without a pass");
    let goes_first = (0..10).any(|_| {
        let (before, own) = (sent(&kickers), asker.sent());
        asker.fill(1);
        let small = bench.kick(&asker);
        bench.engine.step();
        let at_once = bench.answered(small);
        if !at_once && bench.engine.passes.waits() {
            // What is left of it takes one, as all that lasts.
            bench.say(op::GO_ON, 0, 0, &[], &[]);
        }
        assert!(at_once || bench.answers_within(small, 20), "the smallest kick is not answered");
        assert!(asker.sent() == own + 1 && (!at_once || sent(&kickers) == before), "without a pass");
        at_once
    });
    assert!(goes_first, "the smallest kick goes first");
    // With one it lets whoever waits go first; then it is the same: at most one slice lies between.
    // (On a busy machine it may have been held up so long that the moment is over before it sleeps: not always, then.)
    let (mut woken, mut asked, mut times) = (0, 0, 0);
    bench.say(op::GO_ON, 0, 0, &[], &[]);
    for (what, value, bytes) in (0..10).flat_map(|_| small_requests()) {
        if bench.asks() {
            let naps = naps_of_this_thread();
            bench.say(op::GO_ON, 0, 0, &[], &[]);
            bench.engine.step();
            woken += u32::from(naps_of_this_thread() > naps);
            times += 1;
        }
        let id = bench.say(what, asker.handle, value.into(), &bytes, &[]);
        let (before, naps) = (sent(&kickers), naps_of_this_thread());
        bench.engine.step();
        assert!(bench.answered(id), "{what} {value}");
        asked += u32::from(naps_of_this_thread() > naps);
        let slices = sent(&kickers).iter().zip(before).filter(|(now, then)| **now > *then).count();
        assert!(slices <= 1, "one slice a step");
    }
    assert!(asked >= 4, "whoever waits for an answer goes on before the next slice: {asked} times of 40");
    assert!(woken > 0 || times < 3, "and whoever has woken it: {woken} of {times}");
    let mut goes_on = || {
        if bench.asks() {
            bench.say(op::GO_ON, 0, 0, &[], &[]);
        }
        let before = sent(&kickers);
        for open in [&asker, &other] {
            open.fill(1);
            let id = bench.kick(open);
            assert!(bench.answers_within(id, 8), "however many others are in the line");
        }
        sent(&kickers) != before
    };
    // And who asks without end does not hold the kickers up.
    assert!((0..20).any(|_| goes_on()), "the line has a slice at last");
    assert!(kicks.iter().all(|id| !bench.answered(*id)), "they were long");
}

#[test]
fn a_worker_that_others_ask_does_not_let_everybody_go_first() {
    let mut bench = Bench::new();
    let (kicker, asker) = (bench.open(1), bench.open(2));
    processor::ask_for(processor::SHORT);
    if turn_length() == 0 {
        eprintln!("skipped: this kernel has no turns of a length");
        return;
    }
    // What it asks for when it may go on, and somebody asks it something. On a busy machine its time may be over at once.
    let longest = |bench: &mut Bench, who: &Ours| {
        let lengths = (0..20).map(|_| {
            kicker.fill(FRAMES);
            bench.kick(&kicker);
            while !bench.asks() {
                bench.engine.step();
            }
            let (id, asked) = (bench.say(op::POLL, who.handle, 0, &[], &[]), Instant::now());
            bench.engine.step();
            assert!(bench.answered(id));
            bench.say(op::GO_ON, 0, 0, &[], &[]);
            bench.engine.step();
            let length = turn_length();
            if asked.elapsed() < COMPANY / 2 { length } else { 0 }
        });
        lengths.fold(0, u64::max)
    };
    assert_eq!(longest(&mut bench, &kicker), 10_000_000, "who kicks may ask");
    assert_eq!(longest(&mut bench, &asker), 100_000, "somebody else asks");
    std::thread::sleep(COMPANY);
    assert_eq!(longest(&mut bench, &kicker), 10_000_000, "and no longer");
}

/// Slices of a kick, and how often this thread has let go of the processor meanwhile.
fn slices_and_naps(bench: &mut Bench, kicker: &Ours, others: u64) -> (u64, u64) {
    kicker.fill(FRAMES);
    let kick = bench.kick(kicker);
    let (mut slices, naps) = (0, naps_of_this_thread());
    while slices < 100 && !bench.answered(kick) {
        if bench.asks() {
            bench.say(op::GO_ON, 0, others, &[], &[]);
        }
        let before = kicker.sent();
        bench.engine.step();
        slices += u64::from(kicker.sent() > before);
        assert!(bench.engine.breathless < BREATH, "it has to let go before the next slice");
    }
    (slices, naps_of_this_thread() - naps)
}

#[test]
fn whoever_kicks_for_long_lets_go_of_the_processor() {
    // On a busy machine the moment may be over before it sleeps: so not each one counts, and the best of ten runs.
    let is_true = |others: u64, slices_a_nap: u64| {
        (0..10).any(|_| {
            let mut bench = Bench::new();
            let kicker = bench.open(1);
            slices_and_naps(&mut bench, &kicker, others);
            let (slices, naps) = slices_and_naps(&mut bench, &kicker, others);
            naps * 2 * slices_a_nap >= slices
        })
    };
    assert!(is_true(0, BREATH.into()), "after a few slices");
    assert!(is_true(1, 1), "after each, where others are about");
}

/// A kick behind another one was not known to be one that nobody wants any more, and began.
#[test]
fn a_kick_that_has_not_begun_is_taken_back() {
    let mut bench = Bench::new();
    let ours = bench.open(1);
    ours.fill(40);
    let (first, second, third) = (bench.kick(&ours), bench.kick(&ours), bench.kick(&ours));
    bench.say(op::CANCEL, 1, second, &[], &[]);
    bench.engine.step();
    bench.hear();
    let errors: Vec<_> =
        bench.heard.iter().filter(|head| head.op == op::ANSWER && head.id == second).map(|head| head.error).collect();
    assert_eq!(errors, [libc::EINTR]);
    for id in [first, third] {
        // With nothing left to do it would sleep.
        assert!(bench.answered(id) || bench.answers_within(id, 400));
    }
    assert_eq!(ours.sent(), 40);
}

/// A request whose descriptors had no room was done as one without any.
#[test]
fn a_request_that_has_not_come_whole_is_answered_so() {
    let mut bench = Bench::new();
    let ours = bench.open(1);
    let tap = bench.say(op::TAP, 1, 1, &[], &[ours.shared.memory().as_fd()]);
    assert!(wire::without_descriptors(|| {
        bench.engine.step();
        true
    }));
    bench.hear();
    let answer = bench.heard.iter().find(|head| head.op == op::ANSWER && head.id == tap);
    assert_eq!(answer.map(|head| head.error), Some(libc::EMFILE));
}
