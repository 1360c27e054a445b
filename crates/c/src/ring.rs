//! `struct nlmmap_ring`: the crate's `RingSocket` for C, in this process or over a node. `docs/nlmmap.3` describes it.
//!
//! A lent message lies in the caller's `struct nlmmap_lent`, as the Rust value moved there; releasing it moves it back. Nothing is
//! allocated for it. A ring counts what it has lent and is not freed under it.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rings::{Builder, Destination, Error, Family, Message, Ring, RingSocket};

use crate::{Request, fail};

const USE_SOCKET: u32 = 1;
const USE_NAMESPACE: u32 = 2;
const CREDENTIALS: u32 = 4;
const NO_CREDENTIALS: u32 = 8;

const FROM_KERNEL: u32 = 1;
const HAS_PORTID: u32 = 2;
const HAS_CREDENTIALS: u32 = 4;

/// `struct nlmmap_options`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    size: usize,
    family: u32,
    flags: u32,
    rx: Request,
    tx: Request,
    portid: u32,
    group_nr: u32,
    groups: *const u32,
    receive_buffer: usize,
    socket: c_int,
    net: c_int,
    node: *const c_char,
}

/// `struct nlmmap_lent`
#[repr(C)]
#[derive(Debug)]
pub struct Lent {
    data: *const c_void,
    len: usize,
    portid: u32,
    group: u32,
    pid: u32,
    uid: u32,
    gid: u32,
    flags: u32,
    ring: *const Handle,
    held: [u64; 8],
}

/// `struct nlmmap_ring`
#[derive(Debug)]
pub struct Handle {
    socket: RingSocket,
    lent: AtomicUsize,
}

/// `struct sockaddr_nl`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Address {
    family: u16,
    pad: u16,
    portid: u32,
    groups: u32,
}

const _: () = assert!(size_of::<Message<'_>>() <= size_of::<[u64; 8]>() && align_of::<Message<'_>>() <= 8);

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// Notes what went wrong for `nlmmap_ring_error`, and sets `errno`.
fn failed(error: &Error) -> c_int {
    // A text with a NUL in it does not come from here; and a thread that ends has no place for it.
    let text = CString::new(error.to_string()).unwrap_or_default();
    let _ = LAST.try_with(|last| *last.borrow_mut() = text);
    fail(error.errno())
}

fn outcome(result: Result<(), Error>) -> c_int {
    result.map_or_else(|error| failed(&error), |()| 0)
}

impl Request {
    /// A ring of frames when the blocks are left to the library, nothing when all is.
    fn ring(&self) -> Option<Ring> {
        match self.words {
            [0, 0, 0, 0] => None,
            [0, 0, size, nr] => Some(Ring::frames(nr, size)),
            [block_size, block_nr, frame_size, frame_nr] => {
                Some(Ring::blocks(block_size, block_nr, frame_size, frame_nr))
            }
        }
    }
}

/// Copies a descriptor of the caller's, which stays the caller's.
fn duplicate(fd: c_int) -> Result<std::os::fd::OwnedFd, Error> {
    let bad = |source| Error::System { what: "the descriptor handed in", source };
    if fd < 0 {
        return Err(bad(std::io::Error::from_raw_os_error(libc::EBADF)));
    }
    // SAFETY: not -1; a number that is no open descriptor is refused by the kernel.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().map_err(bad)
}

