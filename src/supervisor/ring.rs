//! A client's socket with rings: the endpoint, its memory, and where the socket is.
//!
//! The supervisor keeps no descriptor of the socket. It is in the supervisor's epoll set, which holds no file, and is taken from the
//! client for each step: so the client's last close is the last, and the port id free after it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno as Os;
use nlmmap_ring::abi::{NETLINK_RX_RING, SOL_NETLINK, nl_mmap_req};
use nlmmap_ring::control::{Control, flag};
use nlmmap_ring::endpoint::{Endpoint, Which};
use nlmmap_ring::errno::Errno;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::rx::{Context, measure_bell};
use nlmmap_ring::socket::{Fd, Socket as _};
use nlmmap_ring::sys::{self, SOL_SOCKET};

use super::shown::{Page, Shown};
use super::standin::StandIns;
use crate::serve::memory;

pub const NETLINK_ADD_MEMBERSHIP: i32 = 1;
pub const NETLINK_PKTINFO: i32 = 3;
pub const NETLINK_NO_ENOBUFS: i32 = 5;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;
/// More than this is not asked of the real socket's buffer, however large the ring.
const MOST_BUFFER: usize = 32 << 20;
/// A pump fills no more frames in one go.
const MOST: u32 = 256;
/// How soon, and how rarely in the end, a ring is looked at again whose client tells of nothing.
const FIRST_NAP: Duration = Duration::from_micros(100);
const LAST_NAP: Duration = Duration::from_secs(2);
/// As long as `epoll` says that there is something, for a client that asks in vain asks again at once.
const SHOWN_NAP: Duration = Duration::from_millis(10);

fn os(error: Os) -> Errno {
    Errno(error as i32)
}

/// One ring's shape, and the file that its memory is.
struct Half {
    geometry: Geometry,
    memory: OwnedFd,
}

/// A socket with rings.
pub struct Ring {
    pub endpoint: Endpoint,
    rx: Option<Half>,
    tx: Option<Half>,
    /// Processes and numbers that have had it, the last one first.
    places: Vec<(u32, i32)>,
    /// When it is to be looked at without being asked.
    pub look: Option<Instant>,
    nap: Duration,
    /// The last pump stopped only to let others have their turn.
    pub again: bool,
    /// It has had something when its socket was nowhere to be found.
    pub missed: bool,
    pub stand_ins: StandIns,
    page: Option<Page>,
}

impl Ring {
    /// A socket that is to have its first ring, for a process.
    pub fn new(fd: &OwnedFd, strict: bool, shown: Option<&Shown>, tgid: u32) -> Result<Box<Ring>, Errno> {
        let family: i32 = sys::getsockopt(fd.as_raw_fd(), SOL_SOCKET, libc::SO_PROTOCOL)?;
        let endpoint = Endpoint::empty();
        endpoint.open(family.cast_unsigned(), strict)?;
        let page = shown.and_then(|shown| shown.begin(&endpoint, tgid, strict));
        // Nobody waits for the real socket: no doorbells.
        endpoint.unseen.store(false, Ordering::Relaxed);
        endpoint.most.store(MOST, Ordering::Relaxed);
        let (places, look, nap) = (Vec::new(), None, FIRST_NAP);
        let stand_ins = StandIns::default();
        let ring =
            Ring { endpoint, rx: None, tx: None, places, look, nap, again: false, missed: false, stand_ins, page };
        ring.note_options(fd);
        Ok(Box::new(ring))
    }

    pub fn control(&self) -> Option<&Control> {
        self.endpoint.control()
    }

    pub fn receives(&self) -> bool {
        self.rx.is_some()
    }

    pub fn transmits(&self) -> bool {
        self.tx.is_some()
    }

    /// The memory of the rings and its length, as a client maps it: receive first.
    pub fn memory(&self) -> impl Iterator<Item = (&OwnedFd, usize)> {
        [&self.rx, &self.tx].into_iter().flatten().map(|half| (&half.memory, half.geometry.len()))
    }

