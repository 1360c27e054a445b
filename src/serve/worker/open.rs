//! One open file where its socket is: rings, kicks, reads, readiness.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cuse_rs::Errno;
use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::control::{Control, flag};
use nlmmap_ring::endpoint::{Endpoint, Which};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::readiness;
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::{Fd, Socket as _};
use nlmmap_ring::sys::{self, IoVec, MSG_DONTWAIT, MsgHdr, SockaddrNl};

use super::wire::Packet;
use crate::serve::abi::{self, Kick, MapInfo, Words};
use crate::serve::memory;
use crate::serve::socket::{Credentials, Socket};

/// How soon a full ring is looked at again, at first and at last.
const FIRST_NAP: Duration = Duration::from_micros(200);
const LAST_NAP: Duration = Duration::from_secs(2);
/// A pump fills no more frames in one go.
const MOST: u32 = 256;
/// So long a kick holds the worker before others have their turn.
const SLICE: Duration = Duration::from_micros(100);
/// A kick that has lasted so long ends early when its caller is interrupted.
const LONG: Duration = Duration::from_millis(250);
/// `POLLMSG`: there is something for `NLMMAP_RECV`.
const MESSAGE: u32 = 0x400;
const READABLE: i16 = libc::POLLIN | libc::POLLRDNORM;
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
    pub active: u32,
    pub strict: u32,
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
    /// Whether frames move. A character device's rings do once the client has given memory for them.
    active: bool,
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
    /// The socket has something, or the last pump did not get to the end.
    pub pump: bool,
    /// The socket had an error when it said so.
    pub error: bool,
    /// It stands in the engine's line.
    pub queued: bool,
    pub nap_until: Option<Instant>,
    next_nap: Duration,
}

pub fn os(error: nlmmap_ring::Errno) -> Errno {
    Errno::new(error.0)
}

fn request(ring: Option<Geometry>) -> nl_mmap_req {
    ring.map(|ring| ring.request()).unwrap_or_default()
}

impl Open {
    fn over(cuse: bool, strict: bool, socket: Socket, state: &OwnedFd) -> Result<Open, Errno> {
        let endpoint = Endpoint::empty();
        endpoint.open_at(socket.family, strict, state.as_raw_fd()).map_err(os)?;
        // Nobody waits for the real socket but this worker: no doorbells.
        endpoint.unseen.store(false, Ordering::Relaxed);
        endpoint.most.store(MOST, Ordering::Relaxed);
        let rings = Rings { rx: None, tx: None, fixed: false, active: false };
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
            pump: false,
            error: false,
            queued: false,
            nap_until: None,
            next_nap: FIRST_NAP,
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
        open.watch = luggage.watch;
        open.received = luggage.received;
        if luggage.active != 0 {
            open.add_rings(memory, false)?;
        }
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
            active: u32::from(self.rings.active),
            strict: u32::from(self.is_strict()),
            pad: 0,
            watch: self.watch,
            received: self.received,
            rings: self.ring_state(),
        }
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether there is a transmit ring at work.
    pub fn transmits(&self) -> bool {
        self.rings.tx.is_some() && self.rings.active
    }

    fn is_strict(&self) -> bool {
        self.endpoint.strict.load(Ordering::Relaxed)
    }

    pub fn control(&self) -> Option<&Control> {
        self.endpoint.control()
    }

