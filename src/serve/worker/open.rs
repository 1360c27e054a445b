//! One open file where its socket is: rings, kicks, reads, readiness.

mod kick;
pub mod notes;
pub mod pace;
mod rings;
mod waiting;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cuse_rs::Errno;
use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::control::{Control, flag};
use nlmmap_ring::endpoint::{Endpoint, Which};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::Socket as _;
use nlmmap_ring::sys::{self, IoVec, MSG_DONTWAIT, MsgHdr};

use super::sifted::{Sifted, Sifter};
use super::wire::Packet;
use crate::serve::abi::{self, Kick, Words};
use crate::serve::socket::{Credentials, Socket};

/// How soon a full ring is looked at again at first.
const FIRST_NAP: Duration = Duration::from_micros(200);
/// A pump fills no more frames in one go.
const MOST: u32 = 256;
/// Requests of one open file that may wait behind its kick.
const WAITING: usize = 1024;

/// Bits of what a client waits for.
pub mod ready {
    /// `poll` and its relatives.
    pub const POLL: u64 = 1;
    /// `read`.
    pub const READ: u64 = 2;
}

/// Both rings as the client has set them; all zeroes for none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RingState {
    pub rx: nl_mmap_req,
    pub tx: nl_mmap_req,
}

// SAFETY: integers without padding (eight of 4 bytes).
unsafe impl Words for RingState {}

/// What an open file takes along when it goes from one worker to another.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Luggage {
    pub family: u32,
    pub cuse: u32,
    pub fixed: u32,
    pub strict: u32,
    /// Bytes of the sieve behind this.
    pub sieve: u32,
    pub pad: u32,
    pub watch: u64,
    pub received: u64,
    pub rings: RingState,
}

// SAFETY: as above (six of 4 bytes, two of 8, and those).
unsafe impl Words for Luggage {}

struct Rings {
    rx: Option<Geometry>,
    tx: Option<Geometry>,
    /// Whether the client has asked how to map them: then they stay as they are.
    fixed: bool,
    /// How often they were laid into a memory, or tried to be: another one, maybe.
    laid: u64,
    /// Bytes of memory that rings have ever lain in.
    used: usize,
}

impl Rings {
    fn slot(&mut self, which: Which) -> &mut Option<Geometry> {
        match which {
            Which::Rx => &mut self.rx,
            Which::Tx => &mut self.tx,
        }
    }

    fn len(&self, which: Which) -> usize {
        let ring = match which {
            Which::Rx => &self.rx,
            Which::Tx => &self.tx,
        };
        ring.as_ref().map_or(0, Geometry::len)
    }
}

/// A kick that is not over.
pub struct Running {
    pub id: u64,
    pub kick: Kick,
    left: u32,
    sender: Option<Credentials>,
    since: Instant,
    pub cancelled: bool,
    /// What it does at a receiver without room.
    waits: bool,
    /// Asleep at one: how long this time, and when it ends.
    nap: Duration,
    pub nap_until: Option<Instant>,
    /// The end of its patience (`SO_SNDTIMEO`), once it has slept; none for ever.
    limit: Option<Option<Instant>>,
}

/// An open file.
pub struct Open {
    cuse: bool,
    socket: Socket,
    pub endpoint: Endpoint,
    rings: Rings,
    pub pid: u32,
    /// Who wants to be told: bits of [`ready`].
    pub watch: u64,
    /// Messages received so far: the number of the one that comes next.
    pub received: u64,
    pub kick: Option<Running>,
    /// Requests behind the kick.
    waiting: VecDeque<Packet>,
    /// Errors of messages that were not sent, without a ring to put them in.
    pub own: VecDeque<Vec<u8>>,
    /// What policy lets through of what it granted, if it says.
    pub sifter: Option<Box<Sifter>>,
    /// The socket has something, or the last pump did not get to the end.
    pub pump: bool,
    /// The socket had an error when it said so.
    pub error: bool,
    /// It stands in the engine's line.
    pub queued: bool,
    /// Not 0 while the engine looks at its full ring by itself.
    pub attended: u32,
    /// The front's notes that were heard.
    notes: u32,
    pub nap_until: Option<Instant>,
    next_nap: Duration,
    pub pace: pace::Pace,
}

pub fn os(error: nlmmap_ring::Errno) -> Errno {
    Errno::new(error.0)
}

fn request(ring: Option<Geometry>) -> nl_mmap_req {
    ring.map(|ring| ring.request()).unwrap_or_default()
}

/// An endpoint without rings over shared state, new or not.
fn endpoint_over(family: u32, strict: bool, state: &OwnedFd) -> Result<Endpoint, Errno> {
    let endpoint = Endpoint::empty();
    endpoint.open_at(family, strict, state.as_raw_fd()).map_err(os)?;
    // Nobody waits for the real socket but this worker: no doorbells.
    endpoint.unseen.store(false, Ordering::Relaxed);
    endpoint.most.store(MOST, Ordering::Relaxed);
    Ok(endpoint)
}