/// # Safety
/// The pointers of the options are null or lead to what the header says.
unsafe fn build(options: &Options) -> Result<RingSocket, Error> {
    let mut builder: Builder = RingSocket::builder(Family(options.family)).portid(options.portid);
    if let Some(ring) = options.rx.ring() {
        builder = builder.rx_ring(ring);
    }
    if let Some(ring) = options.tx.ring() {
        builder = builder.tx_ring(ring);
    }
    if options.receive_buffer != 0 {
        builder = builder.receive_buffer(options.receive_buffer);
    }
    if options.group_nr != 0 && !options.groups.is_null() {
        // SAFETY: the caller's duty.
        let groups = unsafe { std::slice::from_raw_parts(options.groups, options.group_nr as usize) };
        builder = builder.groups(groups.iter().copied());
    }
    match options.flags & (CREDENTIALS | NO_CREDENTIALS) {
        0 => {}
        flags => builder = builder.credentials(flags & CREDENTIALS != 0),
    }
    if options.flags & USE_SOCKET != 0 {
        builder = builder.socket(duplicate(options.socket)?);
    }
    if options.flags & USE_NAMESPACE != 0 {
        builder = builder.namespace(duplicate(options.net)?);
    }
    if !options.node.is_null() {
        use std::os::unix::ffi::OsStrExt;
        // SAFETY: the caller's duty.
        let path = unsafe { CStr::from_ptr(options.node) };
        builder = builder.node(std::ffi::OsStr::from_bytes(path.to_bytes()));
    }
    builder.build()
}

/// Makes a ring socket; null with `errno` when it cannot be.
///
/// # Safety
/// `options` is null or leads to a whole `struct nlmmap_options`, whose pointers are null or lead to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_new(options: *const Options) -> *mut Handle {
    // SAFETY: the caller's duty.
    let Some(options) = (unsafe { options.as_ref() }).filter(|options| options.size == size_of::<Options>()) else {
        failed(&Error::Options("nlmmap_options: set size to sizeof(struct nlmmap_options)"));
        return null_mut();
    };
    // SAFETY: the caller's duty.
    match unsafe { build(options) } {
        Ok(socket) => Box::into_raw(Box::new(Handle { socket, lent: AtomicUsize::new(0) })),
        Err(error) => {
            failed(&error);
            null_mut()
        }
    }
}

/// Ends it. `EBUSY` while a message is lent.
///
/// # Safety
/// `ring` is null or from `nlmmap_ring_new`, and not used after this has given 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_free(ring: *mut Handle) -> c_int {
    // SAFETY: the caller's duty.
    let Some(handle) = (unsafe { ring.as_ref() }) else { return 0 };
    if handle.lent.load(Ordering::Acquire) != 0 {
        return failed(&Error::System {
            what: "nlmmap_ring_free: messages are lent, release them first",
            source: std::io::Error::from_raw_os_error(libc::EBUSY),
        });
    }
    // SAFETY: made by `Box::into_raw`; nothing borrows it.
    drop(unsafe { Box::from_raw(ring) });
    0
}

/// The ring, or `EINVAL`.
macro_rules! socket {
    ($ring:expr) => {
        // SAFETY: the caller's duty: null or from `nlmmap_ring_new`.
        match unsafe { $ring.as_ref() } {
            Some(handle) => handle,
            None => return failed(&Error::Options("the ring is NULL")) as _,
        }
    };
}

/// Lends the next message: 1; 0 when none came in `millis` (-1: for ever).
///
/// # Safety
/// `ring` is null or from `nlmmap_ring_new` and used by one thread at a time; `to` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_recv(ring: *const Handle, to: *mut Lent, millis: c_int) -> c_int {
    let handle = socket!(ring);
    if to.is_null() {
        return failed(&Error::Options("the message's place is NULL"));
    }
    let received = match u64::try_from(millis) {
        Err(_) => handle.socket.recv().map(Some),
        Ok(0) => handle.socket.try_recv(),
        Ok(millis) => handle.socket.recv_timeout(Duration::from_millis(millis)),
    };
    let message = match received {
        Ok(Some(message)) => message,
        Ok(None) => return 0,
        Err(error) => return failed(&error),
    };
    let credentials = message.credentials();
    let flag = |is: bool, flag: u32| if is { flag } else { 0 };
    let ids = credentials.unwrap_or_default();
    let mut lent = Lent {
        data: message.as_ptr().cast(),
        len: message.len(),
        portid: message.portid().unwrap_or(0),
        group: message.group(),
        pid: ids.pid,
        uid: ids.uid,
        gid: ids.gid,
        flags: flag(message.is_from_kernel(), FROM_KERNEL)
            | flag(message.portid().is_some(), HAS_PORTID)
            | flag(credentials.is_some(), HAS_CREDENTIALS),
        ring,
        held: [0; 8],
    };
    handle.lent.fetch_add(1, Ordering::Relaxed);
    // SAFETY: `held` is large and aligned enough (asserted above). The ring outlives the message: it is not freed while this is
    // counted.
    unsafe {
        lent.held.as_mut_ptr().cast::<Message<'_>>().write(message);
        to.write(lent);
    }
    1
}

