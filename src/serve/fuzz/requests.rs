//! For the fuzz target `ioctl`: a worker whose requests are made of any bytes, as a client's ioctls, writes and reads become them,
//! beside ring memory that the client writes to. Its answers fit what was asked.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread;

use nix::errno::Errno as Os;
use nix::poll::{PollFd, PollFlags, poll};
use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::sys::SockaddrNl;

use crate::serve::abi;
use crate::serve::memory::{self, Shared};
use crate::serve::worker::Engine;
use crate::serve::worker::wire::{self, Head, Receiver, flag, op};

/// USERSOCK, ROUTE, GENERIC, NETFILTER, SOCK_DIAG, KOBJECT_UEVENT, XFRM, and one that nobody has.
const FAMILIES: [u32; 8] = [2, 0, 16, 12, 4, 15, 6, 31];
/// Requests of one input.
const MOST: usize = 48;
/// Bytes of both rings: more is refused by the front, with its limits.
const RINGS: u64 = 1 << 20;
/// A kick may wait for somebody without room.
const PATIENCE: u16 = 100;
/// A worker that is at work with nothing answers at once, unless the machine is busy with other things.
const LONGEST: u16 = 20_000;
const SIZED: [u32; 5] = [abi::RECV, abi::PEEK, abi::PART, abi::SETOPT, abi::GETOPT];

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (now, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        now
    }

    /// Zeroes where there is no more.
    fn filled(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = self.take(len).to_vec();
        bytes.resize(len, 0);
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u32 {
        self.take(4).iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }
}

/// What the front keeps of an open file.
struct Open {
    memory: OwnedFd,
    state: Shared,
    /// Bytes of each ring, as far as asked for.
    rings: [u64; 2],
}

/// The front's end of a worker's channel.
struct Front {
    channel: OwnedFd,
    receiver: Receiver,
    id: u64,
    /// What has not been answered yet, and how long an answer may be.
    asked: HashMap<u64, usize>,
}

impl Front {
    /// Asks, and waits for the answer for a while: its error, bytes and descriptors.
    fn ask(&mut self, head: Head, bytes: &[u8], fds: &[&OwnedFd], most: usize) -> Option<(i32, Vec<u8>, Vec<OwnedFd>)> {
        self.ask_for(PATIENCE, head, bytes, fds, most)
    }

    /// As [`Self::ask`], waiting for so long.
    fn ask_for(
        &mut self,
        patience: u16,
        head: Head,
        bytes: &[u8],
        fds: &[&OwnedFd],
        most: usize,
    ) -> Option<(i32, Vec<u8>, Vec<OwnedFd>)> {
        self.id += 1;
        let (id, answered) = (self.id, !matches!(head.op, op::CANCEL | op::GO_ON));
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        if wire::send(self.channel.as_fd(), &Head { id, ..head }, bytes, &fds).is_err() || !answered {
            return None;
        }
        self.asked.insert(id, most);
        loop {
            match self.receiver.receive(self.channel.as_fd()) {
                Ok(Some(packet)) if packet.head.op == op::ANSWER => {
                    let Some(most) = self.asked.remove(&packet.head.id) else {
                        panic!("an answer to {}, which nobody asked or was answered", packet.head.id)
                    };
                    assert!(
                        packet.head.error >= 0 && packet.bytes.len() <= most,
                        "{} bytes of {most}",
                        packet.bytes.len()
                    );
                    if packet.head.id == id {
                        return Some((packet.head.error, packet.bytes, packet.fds));
                    }
                }
                Ok(Some(packet)) => {
                    assert!(matches!(packet.head.op, op::READY | op::TURN | op::HEARD), "op {}", packet.head.op)
                }
                Err(Os::EAGAIN) => {
                    if poll(&mut [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)], patience) == Ok(0) {
                        return None;
                    }
                }
                other => panic!("the worker has gone: {other:?}"),
            }
        }
    }
}

fn open(front: &mut Front, input: &mut Input<'_>, handle: u64) -> Option<Open> {
    let (choice, cuse) = (usize::from(input.byte()), u64::from(input.byte() & 1));
    let protocol = FAMILIES.get(choice % FAMILIES.len()).copied().unwrap_or(0);
    let kind = if choice & 0x80 == 0 { 3 } else { 3 | abi::SOCKET_STRICT };
    let (memory, state) = (memory::new().ok()?, Shared::new().ok()?);
    let head = Head { op: op::SOCKET, handle, value: cuse, ..Head::default() };
    let wanted = abi::Socket { kind, protocol };
    let (error, ..) = front.ask(head, abi::bytes(&wanted), &[state.memory()], 0)?;
    (error == 0).then_some(Open { memory, state, rings: [0; 2] })
}

