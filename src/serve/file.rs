//! One open file of the node: a netlink socket, its rings, and those who wait for it.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use cuse_rs::{Caller, Errno, NodeKind, Parked, PollFlags, PollNotifier, ReadReply};
use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::control::{Control, flag};
use nlmmap_ring::endpoint::{Endpoint, Which};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::readiness;
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, IoVec, MsgHdr, SockaddrNl};

use super::abi::{self, Kick, MapInfo};
use super::caller::{self, Client};
use super::calls::{Calls, Mappers};
use super::limits::Ticket;
use super::memory;
use super::pool::Pool;
use super::rights::Rights;
use super::socket::Socket;

/// How soon a full ring is looked at again, at first and at last.
const FIRST_NAP: Duration = Duration::from_micros(200);
const LAST_NAP: Duration = Duration::from_millis(64);
/// A pump that has moved so many messages may have stopped only to let others have the thread.
const MANY: u64 = 4096;
/// `POLLMSG`: there is something for `NLMMAP_RECV`.
const MESSAGE: u32 = 0x400;
/// A read that waits longer is `EINTR`. A ring file is a regular file, whose position has a lock: another process that reads
/// the same open file waits behind this one where not even SIGKILL reaches it.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// Readers of one open file that may wait at once.
const READERS: usize = 64;

/// The rings, as far as the client has set them.
pub(super) struct Rings {
    memory: OwnedFd,
    pub(super) rx: Option<Geometry>,
    pub(super) tx: Option<Geometry>,
    /// Whether the client has asked how to map them: then they stay as they are.
    fixed: bool,
    /// Who says to map them: meanwhile they stay as they are, too.
    pub(super) mappers: Mappers,
    /// Whether frames move. A character device's rings do once the client has given memory for them.
    pub(super) active: bool,
    ticket: Ticket,
}

impl Rings {
    fn slot(&mut self, which: Which) -> &mut Option<Geometry> {
        match which {
            Which::Rx => &mut self.rx,
            Which::Tx => &mut self.tx,
        }
    }

    pub(super) fn len(&self, which: Which) -> usize {
        let ring = match which {
            Which::Rx => &self.rx,
            Which::Tx => &self.tx,
        };
        ring.as_ref().map_or(0, Geometry::len)
    }
}

struct Reader {
    reply: Parked<ReadReply>,
    room: usize,
}

struct Nap {
    /// A look is due already.
    pending: bool,
    next: Duration,
}

/// An open file.
pub struct File {
    pub handle: u64,
    pub node: NodeKind,
    pub client: Client,
    pub opened: Instant,
    notifier: PollNotifier,
    socket: OnceLock<Socket>,
    pub(super) endpoint: Endpoint,
    /// Read by whoever moves frames, written by whoever changes the rings.
    pub(super) rings: RwLock<Rings>,
    /// What socket calls leave behind for the next one.
    pub(super) calls: Calls,
    /// Capabilities of the last request that sent something: what the replies to it may tell.
    caps: AtomicU64,
    readers: Mutex<VecDeque<Reader>>,
    nap: Mutex<Nap>,
    closed: AtomicBool,
}