impl Open {
    fn over(cuse: bool, strict: bool, socket: Socket, state: &OwnedFd) -> Result<Open, Errno> {
        let endpoint = endpoint_over(socket.family, strict, state)?;
        let rings = Rings { rx: None, tx: None, fixed: false, laid: 0, used: 0 };
        Ok(Open {
            cuse,
            socket,
            endpoint,
            rings,
            pid: sys::getpid(),
            watch: 0,
            received: 0,
            kick: None,
            waiting: VecDeque::new(),
            own: VecDeque::new(),
            sifter: None,
            pump: false,
            error: false,
            queued: false,
            attended: 0,
            notes: 0,
            nap_until: None,
            next_nap: FIRST_NAP,
            pace: pace::Pace::default(),
        })
    }

    /// A new open file with the socket that the client asked for.
    pub fn make(cuse: bool, wanted: &abi::Socket, base: i32, state: &OwnedFd) -> Result<Open, Errno> {
        let (kind, strict) = (wanted.kind & !abi::SOCKET_STRICT, wanted.kind & abi::SOCKET_STRICT != 0);
        Open::over(cuse, strict, Socket::new(kind, wanted.protocol, base)?, state)
    }

    /// An open file that was in another worker.
    pub fn adopt(
        luggage: &Luggage,
        base: i32,
        socket: OwnedFd,
        memory: &OwnedFd,
        state: &OwnedFd,
    ) -> Result<Open, Errno> {
        let socket = Socket::adopt(socket, luggage.family, base)?;
        let mut open = Open::over(luggage.cuse != 0, luggage.strict != 0, socket, state)?;
        let machine = sys::total_memory().max(1 << 20);
        for (which, request) in [(Which::Rx, luggage.rings.rx), (Which::Tx, luggage.rings.tx)] {
            if request.nm_block_nr != 0 {
                let ring = Geometry::check(&request, sys::PAGE as u32, machine).map_err(os)?;
                *open.rings.slot(which) = Some(ring);
            }
        }
        open.rings.fixed = luggage.fixed != 0;
        // Whatever there was before.
        open.rings.used = usize::MAX;
        open.received = luggage.received;
        open.add_rings(memory, false)?;
        // Whoever was told of them has been heard: it is in the luggage.
        open.leave();
        open.watch = luggage.watch;
        // Whatever came while nobody looked.
        open.pump = true;
        Ok(open)
    }

    /// What [`Self::adopt`] needs, beside the socket.
    pub fn luggage(&self) -> Luggage {
        Luggage {
            family: self.socket.family,
            cuse: u32::from(self.cuse),
            fixed: u32::from(self.rings.fixed),
            strict: u32::from(self.is_strict()),
            sieve: 0,
            pad: 0,
            watch: self.watch,
            received: self.received,
            rings: self.ring_state(),
        }
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether there is a transmit ring.
    pub fn transmits(&self) -> bool {
        self.rings.tx.is_some()
    }

    fn is_strict(&self) -> bool {
        self.endpoint.strict.load(Ordering::Relaxed)
    }

    pub fn control(&self) -> Option<&Control> {
        self.endpoint.control()
    }

    pub fn receives(&self) -> bool {
        self.rings.rx.is_some()
    }

    /// Puts a request behind the kick that runs.
    pub fn wait(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.waiting.len() < WAITING {
            self.waiting.push_back(packet);
            Ok(())
        } else {
            Err(packet)
        }
    }

    /// Takes such a request back. Whether it is there.
    pub fn take_back(&mut self, id: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|packet| packet.head.id != id);
        self.waiting.len() < before
    }

    /// The next of them, once the kick is over.
    pub fn next_waiting(&mut self) -> Option<Packet> {
        if self.kick.is_some() { None } else { self.waiting.pop_front() }
    }

    pub fn ring_state(&self) -> RingState {
        RingState { rx: request(self.rings.rx), tx: request(self.rings.tx) }
    }

    /// An ioctl that is over at once: bytes for its argument.
    pub fn ioctl(&mut self, handle: u64, cmd: u32, argument: &[u8], fds: &[OwnedFd]) -> Result<Vec<u8>, Errno> {
        fn input<T: Words>(argument: &[u8]) -> Result<T, Errno> {
            abi::read(argument).ok_or(Errno::EINVAL)
        }
        let nothing = |done: Result<(), Errno>| done.map(|()| Vec::new());
        let has_ring = self.rings.rx.is_some();
        match cmd {
            abi::BIND => nothing(self.socket.bind(&input(argument)?)),
            abi::CONNECT => nothing(self.socket.connect(&input(argument)?)),
            abi::GETSOCKNAME => Ok(abi::bytes(&self.socket.name()?).to_vec()),
            abi::ADD_MEMBERSHIP => nothing(self.socket.membership(true, input(argument)?, has_ring)),
            abi::DROP_MEMBERSHIP => nothing(self.socket.membership(false, input(argument)?, has_ring)),
            abi::SETSOCKOPT => nothing(self.set_option(&input(argument)?)),
            abi::GETSOCKOPT => {
                let option: abi::SockOpt = input(argument)?;
                let value = self.socket.option(option.level, option.name)?;
                Ok(abi::bytes(&abi::SockOpt { value, ..option }).to_vec())
            }
            abi::RX_RING => nothing(self.set_ring(Which::Rx, &input(argument)?, fds.first())),
            abi::TX_RING => nothing(self.set_ring(Which::Tx, &input(argument)?, fds.first())),
            abi::MAP_INFO => Ok(abi::bytes(&self.map_info()?).to_vec()),
            abi::MEMORY => nothing(self.use_memory(fds)),
            abi::GET_ERROR => Ok(abi::bytes(&self.take_error()).to_vec()),
            abi::GETPEERNAME => Ok(abi::bytes(&self.socket.peer()?).to_vec()),
            abi::STATE => Ok(abi::bytes(&self.state(handle)).to_vec()),
            _ => self.socket_call(cmd, argument),
        }
    }

