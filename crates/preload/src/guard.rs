//! The backing thread: moves frames while the client makes no calls.
//!
//! A client that spins on `nm_status`, or waits by system calls of its own, never enters a hook. One thread a process watches
//! the sockets for it. It sleeps in the kernel, and leaves the work to the client's own threads while those keep waiting by
//! calls we see ([`crate::duty`], readiness.md "Who pumps").
//!
//! | state | the socket is | changes to |
//! | --- | --- | --- |
//! | `Off` | not watched: the client is in a wait of ours, or has just called | `Armed` when a wait that slept returns; `Off` stays while calls keep coming (looked at every tick) |
//! | `Armed` | watched for its next message | `Active` by that message |
//! | `Active` | not watched; the client is expected to call within a tick | `Off`/`Active` if it does, `Driving` if not |
//! | `Driving` | watched for every message, which the thread moves at once | `Off` by a wait of ours |

mod thread;

use crate::device;
use crate::duty::{ACTIVE, ARMED, DRIVING, OFF};
use crate::fdtable;
use crate::found;
use crate::local::Local;
use crate::log::{info, warning};
use crate::process;
use crate::watch;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;
use syscalls::Sysno;

/// So many looks for nothing, and the thread leaves a socket to its sender.
const USELESS: u32 = 8;
/// So many sends that took in everything themselves, while the thread did not come to look, and it leaves the socket to the sender.
const ALONE: u32 = 64;

/// Waits that end within so many ticks of the processor's clock (about 1 ms) of each other are a stream.
const OFTEN: u64 = 1 << 21;

/// Which thread is the one: an earlier one, which may sleep in an instance that is gone, ends when it wakes.
static GENERATION: AtomicUsize = AtomicUsize::new(0);
static STARTED: AtomicU32 = AtomicU32::new(0);

/// Starts the thread, once a process, and has it watch `local`.
///
/// # Errors
/// What the kernel or the C library refuses: descriptors (`EMFILE`), threads (`EAGAIN`), memory.
pub fn start(local: &Local) -> Result<()> {
    if !found::may_have_threads() || process::is_unfinished() {
        // Before the C library has been initialized: the constructor sees to it. In the middle of a fork: the next wait does.
        return Ok(());
    }
    if watch::instance() < 0 {
        watch::make(-1)?;
    }
    if STARTED.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        && let Err(e) = spawn(GENERATION.load(Ordering::Acquire))
    {
        STARTED.store(0, Ordering::Release);
        return Err(e);
    }
    if local.duty.state.load(Ordering::Relaxed) == OFF {
        arm(local);
    }
    Ok(())
}

/// Starts the thread for rings that were mapped too early for it.
pub fn catch_up() {
    for local in fdtable::all().filter(|l| l.live.load(Ordering::Relaxed) && l.is_mapped()) {
        let _ = start(local);
    }
}

/// Has the thread woken by the next message, by a new thread and instance if the old one's number was closed where no hook saw
/// it: that thread sleeps in an instance that nobody can reach any more.
fn arm(local: &Local) {
    if watch::arm(local) || local.any_fd() < 0 {
        return;
    }
    let old = watch::instance();
    if old < 0 || watch::is_there() {
        return;
    }
    info!("fd {old}, the backing thread's, was closed without a call we see: another thread takes over");
    // First, so that the old thread does not wait in the new instance.
    let generation = GENERATION.fetch_add(1, Ordering::AcqRel) + 1;
    let made = watch::make(old).and_then(|()| spawn(generation));
    STARTED.store(u32::from(made.is_ok()), Ordering::Release);
    watch_all();
}

/// Registers every socket with a new instance.
fn watch_all() {
    for local in fdtable::all().filter(|l| l.live.load(Ordering::Relaxed)) {
        local.duty.fd.store(0, Ordering::Relaxed);
        watch::arm(local);
    }
}

/// Where glibc allocated the thread's table of thread-local storage, of which it keeps an address inside. For checkers of leaks, to
/// which memory is lost that nothing leads to the start of: the thread is there until the program ends.
#[used]
static TLS_TABLE: AtomicUsize = AtomicUsize::new(0);