/// Gives a message back. One that was given back already, or is all zeroes, is left alone.
///
/// # Safety
/// `lent` is null, all zeroes, or was filled by `nlmmap_ring_recv` and not copied and released elsewhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_release(lent: *mut Lent) {
    // SAFETY: the caller's duty.
    let Some(lent) = (unsafe { lent.as_mut() }) else { return };
    // SAFETY: null after a release, else the ring that has lent it, which is there as long as it counts this.
    let Some(handle) = (unsafe { lent.ring.as_ref() }) else { return };
    // SAFETY: written by `nlmmap_ring_recv`, and read once: the ring's address is cleared below.
    let message = unsafe { lent.held.as_ptr().cast::<Message<'_>>().read() };
    (lent.ring, lent.data, lent.len) = (null(), null(), 0);
    drop(message);
    handle.lent.fetch_sub(1, Ordering::Release);
}

/// # Safety
/// `data` is null or readable for `len` bytes, which stay as they are for the call.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> &'a [u8] {
    // SAFETY: the caller's duty.
    if data.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(data.cast(), len) } }
}

/// Fills a frame with a message for the kernel.
///
/// # Safety
/// As for `nlmmap_ring_recv`; `data` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_send(ring: *const Handle, data: *const c_void, len: usize) -> c_int {
    let handle = socket!(ring);
    // SAFETY: the caller's duty.
    outcome(handle.socket.send(unsafe { bytes(data, len) }))
}

/// Sends a message to a process or to groups, after what was filled.
///
/// # Safety
/// As for `nlmmap_ring_send`; `to` is null (the kernel) or leads to an address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_send_to(
    ring: *const Handle,
    data: *const c_void,
    len: usize,
    to: *const Address,
) -> c_int {
    let handle = socket!(ring);
    // SAFETY: the caller's duty.
    let to = unsafe { to.as_ref() };
    let to = to.map_or(Destination::KERNEL, |to| Destination { portid: to.portid, groups: to.groups });
    // SAFETY: the caller's duty.
    outcome(handle.socket.send_to(unsafe { bytes(data, len) }, to))
}

/// Sends what was filled: how many bytes.
///
/// # Safety
/// As for `nlmmap_ring_recv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_kick(ring: *const Handle) -> isize {
    let handle = socket!(ring);
    handle.socket.kick().map_or_else(|error| failed(&error) as isize, usize::cast_signed)
}

/// Joins a group, by number.
///
/// # Safety
/// As for `nlmmap_ring_recv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_join(ring: *const Handle, group: u32) -> c_int {
    outcome(socket!(ring).socket.join(group))
}

/// Leaves a group.
///
/// # Safety
/// As for `nlmmap_ring_recv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_leave(ring: *const Handle, group: u32) -> c_int {
    outcome(socket!(ring).socket.leave(group))
}

/// The port id it is bound to.
///
/// # Safety
/// As for `nlmmap_ring_recv`; `portid` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_portid(ring: *const Handle, portid: *mut u32) -> c_int {
    let handle = socket!(ring);
    // SAFETY: the caller's duty.
    let Some(to) = (unsafe { portid.as_mut() }) else { return failed(&Error::Options("the port id's place is NULL")) };
    outcome(handle.socket.portid().map(|portid| *to = portid))
}

/// The descriptor to wait for, which stays the ring's.
///
/// # Safety
/// `ring` is null or from `nlmmap_ring_new`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_ring_fd(ring: *const Handle) -> c_int {
    socket!(ring).socket.as_raw_fd()
}

/// What the last call of this thread that failed has to say, until the next one that fails. Never null.
#[unsafe(no_mangle)]
pub extern "C" fn nlmmap_ring_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}
