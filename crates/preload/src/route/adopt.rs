//! Adoption: a netlink socket becomes ours when a ring is set on it, and ring requests on one that is.
//!
//! The checks and their order are `netlink_setsockopt` and `netlink_set_ring` of 4.4 (abi.md, "Setting a ring").

use crate::fdtable;
use crate::found;
use crate::local::Local;
use crate::log::{debug, info};
use crate::process;
use crate::shown;
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::abi::{self, NETLINK_RX_RING, nl_mmap_req};
use nlmmap_ring::control::flag;
use nlmmap_ring::endpoint::Which;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, SOL_SOCKET};
use syscalls::Sysno;

const SO_RCVBUF: i32 = 8;
const SO_PASSCRED: i32 = 16;
const SO_RCVBUFFORCE: i32 = 33;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;
pub(super) const NETLINK_ADD_MEMBERSHIP: i32 = 1;
pub(super) const NETLINK_PKTINFO: i32 = 3;
pub(super) const NETLINK_NO_ENOBUFS: i32 = 5;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;
/// More than this is not asked of the real socket's buffer, however large the ring.
const MOST_BUFFER: usize = 32 << 20;

/// Serves `NETLINK_RX_RING` or `NETLINK_TX_RING`, after the kernel has answered that it does not know them.
pub(super) fn set_ring(fd: i32, name: i32, value: *const u8, len: u32) -> Result<()> {
    let which = if name == NETLINK_RX_RING { Which::Rx } else { Which::Tx };
    let req = request(value, len)?;
    // A fork child that comes here first makes the tables its own first.
    process::pid();
    let entered = match fdtable::enter(fd) {
        Some(local) => Some(local),
        None => join(fd)?,
    };
    if let Some(local) = entered {
        let result = change(local, fd, which, &req);
        local.leave();
        return result;
    }
    if req.nm_block_nr == 0 {
        // Nothing is set: freeing nothing is fine, with whatever else in the request.
        return if req.nm_frame_nr == 0 { Ok(()) } else { Err(Errno::INVAL) };
    }
    let geometry = judge(&req)?;
    adopt(fd, which, geometry)
}

/// Reads the request as the kernel would: by a copy that can fail.
fn request(value: *const u8, len: u32) -> Result<nl_mmap_req> {
    if (len as usize) < size_of::<nl_mmap_req>() {
        return Err(Errno::INVAL);
    }
    let mut req = nl_mmap_req::default();
    let to = sys::IoVec { base: (&raw mut req).cast(), len: size_of::<nl_mmap_req>() };
    let from = sys::IoVec { base: value.cast_mut(), len: size_of::<nl_mmap_req>() };
    let args = [sys::getpid() as usize, &raw const to as usize, 1, &raw const from as usize, 1, 0];
    // SAFETY: the kernel checks the client's address; ours is a local.
    match unsafe { sys::call(Sysno::process_vm_readv, args) } {
        Ok(16) => Ok(req),
        Ok(_) | Err(Errno::FAULT) => Err(Errno::FAULT),
        // Refused by a sandbox. The kernel has read the first word at this address a moment ago (`setsockopt`).
        // SAFETY: the client's duty, then: 16 readable bytes.
        Err(_) => Ok(unsafe { value.cast::<nl_mmap_req>().read_unaligned() }),
    }
}

fn judge(req: &nl_mmap_req) -> Result<Geometry> {
    let limit = sys::total_memory().max(1 << 20);
    Geometry::check(req, sys::PAGE as u32, limit).inspect_err(|e| {
        let why = if *e == Errno::NOMEM { "more memory than there is" } else { "against the rules of the ABI" };
        info!(
            "ring of {} blocks of {} bytes, {} frames of {} bytes: {why}",
            req.nm_block_nr, req.nm_block_size, req.nm_frame_nr, req.nm_frame_size
        );
    })
}

/// The endpoint of this very socket under another number, which this number now leads to as well.
fn join(fd: i32) -> Result<Option<&'static Local>> {
    let cookie = sys::cookie(fd)?;
    let Some(local) = fdtable::by_cookie(cookie) else {
        return Ok(None);
    };
    fdtable::check(fd).inspect_err(|_| local.leave())?;
    fdtable::insert(fd, local);
    Ok(Some(local))
}

