//! A device with something of everything: messages written come back when read, in order; ioctls
//! try each shape of argument and each way of answering; ring files have memory.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cuse_rs::{
    Caller, Device, Errno, FileHandle, IoctlReply, IoctlRequest, NodeKind, OpenReply, OpenRequest, Opening, Parked,
    PollFlags, PollNotifier, PollRequest, ReadReply, ReadRequest, ReplyError, WriteReply, WriteRequest,
};
use rustix::fs::{MemfdFlags, SealFlags};

use super::client;

#[derive(Default)]
pub struct Echo {
    pub opened: AtomicUsize,
    pub released: AtomicUsize,
    pub interrupted: AtomicUsize,
    pub undelivered: AtomicUsize,
    pub fsyncs: AtomicUsize,
    /// Error that the next open gets; -1 drops the reply, -2 keeps it in `waiting_open`.
    pub next_open: Mutex<i32>,
    pub waiting_open: Mutex<Option<(OpenReply<File>, File)>>,
    pub last_open: Mutex<Option<OpenRequest>>,
    pub last_open_error: Mutex<Option<ReplyError>>,
    /// Ring files get no memory.
    pub no_backing: bool,
    /// Part of the memory's name, to count what is left of it.
    pub tag: &'static str,
}

pub struct File {
    pub handle: FileHandle,
    pub memory: Arc<OwnedFd>,
    pub notifier: PollNotifier,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Vec<u8>>,
    readers: VecDeque<(Parked<ReadReply>, u32)>,
    sleepers: Vec<Parked<IoctlReply>>,
}

impl Echo {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// One whose memory can be told from other tests'.
    pub fn tagged(tag: &'static str) -> Arc<Self> {
        Arc::new(Self { tag, ..Self::default() })
    }

    /// How many memfds of files with this tag are open in this process.
    pub fn memories(&self) -> usize {
        let entries = std::fs::read_dir("/proc/self/fd").expect("/proc");
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let wanted = format!("/memfd:ring-{} ", self.tag);
        targets.filter(|target| target.to_string_lossy().starts_with(&wanted)).count()
    }

    pub fn live(&self) -> usize {
        self.opened.load(Ordering::SeqCst) - self.released.load(Ordering::SeqCst)
    }
}

impl File {
    fn new(reply: &OpenReply<Self>, tag: &str) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create(format!("ring-{tag}"), flags).expect("memfd");
        let memory = Arc::new(memory);
        let (handle, notifier) = (reply.handle(), reply.notifier());
        Self { handle, memory, notifier, state: Mutex::default() }
    }

    /// A message for readers, from the daemon's side.
    pub fn push(&self, message: &[u8]) {
        let mut state = self.state.lock().unwrap();
        while let Some((parked, size)) = state.readers.pop_front() {
            if let Some(reply) = parked.take() {
                let len = message.len().min(size as usize);
                if reply.data(&message[..len]).is_ok() {
                    return;
                }
            }
        }
        state.messages.push_back(message.to_vec());
        drop(state);
        self.notifier.notify();
    }

    pub fn sleepers(&self) -> usize {
        self.state.lock().unwrap().sleepers.iter().filter(|s| s.is_waiting()).count()
    }

    pub fn readers(&self) -> usize {
        self.state.lock().unwrap().readers.iter().filter(|(r, _)| r.is_waiting()).count()
    }

    pub fn wake_sleepers(&self) {
        let sleepers = std::mem::take(&mut self.state.lock().unwrap().sleepers);
        for reply in sleepers.iter().filter_map(Parked::take) {
            reply.done(77, &[]).expect("wake a sleeper");
        }
    }
}

impl Device for Echo {
    type File = File;

    fn open(&self, request: &OpenRequest, reply: OpenReply<File>) {
        *self.last_open.lock().unwrap() = Some(*request);
        let file = File::new(&reply, self.tag);
        match std::mem::take(&mut *self.next_open.lock().unwrap()) {
            0 => {}
            -1 => return drop(reply),
            -2 => return *self.waiting_open.lock().unwrap() = Some((reply, file)),
            number => return reply.error(Errno::new(number)),
        }
        let mut opening = Opening::new();
        if request.node == NodeKind::Fuse && request.sibling.is_none() && !self.no_backing {
            opening = opening.backing(file.memory.clone());
        }
        // Before the answer: the client may go on, and close, before `opened_with` returns.
        self.opened.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = reply.opened_with(file, opening) {
            self.opened.fetch_sub(1, Ordering::SeqCst);
            *self.last_open_error.lock().unwrap() = Some(error);
        }
    }