    /// Calls whose arguments have any size.
    fn socket_call(&mut self, cmd: u32, argument: &[u8]) -> Result<Vec<u8>, Errno> {
        let size = abi::argument_size(cmd);
        match abi::unsized_number(cmd) {
            abi::RECV => self.receive_message(size, false),
            abi::PEEK => self.receive_message(size, true),
            abi::PART => {
                let (part, _) = abi::split(argument).ok_or(Errno::EINVAL)?;
                self.receive_part(&part, size)
            }
            abi::SETOPT => {
                let (head, value) = abi::split(argument).ok_or(Errno::EINVAL)?;
                self.set_any_option(&head, value).map(|()| Vec::new())
            }
            abi::GETOPT => {
                let (head, _) = abi::split(argument).ok_or(Errno::EINVAL)?;
                self.any_option(&head, size)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn set_option(&self, option: &abi::SockOpt) -> Result<(), Errno> {
        self.socket.set_option(option.level, option.name, option.value)?;
        // NETLINK_NO_ENOBUFS
        if let (nlmmap_ring::abi::SOL_NETLINK, 5, Some(control)) = (option.level, option.name, self.control()) {
            control.set(flag::NO_ENOBUFS, option.value != 0);
        }
        Ok(())
    }

    /// Copies what passes into this memory, or no more.
    pub fn tap(&self, memory: Option<&OwnedFd>, begins: bool) -> Result<(), Errno> {
        match memory {
            Some(memory) => self.endpoint.tap_into(memory.as_raw_fd(), begins).map_err(os),
            None => {
                self.endpoint.tap_no_more();
                Ok(())
            }
        }
    }

    /// `write`: one message.
    pub fn send(&mut self, packet: &[u8], sender: Option<Credentials>) -> Result<usize, Errno> {
        let (head, data) = abi::split::<abi::Send>(packet).ok_or(Errno::EINVAL)?;
        let dest = (head.dest_len != 0).then_some(head.dest);
        if let Some(control) = self.control() {
            nlmmap_ring::tx::note_request(control, data);
        }
        let sent = self.socket.send(dest, data, sender.as_ref());
        if self.receives() {
            self.service(Context::Send);
        }
        sent
    }

    /// One message for `read`, if there is one.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut vector = IoVec { base: buffer.as_mut_ptr(), len: buffer.len() };
        let mut message = MsgHdr { iov: &raw mut vector, iovlen: 1, ..MsgHdr::EMPTY };
        // SAFETY: the header points to the buffer.
        let got = unsafe { self.receive_into(&mut message, 0) }?;
        self.received += 1;
        Ok(got)
    }

    /// `recvmsg` without sleeping: a message that is in no frame.
    ///
    /// # Safety
    /// The header's pointers are valid for the lengths beside them.
    pub unsafe fn receive_into(&mut self, message: &mut MsgHdr, flags: u32) -> Result<usize, Errno> {
        // SAFETY: the caller's duty.
        if let Some(got) = unsafe { self.receive_own(message, flags) } {
            return got;
        }
        // SAFETY: the caller's duty.
        let got = unsafe {
            if self.receives() {
                self.endpoint.receive(&self.sifted(), self.pid, message, flags)
            } else {
                self.sifted().recv(message, flags | MSG_DONTWAIT)
            }
        };
        if self.is_tired() {
            self.pump = true;
            return got.map_err(|error| if error == nlmmap_ring::Errno::INTR { Errno::EAGAIN } else { os(error) });
        }
        got.map_err(os)
    }

    /// The socket as the engine is to see it.
    pub fn sifted(&self) -> Sifted<'_> {
        Sifted::new(self.socket.raw(), self.sifter.as_deref(), self.endpoint.control(), self.receives())
    }

    fn is_tired(&self) -> bool {
        self.sifter.as_ref().is_some_and(|sifter| sifter.is_tired())
    }

    /// `NLMMAP_GET_ERROR`
    fn take_error(&self) -> i32 {
        let ours = self.control().map_or(0, Control::take_error);
        let seen = if ours == 0 { self.sifter.as_ref().map_or(0, |sifter| sifter.take_error()) } else { ours };
        if seen != 0 { seen } else { self.socket.take_error() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: the owner is the only user of its endpoint.
        unsafe { self.endpoint.reset() };
    }
}
