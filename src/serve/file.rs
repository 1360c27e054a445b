//! One open file of the node, seen from the front: where its socket lives, and who waits for what.
//!
//! The front touches neither socket nor rings. Requests go to the worker that is in the caller's place, with the caller's
//! rights; when that is another than the one before, the open file moves first, and what comes meanwhile waits for it.

mod moving;
mod paying;
mod rings;
mod shown;
mod tapped;
mod waiting;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use cuse_rs::{Caller, Errno, IoctlReply, NodeKind, Parked, PollNotifier, ReadReply, WriteReply};
use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::sys::SockaddrNl;

use super::abi;
use super::caller::Client;
use super::grants::Police;
use super::limits::Ticket;
use super::mappers::Mappers;
use super::memory::{self, Shared};
use super::worker::wire::{Head, Packet, op};
use super::workers::{Lodging, Then, Unasked, Workers, lock};

/// Threads of one open file that may have said where their next `write` goes.
const NEXT_WRITES: usize = 64;
/// Requests that may wait while an open file moves.
const WAITING: usize = 1024;

const NO_SOCKET: Errno = Errno::new(libc::ENOTSOCK);
const GONE: Errno = Errno::new(libc::ENOTCONN);

/// Where the socket is.
enum Home {
    /// The client has not made it yet.
    None,
    Making(Lodging),
    At(Lodging),
    Moving {
        from: Lodging,
        to: Lodging,
    },
    /// Its worker has died.
    Lost,
}

struct Reader {
    reply: Parked<ReadReply>,
    room: usize,
}

/// A request on its way.
struct Job {
    /// Where it has to be done, if that is not wherever the socket is.
    lodging: Option<Lodging>,
    head: Head,
    bytes: Vec<u8>,
    fds: Vec<Arc<OwnedFd>>,
    then: Then,
}

struct State {
    home: Home,
    waiting: VecDeque<Job>,
    memory: Arc<OwnedFd>,
    /// Whether that is the client's: rings that change go to one of the daemon's again.
    theirs: bool,
    /// Whether the client's is being taken at this moment.
    giving: bool,
    /// The rings, as the worker last told.
    rings: [Option<nl_mmap_req>; 2],
    /// Whether the client has asked how to map them: then they stay as they are.
    fixed: bool,
    ticket: Ticket,
    /// Bytes of rings that have been asked for and may come to be.
    asked: u64,
    /// Changes of rings that are under way.
    changing: u32,
    /// Who says to map them: meanwhile they stay as they are, too.
    mappers: Mappers,
    /// Where the next `write` of a thread goes.
    next: Vec<(u32, Option<SockaddrNl>)>,
    readers: VecDeque<Reader>,
    /// Where what passes is copied, if somebody captures it.
    tap: Option<Arc<OwnedFd>>,
    closed: bool,
}

/// An open file.
pub struct File {
    pub handle: u64,
    pub node: NodeKind,
    pub client: Client,
    pub opened: Instant,
    pub police: Police,
    notifier: PollNotifier,
    workers: Arc<Workers>,
    shared: OnceLock<Shared>,
    /// `NETLINK_*` number, and whether it answers as 4.5 did.
    family: OnceLock<(u32, bool)>,
    state: Mutex<State>,
}

impl State {
    fn has_socket(&self) -> bool {
        matches!(self.home, Home::At(_) | Home::Moving { .. })
    }
}

fn len(ring: &nl_mmap_req) -> u64 {
    u64::from(ring.nm_block_size) * u64::from(ring.nm_block_nr)
}

fn both(rings: &[Option<nl_mmap_req>; 2]) -> u64 {
    rings.iter().flatten().map(len).sum()
}

fn fail(unasked: impl IntoIterator<Item = Unasked>) {
    for (then, errno) in unasked {
        then(Err(errno));
    }
}

pub fn bytes_of(answer: Result<Packet, Errno>) -> Result<Vec<u8>, Errno> {
    let packet = answer?;
    match packet.head.error {
        0 => Ok(packet.bytes),
        error => Err(Errno::new(error)),
    }
}