pub(super) fn os(error: nlmmap_ring::Errno) -> Errno {
    Errno::new(error.0)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl File {
    pub fn new(
        handle: u64,
        node: NodeKind,
        client: Client,
        notifier: PollNotifier,
        memory: OwnedFd,
        ticket: Ticket,
    ) -> File {
        File {
            handle,
            node,
            client,
            opened: Instant::now(),
            notifier,
            socket: OnceLock::new(),
            endpoint: Endpoint::empty(),
            rings: RwLock::new(Rings {
                memory,
                rx: None,
                tx: None,
                fixed: false,
                mappers: Mappers::default(),
                active: false,
                ticket,
            }),
            calls: Calls::default(),
            caps: AtomicU64::new(0),
            readers: Mutex::default(),
            nap: Mutex::new(Nap { pending: false, next: FIRST_NAP }),
            closed: AtomicBool::new(false),
        }
    }

    pub fn socket(&self) -> Option<&Socket> {
        self.socket.get()
    }

    pub(super) fn need_socket(&self) -> Result<&Socket, Errno> {
        self.socket().ok_or(Errno::new(libc::ENOTSOCK))
    }

    pub fn control(&self) -> Option<&Control> {
        self.endpoint.control()
    }

    pub(super) fn rings(&self) -> RwLockReadGuard<'_, Rings> {
        self.rings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Geometry of both rings.
    pub fn geometry(&self) -> [Option<nl_mmap_req>; 2] {
        let rings = self.rings();
        [rings.rx, rings.tx].map(|ring| ring.map(|ring| ring.request()))
    }

    /// RX frames that the client has not released, as far as known.
    pub fn occupancy(&self) -> u32 {
        self.control().map_or(0, |control| control.rx_outstanding.load(Ordering::Relaxed))
    }

    /// Runs `f` with the rights of a request that acts in the client's name.
    pub(super) fn act<T>(
        &self,
        caller: &Caller,
        f: impl FnOnce(&Socket, &Rights) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let socket = self.need_socket()?;
        let rights = self.client.rights(caller);
        self.caps.store(rights.caps, Ordering::Relaxed);
        rights.with(|| f(socket, &rights)).map_err(Errno::from)?
    }

    /// Rights to receive with: a dump looks at those of whoever receives its parts.
    pub(super) fn receiver(&self) -> Rights {
        Rights::receiver(self.caps.load(Ordering::Relaxed))
    }

    /// `NLMMAP_SOCKET`
    pub fn make_socket(&self, caller: &Caller, pool: &Pool, wanted: &abi::Socket) -> Result<(), Errno> {
        if self.socket().is_some() {
            return Err(Errno::EBUSY);
        }
        let there = caller::network_namespace(caller.tid)?;
        let rights = self.client.rights(caller);
        let (kind, strict) = (wanted.kind & !abi::SOCKET_STRICT, wanted.kind & abi::SOCKET_STRICT != 0);
        let socket = Socket::new(there.as_ref(), &rights, kind, wanted.protocol)?;
        // Under the write lock: of two threads that make a socket at once, one gets EBUSY.
        let _rings = self.rings.write().unwrap_or_else(PoisonError::into_inner);
        if self.socket().is_some() {
            return Err(Errno::EBUSY);
        }
        self.endpoint.open(wanted.protocol, strict).map_err(os)?;
        // Nobody waits for the real socket but the pool: no doorbells.
        self.endpoint.unseen.store(false, Ordering::Relaxed);
        self.caps.store(rights.caps, Ordering::Relaxed);
        if self.socket.set(socket).is_err() {
            return Err(Errno::EBUSY);
        }
        pool.watch(self.handle, self.need_socket()?.fd()).map_err(memory::errno)
    }

    pub fn bind(&self, caller: &Caller, name: &SockaddrNl) -> Result<(), Errno> {
        self.act(caller, |socket, _| socket.bind(name))
    }

    pub fn connect(&self, caller: &Caller, name: &SockaddrNl) -> Result<(), Errno> {
        self.act(caller, |socket, _| socket.connect(name))
    }

    pub fn name(&self) -> Result<SockaddrNl, Errno> {
        self.need_socket()?.name()
    }

    pub fn membership(&self, caller: &Caller, add: bool, group: u32) -> Result<(), Errno> {
        let has_ring = self.rings().rx.is_some();
        self.act(caller, |socket, _| socket.membership(add, group, has_ring))
    }

    pub fn set_option(&self, caller: &Caller, option: &abi::SockOpt) -> Result<(), Errno> {
        self.act(caller, |socket, _| socket.set_option(option.level, option.name, option.value))?;
        // NETLINK_NO_ENOBUFS
        if let (nlmmap_ring::abi::SOL_NETLINK, 5, Some(control)) = (option.level, option.name, self.control()) {
            control.set(flag::NO_ENOBUFS, option.value != 0);
        }
        Ok(())
    }

    pub fn option(&self, option: &abi::SockOpt) -> Result<i32, Errno> {
        self.need_socket()?.option(option.level, option.name)
    }

    /// `NLMMAP_RX_RING`, `NLMMAP_TX_RING`: the checks and their order are those of `netlink_set_ring`.
    pub fn set_ring(&self, caller: &Caller, which: Which, request: &nl_mmap_req) -> Result<(), Errno> {
        let socket = self.need_socket()?;
        let mut rings = self.rings.write().unwrap_or_else(PoisonError::into_inner);
        if rings.fixed || rings.mappers.any() {
            return Err(Errno::EBUSY);
        }
        let wanted = if request.nm_block_nr != 0 {
            if rings.slot(which).is_some() {
                return Err(Errno::EBUSY);
            }
            let machine = sys::total_memory().max(1 << 20);
            Some(Geometry::check(request, sys::PAGE as u32, machine).map_err(os)?)
        } else if request.nm_frame_nr != 0 {
            return Err(Errno::EINVAL);
        } else {
            None
        };
        self.arrange(&mut rings, which, wanted)?;
        if which == Which::Rx {
            let rights = self.client.rights(caller);
            let strict = self.endpoint.strict.load(Ordering::Relaxed);
            rights.with(|| match wanted {
                Some(ring) => {
                    self.note_options(socket);
                    let (bytes, frames) = if strict { (0, 0) } else { (ring.len(), ring.frame_nr() as usize) };
                    socket.begin_ring(bytes, frames);
                }
                None => socket.drain(),
            })?;
        }
        Ok(())
    }

    /// Gives the rings their new places in the memory. On failure the ring asked for is not set.
    fn arrange(&self, rings: &mut Rings, which: Which, wanted: Option<Geometry>) -> Result<(), Errno> {
        let before = std::mem::replace(rings.slot(which), wanted);
        let bytes = (rings.len(Which::Rx) + rings.len(Which::Tx)) as u64;
        if let Err(limit) = rings.ticket.set_ring_bytes(bytes) {
            *rings.slot(which) = before;
            super::log::refused(&self.client, format_args!("rings of {bytes} bytes exceed {limit}"));
            return Err(limit.errno());
        }
        if self.node == NodeKind::Cuse {
            // They move again when there is memory for the new ones.
            rings.active = false;
            // SAFETY: the write lock is held, and every user of the rings holds the read lock.
            unsafe {
                self.endpoint.drop_ring(Which::Tx);
                self.endpoint.drop_ring(Which::Rx);
            }
            return Ok(());
        }
        let placed = self.place(rings, which == Which::Rx);
        if placed.is_err() {
            *rings.slot(which) = None;
            let bytes = (rings.len(Which::Rx) + rings.len(Which::Tx)) as u64;
            // Less than before: within every limit.
            let _ = rings.ticket.set_ring_bytes(bytes);
            let again = self.place(rings, which == Which::Rx);
            if again.is_err() {
                (rings.rx, rings.tx) = (None, None);
            }
        }
        placed
    }

    /// Sets the engine's rings to what `rings` says; the receive ring is made anew when it or its size changes.
    fn place(&self, rings: &mut Rings, anew: bool) -> Result<(), Errno> {
        let (rx_len, tx_len) = (rings.len(Which::Rx), rings.len(Which::Tx));
        // SAFETY: the write lock is held, and every user of the rings holds the read lock.
        unsafe {
            self.endpoint.drop_ring(Which::Tx);
            if anew {
                self.endpoint.drop_ring(Which::Rx);
            }
        }
        let keep = if anew { 0 } else { rx_len };
        memory::resize(&rings.memory, keep, rx_len + tx_len).map_err(memory::errno)?;
        self.add_rings(rings)
    }

    fn add_rings(&self, rings: &mut Rings) -> Result<(), Errno> {
        let fd = rings.memory.as_raw_fd();
        for (which, ring, offset) in [(Which::Rx, rings.rx, 0), (Which::Tx, rings.tx, rings.len(Which::Rx))] {
            if let Some(geometry) = ring
                && self.endpoint.ring(which).is_none()
            {
                self.endpoint.add_ring_at(which, geometry, fd, offset).map_err(os)?;
            }
        }
        rings.active = true;
        Ok(())
    }

    /// `NLMMAP_MAP_INFO`
    pub fn map_info(&self) -> Result<MapInfo, Errno> {
        let mut rings = self.rings.write().unwrap_or_else(PoisonError::into_inner);
        let (rx_len, tx_len) = (rings.len(Which::Rx) as u64, rings.len(Which::Tx) as u64);
        if rx_len + tx_len == 0 {
            return Err(Errno::EINVAL);
        }
        let how = if self.node == NodeKind::Fuse { abi::MAP_NODE } else { abi::MAP_MEMORY };
        if self.node == NodeKind::Fuse && !rings.fixed {
            memory::seal(&rings.memory).map_err(memory::errno)?;
        }
        rings.fixed = true;
        Ok(MapInfo { how, pad: 0, rx_len, tx_len })
    }

    /// `NLMMAP_MEMORY`: the rings shall lie in the client's own memfd.
    pub fn use_memory(&self, caller: &Caller, number: i32) -> Result<(), Errno> {
        if self.node == NodeKind::Fuse {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut rings = self.rings.write().unwrap_or_else(PoisonError::into_inner);
        if !(rings.fixed || rings.mappers.any()) || caller.tid == 0 {
            return Err(Errno::EINVAL);
        }
        if rings.active {
            return Err(Errno::EBUSY);
        }
        let len = rings.len(Which::Rx) + rings.len(Which::Tx);
        rings.memory = memory::take(caller.tid, number, len)?;
        self.add_rings(&mut rings)
    }

    /// `NLMMAP_KICK`
    pub fn kick(&self, caller: &Caller, pool: &Pool, kick: &mut Kick) -> Result<(), Errno> {
        if kick.dest_len != 0 && kick.dest_len as usize != size_of::<SockaddrNl>() {
            return Err(Errno::EINVAL);
        }
        let mut dest = kick.dest;
        let result = {
            let rings = self.rings();
            if rings.tx.is_none() || !rings.active {
                return Err(Errno::EINVAL);
            }
            self.act(caller, |socket, rights| {
                let mut template = MsgHdr::EMPTY;
                if kick.dest_len != 0 {
                    template.name = (&raw mut dest).cast();
                    template.namelen = kick.dest_len;
                }
                let credentials = self.sender(caller, rights);
                if let Some(credentials) = &credentials {
                    credentials.attach(&mut template);
                }
                // SAFETY: the template points to locals that outlive the call.
                let sent = unsafe {
                    self.endpoint.kick(&Fd(socket.raw()), sys::getpid(), &template, libc::MSG_DONTWAIT as u32)
                };
                sent.map_err(os)
            })
        };
        self.tell(pool);
        kick.sent = result? as u64;
        Ok(())
    }

    /// One message, to the connected peer or where `dest` says.
    pub fn send(&self, caller: &Caller, pool: &Pool, dest: Option<SockaddrNl>, data: &[u8]) -> Result<usize, Errno> {
        let sent = {
            let rings = self.rings();
            self.act(caller, |socket, rights| {
                if let Some(control) = self.control() {
                    nlmmap_ring::tx::note_request(control, data);
                }
                let sent = socket.send(dest, data, self.sender(caller, rights).as_ref());
                if rings.active && rings.rx.is_some() {
                    self.endpoint.service(&Fd(socket.raw()), sys::getpid(), Context::Send);
                }
                sent
            })
        };
        self.tell(pool);
        sent
    }

    /// One message for `read`, if there is one.
    fn receive(&self, room: usize) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; room];
        let mut vector = IoVec { base: buffer.as_mut_ptr(), len: buffer.len() };
        let mut message = MsgHdr { iov: &raw mut vector, iovlen: 1, ..MsgHdr::EMPTY };
        // SAFETY: the header points to the buffer.
        let got = unsafe { self.calls.take(|| self.receive_into(&mut message, 0)) }?;
        buffer.truncate(got);
        Ok(buffer)
    }

    /// `recvmsg` without sleeping: a message that is in no frame.
    ///
    /// # Safety
    /// The header's pointers are valid for the lengths beside them.
    pub(super) unsafe fn receive_into(&self, message: &mut MsgHdr, flags: u32) -> Result<usize, Errno> {
        let socket = self.need_socket()?;
        let rings = self.rings();
        self.receiver().with(|| {
            let fd = Fd(socket.raw());
            // SAFETY: the caller's duty.
            let got = unsafe {
                if rings.rx.is_none() || !rings.active {
                    nlmmap_ring::socket::Socket::recv(&fd, message, flags | sys::MSG_DONTWAIT)
                } else {
                    self.endpoint.receive(&fd, sys::getpid(), message, flags)
                }
            };
            got.map_err(os)
        })?
    }

    /// `read`: one message, now or, when the caller waits, later.
    pub fn read(&self, pool: &Pool, reply: ReadReply, room: usize, wait: bool) {
        match self.receive(room) {
            Ok(message) => {
                // Undeliverable only when the caller died in between.
                let _ = reply.data(&message);
                self.tell(pool);
            }
            Err(Errno::EAGAIN) if wait => {
                let mut readers = lock(&self.readers);
                readers.retain(|reader| reader.reply.is_waiting());
                if readers.len() >= READERS {
                    return reply.error(Errno::ENOBUFS);
                }
                let reply = match self.node {
                    NodeKind::Fuse => reply.park_for(READ_PATIENCE),
                    NodeKind::Cuse => reply.park(),
                };
                readers.push_back(Reader { reply, room });
                drop(readers);
                // What came before it was in the line has woken nobody for it.
                self.moved(pool, false);
            }
            Err(error) => reply.error(error),
        }
    }

    /// Answers those who wait in `read`, as far as there are messages.
    fn serve_readers(&self) {
        let mut readers = lock(&self.readers);
        while let Some(Reader { reply, room }) = readers.pop_front() {
            let Some(reply) = reply.take() else {
                continue;
            };
            match self.receive(room) {
                Ok(message) => {
                    let _ = reply.data(&message);
                }
                Err(Errno::EAGAIN) => {
                    readers.push_front(Reader { reply: reply.park(), room });
                    return;
                }
                Err(error) => reply.error(error),
            }
        }
    }

    /// What `poll` answers, after everything that has come is in the ring.
    pub fn ready(&self, pool: &Pool) -> PollFlags {
        self.service(Context::Wait);
        let events = self.events();
        self.keep_looking(pool);
        events
    }

    fn events(&self) -> PollFlags {
        let Some(socket) = self.socket() else {
            return PollFlags::empty();
        };
        let rings = self.rings();
        let mask = match self.control() {
            Some(control) if rings.rx.is_some() && rings.active => readiness::mask(&self.endpoint, control),
            _ => socket.events(),
        };
        let message = match self.control() {
            Some(control) if rings.rx.is_some() && rings.active => control.copies.load(Ordering::Relaxed) > 0,
            _ => mask & readiness::IN != 0,
        };
        let message = if message || mask & readiness::ERR != 0 { MESSAGE } else { 0 };
        PollFlags::from_bits(u32::from(mask.cast_unsigned()) | message)
    }

    fn service(&self, context: Context) {
        let Some(socket) = self.socket() else {
            return;
        };
        let rings = self.rings();
        if rings.rx.is_some() && rings.active {
            // Fails only for a thread without the right to give up rights, and then nothing is pumped with too many.
            let pumped = self.receiver().with(|| self.endpoint.service(&Fd(socket.raw()), sys::getpid(), context));
            if let Err(error) = pumped {
                tracing::error!(%error, "cannot take on a client's rights");
            }
        }
    }

    fn moved_so_far(&self) -> u64 {
        self.control().map_or(0, |control| {
            control.counters.rx_frames.load(Ordering::Relaxed) + control.counters.rx_copies.load(Ordering::Relaxed)
        })
    }

    /// Something has happened to the socket: moves messages, and tells who waits.
    pub fn moved(&self, pool: &Pool, error: bool) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let before = self.moved_so_far();
        self.service(Context::Background);
        if self.moved_so_far().wrapping_sub(before) >= MANY {
            pool.later(self.handle, Duration::ZERO);
        }
        if error && let (Some(socket), Some(control)) = (self.socket(), self.control()) {
            // While its ring is full the pump does not receive, and so does not see the error of a lost message.
            let rings = self.rings();
            if rings.rx.is_some() && rings.active {
                let error = socket.take_error();
                if error != 0 {
                    control.error.store(error.unsigned_abs(), Ordering::Relaxed);
                    control.counters.overruns.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.serve_readers();
        self.tell(pool);
    }

    /// Wakes who waits, if there is a reason. The pump comes first, always: no wake-up is early.
    pub(super) fn tell(&self, pool: &Pool) {
        let ready = PollFlags::IN | PollFlags::ERR;
        if self.events().intersects(ready) {
            self.notifier.notify();
        }
        self.keep_looking(pool);
    }

    /// While the ring is full nothing tells when it no longer is: looks again, later and later.
    fn keep_looking(&self, pool: &Pool) {
        let blocked = self.control().is_some_and(|control| control.has(flag::BLOCKED));
        let mut nap = lock(&self.nap);
        if !blocked {
            nap.next = FIRST_NAP;
        } else if !nap.pending {
            nap.pending = true;
            pool.later(self.handle, nap.next);
            nap.next = (nap.next * 2).min(LAST_NAP);
        }
    }

    pub fn timer_fired(&self) {
        lock(&self.nap).pending = false;
    }

    /// `NLMMAP_GET_ERROR`
    pub fn take_error(&self) -> Result<i32, Errno> {
        let socket = self.need_socket()?;
        let ours = self.control().map_or(0, Control::take_error);
        Ok(if ours != 0 { ours } else { socket.take_error() })
    }

    /// Nothing more comes for this file.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        lock(&self.readers).clear();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the last owner of the file is the only user of its endpoint.
        unsafe { self.endpoint.reset() };
    }
}