    pub fn receives(&self) -> bool {
        self.rings.rx.is_some() && self.rings.active
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
            abi::MEMORY => nothing(self.use_memory(fds.first())),
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

    /// `NLMMAP_RX_RING`, `NLMMAP_TX_RING`: the checks and their order are those of `netlink_set_ring`.
    fn set_ring(&mut self, which: Which, request: &nl_mmap_req, memory: Option<&OwnedFd>) -> Result<(), Errno> {
        if self.rings.fixed {
            return Err(Errno::EBUSY);
        }
        let wanted = if request.nm_block_nr != 0 {
            if self.rings.slot(which).is_some() {
                return Err(Errno::EBUSY);
            }
            let machine = sys::total_memory().max(1 << 20);
            Some(Geometry::check(request, sys::PAGE as u32, machine).map_err(os)?)
        } else if request.nm_frame_nr != 0 {
            return Err(Errno::EINVAL);
        } else {
            None
        };
        *self.rings.slot(which) = wanted;
        if self.cuse {
            // They move again when there is memory for the new ones.
            self.rings.active = false;
            // SAFETY: this process has one thread.
            unsafe {
                self.endpoint.drop_ring(Which::Tx);
                self.endpoint.drop_ring(Which::Rx);
            }
        } else {
            let memory = memory.ok_or(Errno::EBADF)?;
            let placed = self.place(memory, which == Which::Rx);
            if placed.is_err() {
                *self.rings.slot(which) = None;
                if self.place(memory, which == Which::Rx).is_err() {
                    (self.rings.rx, self.rings.tx) = (None, None);
                }
            }
            placed?;
        }
        if which == Which::Rx {
            self.own.clear();
            match wanted {
                Some(ring) => {
                    self.note_options();
                    let strict = self.is_strict();
                    let (bytes, frames) = if strict { (0, 0) } else { (ring.len(), ring.frame_nr() as usize) };
                    self.socket.begin_ring(bytes, frames);
                }
                None => self.socket.drain(),
            }
        }
        Ok(())
    }

    /// Sets the engine's rings to what `rings` says; the receive ring is made anew when it or its size changes.
    fn place(&mut self, memory: &OwnedFd, anew: bool) -> Result<(), Errno> {
        let (rx_len, tx_len) = (self.rings.len(Which::Rx), self.rings.len(Which::Tx));
        // SAFETY: this process has one thread.
        unsafe {
            self.endpoint.drop_ring(Which::Tx);
            if anew {
                self.endpoint.drop_ring(Which::Rx);
            }
        }
        let keep = if anew { 0 } else { rx_len };
        memory::resize(memory, keep, rx_len + tx_len).map_err(memory::errno)?;
        self.add_rings(memory, true)
    }

    fn add_rings(&mut self, memory: &OwnedFd, fresh: bool) -> Result<(), Errno> {
        let fd = memory.as_raw_fd();
        let places = [(Which::Rx, self.rings.rx, 0), (Which::Tx, self.rings.tx, self.rings.len(Which::Rx))];
        for (which, ring, offset) in places {
            if let Some(geometry) = ring
                && self.endpoint.ring(which).is_none()
            {
                if fresh {
                    self.endpoint.add_ring_at(which, geometry, fd, offset).map_err(os)?;
                } else {
                    self.endpoint.adopt_ring_at(which, geometry, fd, offset).map_err(os)?;
                }
            }
        }
        self.rings.active = true;
        Ok(())
    }

    /// `NLMMAP_MAP_INFO`: from now on the rings stay as they are. The front seals their memory.
    fn map_info(&mut self) -> Result<MapInfo, Errno> {
        let (rx_len, tx_len) = (self.rings.len(Which::Rx) as u64, self.rings.len(Which::Tx) as u64);
        if rx_len + tx_len == 0 {
            return Err(Errno::EINVAL);
        }
        self.rings.fixed = true;
        Ok(MapInfo { how: if self.cuse { abi::MAP_MEMORY } else { abi::MAP_NODE }, pad: 0, rx_len, tx_len })
    }

    /// `NLMMAP_MEMORY`: the rings shall lie in the client's own memfd, which the front has judged.
    fn use_memory(&mut self, memory: Option<&OwnedFd>) -> Result<(), Errno> {
        if self.rings.active {
            return Err(Errno::EBUSY);
        }
        let memory = memory.filter(|_| self.cuse).ok_or(Errno::EBADF)?;
        memory::reserve(memory, self.rings.len(Which::Rx) + self.rings.len(Which::Tx)).map_err(memory::errno)?;
        self.add_rings(memory, true)
    }

    /// `NLMMAP_KICK`: begins. It goes on with [`Self::go_on`].
    pub fn begin_kick(&mut self, id: u64, argument: &[u8], sender: Option<Credentials>) -> Result<(), Errno> {
        let (kick, rest) = abi::split::<Kick>(argument).ok_or(Errno::EINVAL)?;
        let sender = match rest {
            [] => sender,
            // Named by the client: the kernel judges, by the rights of this process, which are the client's.
            _ => {
                let named: abi::KickAs =
                    abi::read(argument).filter(|named: &abi::KickAs| named.flags == 0).ok_or(Errno::EINVAL)?;
                Some(Credentials::new(named.pid, named.uid, named.gid))
            }
        };
        if kick.dest_len != 0 && kick.dest_len as usize != size_of::<SockaddrNl>() {
            return Err(Errno::EINVAL);
        }
        if self.rings.tx.is_none() || !self.rings.active {
            return Err(Errno::EINVAL);
        }
        let kick = Kick { sent: 0, ..kick };
        self.kick = Some(Running {
            id,
            kick,
            left: self.endpoint.kick_frames(),
            sender,
            since: Instant::now(),
            cancelled: false,
        });
        Ok(())
    }

    /// Sends for the time of a slice. The kick's id and result, once it is over.
    pub fn go_on(&mut self) -> Option<(u64, Result<Vec<u8>, Errno>)> {
        let running = self.kick.as_mut()?;
        let mut dest = running.kick.dest;
        let mut template = MsgHdr::EMPTY;
        if running.kick.dest_len != 0 {
            template.name = (&raw mut dest).cast();
            template.namelen = running.kick.dest_len;
        }
        if let Some(sender) = &running.sender {
            sender.attach(&mut template);
        }
        let end = Instant::now() + SLICE;
        let fd = Fd(self.socket.raw());
        let outcome = loop {
            let (left, flags) = (&mut running.left, libc::MSG_DONTWAIT as u32);
            // SAFETY: the template points to locals that outlive the call.
            match unsafe { self.endpoint.kick_part(&fd, self.pid, &template, flags, left, 1) } {
                Ok(sent) => running.kick.sent += sent as u64,
                Err(error) => break Err(os(error)),
            }
            if running.left == 0 {
                break Ok(());
            }
            // A kick of ordinary length is not cut short by a signal that came in the middle of it.
            if running.cancelled && running.since.elapsed() >= LONG {
                break if running.kick.sent == 0 { Err(Errno::EINTR) } else { Ok(()) };
            }
            if Instant::now() >= end {
                return None;
            }
        };
        let Running { id, kick, .. } = self.kick.take()?;
        Some((id, outcome.map(|()| abi::bytes(&kick).to_vec())))
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
            self.endpoint.service(&Fd(self.socket.raw()), self.pid, Context::Send);
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
        let fd = Fd(self.socket.raw());
        // SAFETY: the caller's duty.
        if let Some(got) = unsafe { self.receive_own(message, flags) } {
            return got;
        }
        // SAFETY: the caller's duty.
        let got = unsafe {
            if self.receives() {
                self.endpoint.receive(&fd, self.pid, message, flags)
            } else {
                fd.recv(message, flags | MSG_DONTWAIT)
            }
        };
        got.map_err(os)
    }

    /// What `poll` answers.
    pub fn events(&self) -> u32 {
        let (mask, message) = match self.control() {
            Some(control) if self.receives() => {
                (readiness::mask(&self.endpoint, control), control.copies.load(Ordering::Relaxed) > 0)
            }
            _ => {
                let mask = self.socket.events() | if self.own.is_empty() { 0 } else { READABLE };
                (mask, mask & readiness::IN != 0)
            }
        };
        let message = if message || mask & readiness::ERR != 0 { MESSAGE } else { 0 };
        u32::from(mask.cast_unsigned()) | message
    }

    fn is_ready(&self) -> bool {
        self.events() & u32::from((readiness::IN | readiness::ERR).cast_unsigned()) != 0
    }

    /// Whether a `read` would get a message or an error: VALID frames are not its business.
    fn has_for_read(&self) -> bool {
        match self.control() {
            Some(control) if self.receives() => {
                control.copies.load(Ordering::Relaxed) > 0 || control.error.load(Ordering::Relaxed) != 0
            }
            _ => !self.own.is_empty() || self.socket.events() & (libc::POLLIN | libc::POLLERR) != 0,
        }
    }

    pub fn service(&mut self, context: Context) {
        if self.receives() {
            self.endpoint.service(&Fd(self.socket.raw()), self.pid, context);
        }
    }

    fn moved_so_far(&self) -> u64 {
        self.control().map_or(0, |control| {
            control.counters.rx_frames.load(Ordering::Relaxed) + control.counters.rx_copies.load(Ordering::Relaxed)
        })
    }

    /// Something has happened to the socket: moves messages.
    pub fn moved(&mut self) {
        let (before, error) = (self.moved_so_far(), std::mem::take(&mut self.error));
        self.service(Context::Background);
        // It may have stopped only to let others have their turn.
        let moved = self.moved_so_far().wrapping_sub(before);
        self.pump = moved >= u64::from(MOST);
        if moved != 0 {
            // The client releases frames, though the ring may be full again.
            self.next_nap = FIRST_NAP;
        }
        if error
            && self.receives()
            && let Some(control) = self.control()
        {
            // While its ring is full the pump does not receive, and so does not see the error of a lost message.
            let error = self.socket.take_error();
            if error != 0 {
                control.error.store(error.unsigned_abs(), Ordering::Relaxed);
                control.counters.overruns.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Of those who want to be told, who is to be told now. The pump comes first, always: nobody is told early.
    pub fn tell(&mut self) -> u64 {
        let mut who = 0;
        if self.watch & ready::POLL != 0 && self.is_ready() {
            who |= ready::POLL;
        }
        if self.watch & ready::READ != 0 && self.has_for_read() {
            who |= ready::READ;
        }
        self.watch &= !who;
        who
    }

    pub fn is_blocked(&self) -> bool {
        self.receives() && self.control().is_some_and(|control| control.has(flag::BLOCKED))
    }

    /// The client has shown itself: it is not kept waiting for what it may have released.
    pub fn seen(&mut self) {
        if self.is_blocked() {
            self.service(Context::Background);
            self.next_nap = FIRST_NAP;
            self.nap_until = None;
        }
    }

    /// While the ring is full nothing tells when it no longer is: when to look again, if that is not settled yet. Later and
    /// later, and then together with others.
    pub fn keep_looking(&mut self, start: Instant) -> Option<Instant> {
        if !self.is_blocked() {
            self.next_nap = FIRST_NAP;
            self.nap_until = None;
            return None;
        }
        if self.nap_until.is_some() {
            return None;
        }
        let mut due = start.elapsed() + self.next_nap;
        if self.next_nap * 8 > LAST_NAP {
            let grain = LAST_NAP.as_millis() as u64 / 4;
            due = Duration::from_millis((due.as_millis() as u64 / grain + 1) * grain);
        }
        self.next_nap = (self.next_nap * 2).min(LAST_NAP);
        self.nap_until = Some(start + due);
        self.nap_until
    }

    /// `NLMMAP_GET_ERROR`
    fn take_error(&self) -> i32 {
        let ours = self.control().map_or(0, Control::take_error);
        if ours != 0 { ours } else { self.socket.take_error() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: the owner is the only user of its endpoint.
        unsafe { self.endpoint.reset() };
    }
}