impl File {
    pub fn new(
        handle: u64,
        node: NodeKind,
        client: Client,
        notifier: PollNotifier,
        memory: Arc<OwnedFd>,
        ticket: Ticket,
        police: Police,
    ) -> File {
        File {
            handle,
            node,
            client,
            opened: Instant::now(),
            workers: police.workers().clone(),
            police,
            notifier,
            shared: OnceLock::new(),
            family: OnceLock::new(),
            state: Mutex::new(State {
                home: Home::None,
                waiting: VecDeque::new(),
                memory,
                theirs: false,
                giving: false,
                rings: [None; 2],
                fixed: false,
                ticket,
                asked: 0,
                changing: 0,
                mappers: Mappers::default(),
                next: Vec::new(),
                readers: VecDeque::new(),
                tap: None,
                closed: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    pub fn head(&self, op: u32, value: u64, flags: u32) -> Head {
        Head { op, id: self.workers.number(), handle: self.handle, value, flags, ..Head::default() }
    }

    /// Takes a request to the worker at the caller's place.
    pub fn act(self: &Arc<File>, caller: &Caller, mut head: Head, bytes: Vec<u8>, fds: Vec<Arc<OwnedFd>>, then: Then) {
        let lodging = match self.lodging(caller, &mut head) {
            Ok(lodging) => lodging,
            Err(errno) => return then(Err(errno)),
        };
        self.submit(Job { lodging, head, bytes, fds, then });
    }

    /// A place to act at; none where the socket is already, or is not at all.
    fn lodging(&self, caller: &Caller, head: &mut Head) -> Result<Option<Lodging>, Errno> {
        if matches!(self.state().home, Home::None | Home::Making(_) | Home::Lost) {
            return Ok(None);
        }
        let (place, pid) = self.client.place(caller)?;
        head.pid = pid;
        if matches!(&self.state().home, Home::At(lodging) if lodging.worker.place == place) {
            return Ok(None);
        }
        self.lodge(&place, caller).map(Some)
    }

    fn lodge(&self, place: &super::caller::Place, caller: &Caller) -> Result<Lodging, Errno> {
        self.workers.lodge(place, caller).map_err(|why| {
            super::log::refused(&self.client, format_args!("{why}"));
            Errno::from(why)
        })
    }

    /// Takes a request to wherever the socket is.
    pub fn ask(self: &Arc<File>, head: Head, bytes: Vec<u8>, then: Then) {
        self.submit(Job { lodging: None, head, bytes, fds: Vec::new(), then });
    }

    fn submit(self: &Arc<File>, job: Job) {
        let unasked = self.place(&mut self.state(), job);
        fail(unasked.err());
    }

    fn place(self: &Arc<File>, state: &mut State, job: Job) -> Result<(), Unasked> {
        match &state.home {
            Home::None | Home::Making(_) => Err((job.then, NO_SOCKET)),
            Home::Lost => Err((job.then, GONE)),
            Home::Moving { .. } if state.waiting.len() >= WAITING => Err((job.then, Errno::ENOBUFS)),
            Home::Moving { .. } => {
                state.waiting.push_back(job);
                Ok(())
            }
            Home::At(at) => match &job.lodging {
                Some(to) if to.worker.place != at.worker.place => self.begin_move(state, job),
                _ => at.worker.ask(&self.workers, job.head, job.bytes, job.fds, job.then),
            },
        }
    }

    /// `NLMMAP_SOCKET`
    pub fn make_socket(self: &Arc<File>, caller: &Caller, wanted: abi::Socket, reply: IoctlReply) {
        let place = match self.client.place(caller) {
            Ok((place, _)) => place,
            Err(error) => return reply.error(error.into()),
        };
        let mut state = self.state();
        match state.home {
            Home::None => {}
            Home::Lost => return reply.error(GONE),
            _ => return reply.error(Errno::EBUSY),
        }
        let prepared = self.prepare().and_then(|fds| Ok((fds, self.lodge(&place, caller)?)));
        let (fds, lodging) = match prepared {
            Ok(prepared) => prepared,
            Err(errno) => return reply.error(errno),
        };
        let file = self.clone();
        let then: Then = Box::new(move |answer| {
            let made = bytes_of(answer);
            let mut state = file.state();
            state.home = match (std::mem::replace(&mut state.home, Home::None), &made) {
                (Home::Making(lodging), Ok(_)) => {
                    let strict = wanted.kind & abi::SOCKET_STRICT != 0;
                    let _ = file.family.set((wanted.protocol, strict));
                    file.go_on_tapping(&state, &lodging, true);
                    Home::At(lodging)
                }
                _ => Home::None,
            };
            drop(state);
            match made {
                Ok(_) => drop(reply.done(0, &[])),
                Err(errno) => reply.error(errno),
            }
        });
        let head = self.head(op::SOCKET, u64::from(self.node == NodeKind::Cuse), 0);
        let asked = lodging.worker.ask(&self.workers, head, abi::bytes(&wanted).to_vec(), fds, then);
        if asked.is_ok() {
            state.home = Home::Making(lodging);
        }
        drop(state);
        fail(asked.err());
    }

    /// The memory that a socket's worker needs.
    fn prepare(&self) -> Result<Vec<Arc<OwnedFd>>, Errno> {
        let shared = match self.shared.get() {
            Some(shared) => shared,
            None => {
                let made = Shared::new().map_err(memory::errno)?;
                self.shared.get_or_init(|| made)
            }
        };
        Ok(vec![shared.memory().clone()])
    }

    fn ioctl_then(reply: IoctlReply) -> Then {
        Box::new(move |answer| match bytes_of(answer) {
            // Undeliverable: then nobody waits for it.
            Ok(bytes) => drop(reply.done(0, &bytes)),
            Err(errno) => reply.error(errno),
        })
    }

    /// What needs rings is `EINVAL` without, and so without a socket.
    pub fn ring_error(errno: Errno) -> Errno {
        if errno == NO_SOCKET { Errno::EINVAL } else { errno }
    }

    /// An ioctl that only asks.
    pub fn query(self: &Arc<File>, cmd: u32, argument: &[u8], reply: IoctlReply) {
        self.ask(self.head(op::IOCTL, u64::from(cmd), 0), argument.to_vec(), File::ioctl_then(reply));
    }

    /// An ioctl that does something, in the caller's name.
    pub fn change(self: &Arc<File>, caller: &Caller, cmd: u32, argument: &[u8], reply: IoctlReply) {
        let Some(reply) = self.change_judged(caller, cmd, argument, reply) else {
            return;
        };
        let head = self.head(op::IOCTL, u64::from(cmd), 0);
        self.act(caller, head, argument.to_vec(), Vec::new(), File::ioctl_then(reply));
    }

    /// `NLMMAP_KICK`. An interrupt of the caller ends one that lasts.
    pub fn kick(self: &Arc<File>, caller: &Caller, argument: &[u8], reply: IoctlReply) {
        if let Some(judge) = self.judge(caller) {
            return self.kick_judged(judge, caller, argument, reply);
        }
        let head = self.head(op::IOCTL, u64::from(abi::KICK), 0);
        let (file, id, interrupted) = (Arc::downgrade(self), head.id, Arc::new(AtomicBool::new(false)));
        let note = interrupted.clone();
        reply.on_interrupt(move || {
            note.store(true, Ordering::SeqCst);
            if let Some(file) = file.upgrade() {
                file.cancel(id);
            }
        });
        let then = File::ioctl_then(reply);
        let then: Then = Box::new(move |answer| then(answer.map_err(File::ring_error)));
        self.act(caller, head, argument.to_vec(), Vec::new(), then);
        if interrupted.load(Ordering::SeqCst) {
            // Before there was a kick, maybe: the kernel says it once.
            self.cancel(id);
        }
    }

    /// A kick shall come to an end, wherever it is by now.
    fn cancel(self: &Arc<File>, id: u64) {
        let mut state = self.state();
        match &state.home {
            Home::At(at) => at.worker.say(&self.workers, self.head(op::CANCEL, id, 0)),
            Home::Moving { .. } => {
                let at = state.waiting.iter().position(|job| job.head.id == id);
                let job = at.and_then(|at| state.waiting.remove(at));
                drop(state);
                fail(job.map(|job| (job.then, Errno::EINTR)));
            }
            Home::None | Home::Making(_) | Home::Lost => {}
        }
    }

    /// `write`: one message, to where this thread has said.
    pub fn write(self: &Arc<File>, caller: &Caller, data: &[u8], reply: WriteReply) {
        let mut state = self.state();
        let said = state.next.iter().position(|(tid, _)| *tid == caller.tid);
        let dest = said.and_then(|at| state.next.swap_remove(at).1);
        drop(state);
        if let Some(judge) = self.judge(caller) {
            return self.write_judged(&judge, caller, dest, data, |done| match done {
                Ok(()) => drop(reply.all_written()),
                Err(errno) => reply.error(errno),
            });
        }
        let dest_len = if dest.is_some() { size_of::<SockaddrNl>() as u32 } else { 0 };
        let mut bytes = abi::bytes(&abi::Send { dest: dest.unwrap_or_default(), dest_len, flags: 0 }).to_vec();
        bytes.extend_from_slice(data);
        let then: Then = Box::new(move |answer| match bytes_of(answer) {
            Ok(_) => drop(reply.all_written()),
            Err(errno) => reply.error(errno),
        });
        self.act(caller, self.head(op::WRITE, 0, 0), bytes, Vec::new(), then);
    }

    /// `NLMMAP_SEND`
    pub fn send(self: &Arc<File>, caller: &Caller, argument: &[u8], reply: IoctlReply) {
        let Some((head, data)) = abi::split::<abi::Send>(argument) else {
            return reply.error(Errno::EINVAL);
        };
        if head.dest_len != 0 && head.dest_len as usize != size_of::<SockaddrNl>() {
            return reply.error(Errno::EINVAL);
        }
        match (head.flags, data.len()) {
            (0, _) => {
                if let Some(judge) = self.judge(caller) {
                    let dest = (head.dest_len != 0).then_some(head.dest);
                    return self.write_judged(&judge, caller, dest, data, |done| match done {
                        Ok(()) => drop(reply.done(0, &[])),
                        Err(errno) => reply.error(errno),
                    });
                }
                let then = File::ioctl_then(reply);
                self.act(caller, self.head(op::WRITE, 0, 0), argument.to_vec(), Vec::new(), then);
            }
            (abi::SEND_NEXT, 0) => {
                let mut state = self.state();
                state.next.retain(|(tid, _)| *tid != caller.tid);
                if state.next.len() >= NEXT_WRITES {
                    // Of a thread that has ended in between, most likely.
                    state.next.remove(0);
                }
                state.next.push((caller.tid, (head.dest_len != 0).then_some(head.dest)));
                drop(state);
                let _ = reply.done(0, &[]);
            }
            _ => reply.error(Errno::EINVAL),
        }
    }

    /// Nothing more comes for this file.
    pub fn close(self: &Arc<File>) {
        self.return_lent();
        let mut state = self.state();
        state.closed = true;
        state.tap = None;
        let (readers, waiting) = (std::mem::take(&mut state.readers), std::mem::take(&mut state.waiting));
        let home = std::mem::replace(&mut state.home, Home::Lost);
        drop(state);
        drop((readers, waiting));
        let (Home::At(at) | Home::Making(at) | Home::Moving { from: at, .. }) = home else {
            return;
        };
        let (file, lodging) = (self.clone(), at.worker.clone());
        // What it holds is given back once the worker has let it go.
        let then: Then = Box::new(move |_| drop((file, at)));
        let _ = lodging.ask(&self.workers, self.head(op::CLOSE, 0, 0), Vec::new(), Vec::new(), then);
    }
}