/// A thread that the C library knows, so that its credential changes reach it: by a signal of its own, the only kind that is
/// not blocked there.
fn spawn(generation: usize) -> Result<()> {
    let (create, detach) = found::threads();
    if create == 0 || detach == 0 {
        warning!("this process has no pthread_create: frames move only while the program waits, sends or receives");
        return Ok(());
    }
    type Create = unsafe extern "C" fn(*mut usize, usize, extern "C" fn(usize) -> usize, usize) -> i32;
    // SAFETY: the C library's functions by their own names.
    let create = unsafe { core::mem::transmute::<usize, Create>(create) };
    // SAFETY: as above.
    let detach = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn(usize) -> i32>(detach) };
    let mut thread = 0;
    let mask = sys::block_ordinary_signals();
    // SAFETY: `main` never returns and never unwinds; the library is never unloaded.
    let error = unsafe { create(&raw mut thread, 0, thread::main, generation) };
    sys::restore_signals(mask);
    if error != 0 {
        return Err(Errno(error));
    }
    if found::is_glibc() {
        // SAFETY: a `pthread_t` of glibc is the address of the thread's control block, whose second word leads into the table of its
        // thread-local storage (the TLS ABI of this machine); the thread is not detached yet, so that its block is there.
        let table = unsafe { (thread as *const usize).add(1).read() };
        TLS_TABLE.store(table.wrapping_sub(2 * size_of::<usize>()), Ordering::Relaxed);
    }
    // SAFETY: the thread was just made and nobody else knows it.
    unsafe { detach(thread) };
    Ok(())
}

/// A client thread is about to wait: the work is its own.
#[inline]
pub fn enter_wait(local: &Local) {
    let watched = local.duty.enter();
    local.endpoint.unseen.store(false, Ordering::Relaxed);
    if watched {
        watch::follow(local);
    }
}

/// A client thread has waited. From here it may go on without calls: somebody must watch.
#[inline]
pub fn leave_wait(local: &Local) {
    let duty = &local.duty;
    if duty.leave() {
        let now = sys::ticks();
        let often = now.wrapping_sub(duty.left.swap(now, Ordering::Relaxed)) < OFTEN;
        if STARTED.load(Ordering::Relaxed) == 0 {
            // A fork child, or the thread was refused: tried once for each process.
            let _ = start(local);
        } else if often && duty.change(OFF, ACTIVE) {
            // Waits that follow each other closely: a ticking thread is cheaper than a registration changed twice a wait.
            watch::follow(local);
        } else {
            arm(local);
        }
    }
}

/// A wait was answered from memory: noted, so that the thread does not take over. If it has, it hands the work back: while it
/// drives, somebody may wait unseen, and the other way round.
#[inline]
pub fn note_call(local: &Local) {
    // No exchange: that it changes is all that counts, and a wait does this to every socket it is about.
    let waits = &local.duty.waits;
    waits.store(waits.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    if local.duty.state.load(Ordering::Relaxed) == DRIVING {
        hand_back(local);
    } else if local.endpoint.unseen.load(Ordering::Relaxed) {
        local.endpoint.unseen.store(false, Ordering::Relaxed);
    }
}

/// From driving, or being about to, to watching how the client does by itself.
#[cold]
fn hand_back(local: &Local) {
    if local.duty.hand_back() {
        local.endpoint.unseen.store(false, Ordering::Relaxed);
        // This wakes the thread, if it sleeps, and it looks again after each tick.
        watch::follow(local);
    }
}

/// A send has been pumped after by its own thread. Where the backing thread keeps finding that nothing is left for it, it
/// leaves the socket to the sender, and looks again after a tick without sends.
#[inline]
pub fn note_send(local: &Local) {
    let duty = &local.duty;
    duty.waits.fetch_add(1, Ordering::Relaxed);
    if matches!(duty.state.load(Ordering::Relaxed), ARMED | DRIVING) {
        note_watched_send(local);
    }
}

/// A send by a thread that may as well be left to itself, and pays for somebody who may wait unseen: each rings.
#[cold]
fn note_watched_send(local: &Local) {
    let duty = &local.duty;
    if !local.endpoint.unseen.load(Ordering::Relaxed) {
        return;
    }
    let alone = duty.alone.fetch_add(1, Ordering::Relaxed) + 1;
    if duty.useless.load(Ordering::Relaxed) >= USELESS || alone >= ALONE {
        duty.useless.store(0, Ordering::Relaxed);
        duty.alone.store(0, Ordering::Relaxed);
        hand_back(local);
    }
}

/// In a fork child: the parent's thread is not here.
pub fn after_fork() {
    STARTED.store(0, Ordering::Relaxed);
    watch::after_fork();
}

/// The client wants the number that a descriptor of ours has: it moves to another one.
pub fn move_away(fd: i32) {
    // SAFETY: numbers only. F_DUPFD_CLOEXEC.
    let Ok(copy) = (unsafe { sys::call(Sysno::fcntl, [fd as usize, 1030, 3, 0, 0, 0]) }) else {
        return;
    };
    // The mark, if there is one, is the file's.
    let copy = fdtable::adopt_duplicate(copy as i32);
    if !watch::moved(fd, copy) {
        match fdtable::all().find(|l| l.orphan.load(Ordering::Relaxed) == fd) {
            Some(local) => {
                watch::closing(local, fd);
                local.orphan.store(copy, Ordering::Relaxed);
                arm(local);
            }
            None if device::table::move_orphan(fd, copy) => {}
            None => {
                fdtable::close_private(copy);
                return;
            }
        }
    }
    fdtable::forget_private(fd);
}