    /// The numbers of these files, by which they are known in a list of mappings.
    pub fn inodes(&self) -> Vec<u64> {
        let stats = self.memory().map(|(memory, _)| nix::sys::stat::fstat(memory));
        stats.filter_map(Result::ok).map(|stat| stat.st_ino).collect()
    }

    /// It was found at this number of this process.
    pub fn seen_at(&mut self, tgid: u32, number: i32) {
        if self.places.first() != Some(&(tgid, number)) {
            self.places.retain(|place| *place != (tgid, number));
            self.places.insert(0, (tgid, number));
            self.places.truncate(64);
        }
    }

    pub fn places(&self) -> &[(u32, i32)] {
        &self.places
    }

    /// `NETLINK_RX_RING`, `NETLINK_TX_RING`: the checks and their order are those of `netlink_set_ring`. `is_mapped`: whether a
    /// client has the rings mapped.
    pub fn set(&mut self, fd: &OwnedFd, name: i32, wanted: &nl_mmap_req, is_mapped: bool) -> Result<(), Errno> {
        if is_mapped {
            return Err(Errno::BUSY);
        }
        let which = if name == NETLINK_RX_RING { Which::Rx } else { Which::Tx };
        if wanted.nm_block_nr != 0 {
            if self.endpoint.ring(which).is_some() {
                return Err(Errno::BUSY);
            }
            let geometry = Geometry::check(wanted, sys::PAGE as u32, sys::total_memory().max(1 << 20))?;
            let memory = memory::new().map_err(os)?;
            memory::resize(&memory, 0..0, geometry.len()).map_err(os)?;
            // A client has it at a number for a moment: it keeps its size.
            memory::seal(&memory).map_err(os)?;
            self.endpoint.add_ring_at(which, geometry, memory.as_raw_fd(), 0)?;
            *self.half(which) = Some(Half { geometry, memory });
            if which == Which::Rx {
                drain(fd);
                self.begin_receiving(fd, &geometry);
            }
        } else if wanted.nm_frame_nr != 0 {
            return Err(Errno::INVAL);
        } else if self.half(which).take().is_some() {
            // SAFETY: this process has one thread.
            unsafe { self.endpoint.drop_ring(which) };
            if which == Which::Rx {
                drain(fd);
            }
        }
        Ok(())
    }

    fn half(&mut self, which: Which) -> &mut Option<Half> {
        match which {
            Which::Rx => &mut self.rx,
            Which::Tx => &mut self.tx,
        }
    }

    /// What the client has asked of the socket so far, before more is asked of it here.
    fn note_options(&self, fd: &OwnedFd) {
        let Some(control) = self.control() else { return };
        let on = |level, name| sys::getsockopt::<i32>(fd.as_raw_fd(), level, name).is_ok_and(|value| value != 0);
        control.set(flag::PASSCRED, on(SOL_SOCKET, libc::SO_PASSCRED));
        control.set(flag::PKTINFO, on(SOL_NETLINK, NETLINK_PKTINFO));
        control.set(flag::NO_ENOBUFS, on(SOL_NETLINK, NETLINK_NO_ENOBUFS));
        let bell = bell_bytes().unwrap_or(0);
        control.bell_bytes.store(bell, Ordering::Relaxed);
        control.set(flag::NO_BELL, bell == 0);
        let mut secret = [0u8; 8];
        // SAFETY: the buffer is writable for its length.
        unsafe { libc::getrandom(secret.as_mut_ptr().cast(), secret.len(), 0) };
        control.bell_secret.store(u64::from_ne_bytes(secret), Ordering::Relaxed);
    }