/// A descriptor has come from elsewhere: if its socket is ours, the number is as well. It may be the only one that stays, and
/// nobody asks later: a question that fails is asked again.
pub(super) fn recognize(fd: i32) {
    let domain = twice(|| sys::getsockopt::<i32>(fd, SOL_SOCKET, SO_DOMAIN));
    if domain == Ok(i32::from(sys::AF_NETLINK))
        && !fdtable::is_adopted(fd)
        && let Ok(Some(local)) = twice(|| join(fd))
    {
        local.leave();
    }
}

/// Asks again where the kernel has not said what the number is.
fn twice<T>(ask: impl Fn() -> Result<T>) -> Result<T> {
    match ask() {
        Err(error) if !matches!(error, Errno::BADF | Errno::NOTSOCK) => ask(),
        answer => answer,
    }
}

/// A request on a socket that is ours.
fn change(local: &'static Local, fd: i32, which: Which, req: &nl_mmap_req) -> Result<()> {
    let control = local.endpoint.control().ok_or(Errno::BADF)?;
    let mapped = local.is_mapped() || {
        let _held = control.lock.hold(process::pid());
        control.is_mapped(|pid| pid != process::pid() && !sys::is_dead(pid))
    };
    if mapped {
        info!("fd {fd}: the rings are mapped, by this process or a child: busy");
        return Err(Errno::BUSY);
    }
    if req.nm_block_nr != 0 {
        if local.endpoint.ring(which).is_some() {
            return Err(Errno::BUSY);
        }
        let geometry = judge(req)?;
        local.endpoint.add_ring(which, geometry)?;
        local.endpoint.move_descriptors(fdtable::keep_private);
        if which == Which::Rx {
            begin_receiving(local, fd, &geometry);
        }
        return Ok(());
    }
    if req.nm_frame_nr != 0 {
        return Err(Errno::INVAL);
    }
    // Another thread may be inside a call on this socket: its ring stays until that is over.
    if !local.claim_alone() {
        info!("fd {fd}: another thread is inside a call on this socket: busy");
        return Err(Errno::BUSY);
    }
    if local.endpoint.ring(which).is_some() {
        local.endpoint.move_descriptors(fdtable::release_private);
        // SAFETY: claimed: this thread is the only user.
        unsafe { local.endpoint.drop_ring(which) };
        if which == Which::Rx {
            drain(fd);
        }
        local.endpoint.move_descriptors(fdtable::keep_private);
    }
    local.users.unclaim(1);
    Ok(())
}

/// Makes an endpoint for a socket that has none.
fn adopt(fd: i32, which: Which, geometry: Geometry) -> Result<()> {
    fdtable::check(fd).inspect_err(|_| info!("fd {fd}: descriptors from {} on cannot carry rings", fdtable::MOST))?;
    crate::fork::prepare()?;
    if fdtable::all().next().is_none() {
        super::note_signals();
    }
    let domain: i32 = sys::getsockopt(fd, SOL_SOCKET, SO_DOMAIN)?;
    if domain != i32::from(sys::AF_NETLINK) {
        return Err(Errno::NOPROTOOPT);
    }
    let family: i32 = sys::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL)?;
    let cookie = sys::cookie(fd)?;
    let local = fdtable::allocate()?;
    let made = local
        .endpoint
        .open(family as u32, found::STRICT.load(Relaxed))
        .and_then(|()| shown::begin(local, family as u32, found::STRICT.load(Relaxed)))
        .and_then(|()| local.endpoint.add_ring(which, geometry));
    if let Err(e) = made {
        info!("fd {fd}: no memory for a ring of {} bytes", geometry.len());
        local.leave();
        return Err(e);
    }
    local.endpoint.move_descriptors(fdtable::keep_private);
    local.cookie.store(cookie, Relaxed);
    local.maker.store(process::pid(), Relaxed);
    local.lost.store(0, Relaxed);
    local.lost_by_kernel.store(0, Relaxed);
    local.held.store(0, Relaxed);
    note_options(local, fd);
    if which == Which::Rx {
        begin_receiving(local, fd, &geometry);
    }
    shown::describe(local, fd);
    fdtable::insert(fd, local);
    super::fds::each_open(|other| {
        if other != fd && !fdtable::is_adopted(other) && sys::cookie(other) == Ok(cookie) {
            fdtable::insert(other, local);
        }
    });
    super::epoll::find_watches(local);
    debug!(
        "fd {fd}: adopted, family {family}, {which:?} ring of {} frames of {} bytes",
        geometry.frame_nr(),
        geometry.frame_size()
    );
    local.leave();
    Ok(())
}