fn ioctl(front: &mut Front, input: &mut Input<'_>, open: &mut Open, handle: u64) {
    let (choice, more) = (input.byte(), input.byte());
    let cmd = match choice % 4 {
        0 | 1 => abi::NUMBERS.get(usize::from(more) % abi::NUMBERS.len()).map_or(0, |(_, number)| *number),
        2 => SIZED.get(usize::from(more) % SIZED.len()).map_or(0, |number| number | (input.word() & 0x3fff) << 16),
        _ => input.word(),
    };
    let size = abi::argument_size(cmd);
    let mut argument = input.filled(size);
    let mut head = Head { op: op::IOCTL, handle, value: u64::from(cmd), pid: input.byte().into(), ..Head::default() };
    let mut fds = Vec::new();
    let mut most = size;
    if matches!(cmd, abi::RX_RING | abi::TX_RING) {
        let index = usize::from(cmd == abi::TX_RING);
        if more & 1 == 0 {
            // Sizes that make sense are rare.
            let blocks = 1 + u32::from(choice >> 4);
            let frames = [8, 4, 2, 1].get(usize::from(choice >> 2) % 4).copied().unwrap_or(1);
            let ring = nl_mmap_req {
                nm_block_size: 4096,
                nm_block_nr: blocks,
                nm_frame_size: 4096 / frames,
                nm_frame_nr: blocks * frames,
            };
            argument = abi::bytes(&ring).to_vec();
        }
        let ring: nl_mmap_req = abi::read(&argument).unwrap_or_default();
        let bytes = u64::from(ring.nm_block_size) * u64::from(ring.nm_block_nr);
        if bytes > RINGS {
            return;
        }
        if let Some(there) = open.rings.get_mut(index) {
            *there = bytes;
        }
        fds.push(&open.memory);
        // The state of both rings.
        most = 32;
    }
    let theirs = memory::new().ok();
    if cmd == abi::MEMORY {
        // The front has judged it: of the rings' size.
        let Some(theirs) =
            theirs.as_ref().filter(|to| memory::resize(to, 0..0, open.rings.iter().sum::<u64>() as usize).is_ok())
        else {
            return;
        };
        fds.extend([theirs, &open.memory, open.state.memory()]);
    }
    if input.byte() & 1 != 0 {
        head.flags |= flag::WATCH;
    }
    let done = front.ask(head, &argument, &fds, most);
    if let (abi::MEMORY, Some((0, ..)), Some(theirs)) = (cmd, done, theirs) {
        open.memory = theirs;
    }
}

fn step(front: &mut Front, input: &mut Input<'_>, open: &mut Open, handle: u64) {
    let head = |op, value, flags| Head { op, handle, value, flags, ..Head::default() };
    match input.byte() % 16 {
        0..=6 => ioctl(front, input, open, handle),
        7 | 8 => {
            let len = usize::from(input.byte()) * 4;
            let with = input.byte();
            let dest = SockaddrNl {
                family: 16,
                portid: (with >> 1).into(),
                groups: (with >> 4).into(),
                ..SockaddrNl::default()
            };
            let dest_len = if with & 1 == 0 { 0 } else { size_of::<SockaddrNl>() as u32 };
            let mut bytes = abi::bytes(&abi::Send { dest, dest_len, flags: 0 }).to_vec();
            bytes.extend(input.take(len));
            front.ask(head(op::WRITE, 0, 0), &bytes, &[], 0);
        }
        9 => {
            let room = u64::from(input.word() & 0x1fff);
            front.ask(head(op::READ, room, u32::from(input.byte() & 1)), &[], &[], room as usize);
        }
        10 => drop(front.ask(head(op::POLL, 0, u32::from(input.byte() & 1)), &[], &[], 0)),
        11 => drop(front.ask(head(op::TAKE, 0, 0), &[], &[], nlmmap_ring::endpoint::LARGEST)),
        12 => {
            let (beginning, len) = (u32::from(input.byte() % 32), usize::from(input.byte()));
            let bytes = input.take(len);
            front.ask(head(op::SHARE, u64::from(input.byte() & 1), beginning), bytes, &[], 0);
            front.ask(head(op::SERVICE, u64::from(input.byte()), 0), &[], &[], 0);
        }
        13 => {
            let len = usize::from(input.byte());
            front.ask(head(op::REFUSE, 0, 0), input.take(len), &[], 0);
        }
        14 => {
            // What the client does to its rings.
            let (at, len) =
                (u64::from(input.word()) % open.rings.iter().sum::<u64>().max(1), usize::from(input.byte() % 64));
            let bytes = input.take(len);
            let file = std::fs::File::from(open.memory.try_clone().unwrap_or_else(|error| panic!("{error}")));
            let room = (open.rings.iter().sum::<u64>() - at.min(open.rings.iter().sum())) as usize;
            let _ = file.write_all_at(bytes.get(..room.min(len)).unwrap_or(bytes), at);
        }
        _ => {
            if input.byte() & 1 == 0 {
                front.ask(head(op::CANCEL, front.id, 0), &[], &[], 0);
                return;
            }
            // It goes elsewhere, with luggage that a worker in its client's hands has packed.
            let Some((0, mut luggage, mut fds)) = front.ask(head(op::EVICT, 0, 0), &[], &[], usize::MAX) else {
                return;
            };
            let Some(socket) = fds.pop() else { panic!("no socket comes along") };
            for _ in 0..input.byte() % 4 {
                let at = usize::from(input.byte());
                if let Some(byte) = luggage.get_mut(at) {
                    *byte ^= input.byte();
                }
            }
            front.ask(head(op::ADOPT, 0, 0), &luggage, &[&socket, &open.memory, open.state.memory()], 0);
        }
    }
}

/// One input.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Ok((channel, back)) = wire::channel() else { return };
    let worker = thread::spawn(move || Engine::new(back).map(Engine::run));
    let mut front = Front { channel, receiver: Receiver::new(), id: 0, asked: HashMap::new() };
    let mut opens: Vec<Option<Open>> = (0..2).map(|handle| open(&mut front, &mut input, handle)).collect();
    for _ in 0..MOST {
        if input.0.is_empty() {
            break;
        }
        let handle = u64::from(input.byte() & 1);
        if let Some(Some(open)) = opens.get_mut(handle as usize) {
            step(&mut front, &mut input, open, handle);
        }
    }
    let head = Head { op: op::PING, ..Head::default() };
    assert!(front.ask_for(LONGEST, head, &[], &[], 0).is_some(), "it does not answer any more");
    for handle in 0..2 {
        front.ask(Head { op: op::CLOSE, handle, ..Head::default() }, &[], &[], 0);
    }
    drop(front);
    let _ = worker.join();
}