    fn begin_receiving(&self, fd: &OwnedFd, ring: &Geometry) {
        let fd = fd.as_raw_fd();
        // Of these only the frames' nm_pid, nm_uid, nm_gid and nm_group depend; the kernel refuses none of them.
        let _ = sys::setsockopt(fd, SOL_SOCKET, libc::SO_PASSCRED, 1);
        let groups = sys::getsockopt_over(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, [0u32; 64]).unwrap_or([0; 64]);
        if groups.iter().skip(1).any(|word| *word != 0) {
            let _ = sys::setsockopt(fd, SOL_NETLINK, NETLINK_PKTINFO, 1);
        }
        if self.endpoint.strict.load(Ordering::Relaxed) {
            return;
        }
        // A burst that the ring could hold. The kernel doubles what it is asked for, and charges about 768 bytes for the smallest
        // message.
        let want = (ring.len() / 2 + ring.frame_nr() as usize * 512).min(MOST_BUFFER) as i32;
        let have = sys::getsockopt::<i32>(fd, SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(i32::MAX);
        if have / 2 < want && sys::setsockopt(fd, SOL_SOCKET, libc::SO_RCVBUFFORCE, want).is_err() {
            let _ = sys::setsockopt(fd, SOL_SOCKET, libc::SO_RCVBUF, want);
        }
    }

    /// Moves messages into the ring.
    pub fn service(&mut self, fd: &OwnedFd, context: Context) {
        self.missed = false;
        if !self.receives() {
            return;
        }
        let before = self.moved_so_far();
        self.endpoint.service(&Fd(fd.as_raw_fd()), sys::getpid(), context);
        let moved = self.moved_so_far().wrapping_sub(before);
        self.again = moved >= u64::from(MOST);
        if moved != 0 {
            // The client releases frames.
            self.nap = FIRST_NAP;
            self.look = None;
        }
        self.show();
    }

    /// Brings what stands for it in epoll sets in step.
    pub fn show(&mut self) {
        if let Some(control) = self.endpoint.control() {
            self.stand_ins.show(&self.endpoint, control);
        }
    }

    /// Whether frames are released of which nobody tells: messages wait for one, or `epoll` must be silent after the last. And
    /// whether its socket is to be looked for again.
    pub fn keep_looking(&mut self, now: Instant) {
        let shown = self.stand_ins.shown;
        let unsettled = self.missed
            || self.receives() && (shown || self.control().is_some_and(|control| control.has(flag::BLOCKED)));
        if !unsettled {
            (self.look, self.nap) = (None, FIRST_NAP);
        } else if self.look.is_none_or(|due| due <= now) {
            self.look = Some(now + self.nap);
            self.nap = (self.nap * 2).min(if shown { SHOWN_NAP } else { LAST_NAP });
        }
    }

    fn moved_so_far(&self) -> u64 {
        self.control().map_or(0, |control| {
            control.counters.rx_frames.load(Ordering::Relaxed) + control.counters.rx_copies.load(Ordering::Relaxed)
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some(page) = &self.page {
            page.end(&self.endpoint);
        }
        // SAFETY: the owner is the only user of its endpoint.
        unsafe { self.endpoint.reset() };
    }
}

/// What a doorbell costs in a queue, measured on a socket of our own.
fn bell_bytes() -> Result<u32, Os> {
    let socket = crate::sys::netlink(libc::NETLINK_USERSOCK)?;
    let fd = Fd(socket.as_raw_fd());
    fd.autobind().and_then(|_| measure_bell(&fd)).map_err(|error| Os::from_raw(error.0))
}

/// Setting or freeing the receive ring empties the queue.
fn drain(fd: &OwnedFd) {
    let mut nothing = [0u8; 0];
    for _ in 0..1_000_000 {
        // SAFETY: a buffer of no bytes.
        let got = unsafe { libc::recv(fd.as_raw_fd(), nothing.as_mut_ptr().cast(), 0, libc::MSG_DONTWAIT) };
        if got < 0 && !matches!(Os::last(), Os::EINTR | Os::ENOBUFS) {
            break;
        }
    }
}