    fn release(&self, handle: FileHandle, file: Arc<File>) {
        assert_eq!(handle, file.handle);
        self.released.fetch_add(1, Ordering::SeqCst);
    }

    fn read(&self, request: &ReadRequest, file: &Arc<File>, reply: ReadReply) {
        let mut state = file.state.lock().unwrap();
        if let Some(message) = state.messages.pop_front() {
            let len = message.len().min(request.size as usize);
            if reply.data(&message[..len]).is_err() {
                self.undelivered.fetch_add(1, Ordering::SeqCst);
                state.messages.push_front(message);
            }
        } else if request.flags & nix::libc::O_NONBLOCK != 0 {
            reply.error(Errno::EAGAIN);
        } else {
            state.readers.push_back((reply.park(), request.size));
        }
    }

    fn write(&self, request: &WriteRequest<'_>, file: &Arc<File>, reply: WriteReply) {
        file.push(request.data);
        reply.all_written().expect("answer a write");
    }

    fn ioctl(&self, request: &IoctlRequest<'_>, file: &Arc<File>, reply: IoctlReply) {
        let arg = request.arg;
        let done = match request.cmd {
            client::CALLER => {
                let Caller { tid, uid, gid } = request.caller;
                let bytes: Vec<u8> = [tid, uid, gid].iter().flat_map(|v| v.to_ne_bytes()).collect();
                reply.done(0, &bytes)
            }
            client::ADD_ONE => {
                let value = u64::from_ne_bytes(request.data.try_into().expect("8 bytes"));
                reply.done(5, &(value + 1).to_ne_bytes())
            }
            client::SLEEP => {
                file.state.lock().unwrap().sleepers.push(reply.park());
                Ok(())
            }
            client::RING => {
                let size = u32::from_ne_bytes(request.data.try_into().expect("4 bytes"));
                rustix::fs::ftruncate(&file.memory, u64::from(size)).expect("ftruncate");
                let seals = SealFlags::SHRINK | SealFlags::GROW;
                rustix::fs::fcntl_add_seals(&file.memory, seals).expect("seal");
                reply.done(0, &[])
            }
            client::COUNT_AT => {
                let mut word = [0; 4];
                rustix::io::pread(&file.memory, &mut word, arg).expect("pread");
                let next = (u32::from_ne_bytes(word) + 1).to_ne_bytes();
                rustix::io::pwrite(&file.memory, &next, arg).expect("pwrite");
                reply.done(0, &[])
            }
            client::REVERSE => {
                let bytes: Vec<u8> = request.data.iter().rev().copied().collect();
                reply.done(0, &bytes)
            }
            client::FAIL => {
                reply.error(Errno::new(arg as i32));
                Ok(())
            }
            client::DROP => {
                drop(reply);
                Ok(())
            }
            client::RESULT => reply.done(arg as u16, &[]),
            client::TOO_LONG => {
                assert_eq!(reply.done(0, &[0; 5]), Err(ReplyError::TooLong));
                Ok(())
            }
            client::ON_INTERRUPT => {
                // Taken by the hook itself, after the device has counted it.
                let slot = Arc::new(Mutex::new(None));
                let (mine, device) = (slot.clone(), file.clone());
                let mut place = slot.lock().unwrap();
                reply.on_interrupt(move || {
                    let reply: Option<IoctlReply> = mine.lock().unwrap().take();
                    device.push(b"interrupted");
                    reply.expect("parked").error(Errno::EINTR);
                });
                *place = Some(reply);
                drop(place);
                file.push(b"waiting");
                Ok(())
            }
            _ => {
                reply.error(Errno::ENOTTY);
                Ok(())
            }
        };
        done.expect("answer an ioctl");
    }

    fn poll(&self, _: &PollRequest, file: &Arc<File>) -> PollFlags {
        let mut ready = PollFlags::OUT | PollFlags::WRNORM;
        if !file.state.lock().unwrap().messages.is_empty() {
            ready |= PollFlags::IN | PollFlags::RDNORM;
        }
        ready
    }

    fn fsync(&self, _: Caller, _: &Arc<File>, _: bool) -> Result<(), Errno> {
        self.fsyncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