/// What a doorbell costs in a queue, measured on a socket of our own.
fn bell_bytes() -> Result<u32> {
    // SAFETY: numbers only. SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK: anybody may send there.
    let fd = unsafe { sys::call(Sysno::socket, [sys::AF_NETLINK as usize, 0x80003, 2, 0, 0, 0]) }? as i32;
    let name = sys::SockaddrNl { family: sys::AF_NETLINK, ..Default::default() };
    // SAFETY: an address and its length.
    let bound = unsafe { sys::call(Sysno::bind, [fd as usize, &raw const name as usize, 12, 0, 0, 0]) };
    let bytes = bound.and_then(|_| nlmmap_ring::rx::measure_bell(&Fd(fd)));
    sys::close(fd);
    bytes
}

/// What the client has asked of the real socket so far, before we ask more of it.
fn note_options(local: &Local, fd: i32) {
    let Some(control) = local.endpoint.control() else {
        return;
    };
    let on = |level, name| sys::getsockopt::<i32>(fd, level, name).is_ok_and(|v| v != 0);
    control.set(flag::PASSCRED, on(SOL_SOCKET, SO_PASSCRED));
    control.set(flag::PKTINFO, on(abi::SOL_NETLINK, NETLINK_PKTINFO));
    let bell = bell_bytes().unwrap_or(0);
    control.bell_bytes.store(bell, Relaxed);
    control.set(flag::NO_BELL, bell == 0);
    // SAFETY: reads a counter of the processor.
    let secret = unsafe { core::arch::x86_64::_rdtsc() } ^ (core::ptr::from_ref(local) as u64).rotate_left(32);
    control.bell_secret.store(secret, Relaxed);
    control.set(flag::NO_ENOBUFS, on(abi::SOL_NETLINK, NETLINK_NO_ENOBUFS));
}

/// The real socket is made ready to fill frames.
fn begin_receiving(local: &Local, fd: i32, geometry: &Geometry) {
    drain(fd);
    // Credentials come with each message; a client that did not ask does not see them.
    let _ = sys::setsockopt(fd, SOL_SOCKET, SO_PASSCRED, 1);
    // Groups above 32 are told by ancillary data only.
    let groups = sys::getsockopt_over(fd, abi::SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, [0u32; 64]).unwrap_or([0; 64]);
    if groups.iter().skip(1).any(|g| *g != 0) {
        let _ = sys::setsockopt(fd, abi::SOL_NETLINK, NETLINK_PKTINFO, 1);
    }
    if local.endpoint.strict.load(Relaxed) {
        return;
    }
    // A burst that the ring could hold must fit in the real queue while nobody pumps. The kernel doubles what it is asked for,
    // and charges about 768 bytes for the smallest message.
    let want = (geometry.len() / 2 + geometry.frame_nr() as usize * 512).min(MOST_BUFFER) as i32;
    let have: i32 = sys::getsockopt(fd, SOL_SOCKET, SO_RCVBUF).unwrap_or(i32::MAX);
    if have / 2 < want && sys::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, want).is_err() {
        let _ = sys::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, want);
    }
}

/// Setting or freeing the receive ring empties the queue.
fn drain(fd: i32) {
    let mut byte = 0u8;
    for _ in 0..1_000_000 {
        let args = [fd as usize, &raw mut byte as usize, 0, (sys::MSG_DONTWAIT | sys::MSG_TRUNC) as usize, 0, 0];
        // SAFETY: a buffer of no bytes.
        match unsafe { sys::call(Sysno::recvfrom, args) } {
            Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(_) => break,
        }
    }
}
