//! What others may look at: each endpoint's control page is a small file in the user's runtime directory (observing.md).
//!
//! Nothing is told to anybody: who looks reads the words that the engine keeps anyway. So a message costs nothing; an endpoint
//! costs a few system calls when it is made and one when it is over. Where a file cannot be had the page is ordinary memory,
//! and nobody sees it. The file's name is the maker's process id and a number; it is gone when the endpoint is over, or, where
//! that could not be seen to, when the next endpoint is made or somebody looks.

mod place;

use crate::local::Local;
use crate::log::{debug, warning};
use crate::{process, rights, table};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering};
use nlmmap_ring::card::{TOTALS_LEN, Totals, VERSION};
use nlmmap_ring::control::Control;
use nlmmap_ring::endpoint::Endpoint;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::{sys, tap};
use place::{Dir, Path};
use syscalls::Sysno;

/// What `NLMMAP_VIEW` says.
static WISH: AtomicU8 = AtomicU8::new(BY_DEFAULT);
const BY_DEFAULT: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

/// Numbers that are tried for an endpoint.
const TRIES: u32 = 64;

/// The last number that was given to an endpoint.
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// What the endpoints of the command add up to (`nlmmap run --summary`), or null.
static TOTALS: AtomicPtr<Totals> = AtomicPtr::new(core::ptr::null_mut());

/// Notes the environment's wishes: `NLMMAP_VIEW` (`off`, `on`, or a directory), and `XDG_RUNTIME_DIR`.
pub fn configure(view: Option<&[u8]>, runtime: Option<&[u8]>) {
    if let Some(runtime) = runtime {
        place::note_runtime(runtime);
    }
    match view {
        None | Some(b"") => {}
        Some(b"off" | b"0") => WISH.store(OFF, Ordering::Relaxed),
        Some(b"on" | b"1") => WISH.store(ON, Ordering::Relaxed),
        Some(dir) if dir.first() == Some(&b'/') && place::note_wish(dir) => {
            WISH.store(ON, Ordering::Relaxed);
            find_totals();
        }
        Some(_) => warning!("NLMMAP_VIEW is not used: it is off, on, or the full name of a directory"),
    }
}

/// Maps the file in which a command's endpoints are added up, if the directory has one.
fn find_totals() {
    let Some(dir) = Dir::wished() else { return };
    let Ok(file) = dir.open(c"totals", place::READ_WRITE) else { return };
    if place::is_own_file(file, TOTALS_LEN)
        && let Ok(at) = sys::map_fd(file, TOTALS_LEN)
    {
        // SAFETY: mapped for good, page-aligned, of that length; any bytes are a Totals, which is atomics only.
        let totals = unsafe { &*at.cast::<Totals>() };
        if totals.version.load(Ordering::Acquire) == VERSION {
            TOTALS.store(at.cast(), Ordering::Release);
        }
    }
    sys::close(file);
}

/// Whether the system calls that it takes may be made here. A sandbox may end the process for one that it does not expect.
fn may_call() -> bool {
    const GET_SECCOMP: usize = 21;
    // SAFETY: numbers only.
    let is_free = || unsafe { sys::call(Sysno::prctl, [GET_SECCOMP, 0, 0, 0, 0, 0]) } == Ok(0);
    match WISH.load(Ordering::Relaxed) {
        ON => true,
        OFF => false,
        _ => is_free(),
    }
}

/// Whether the page may lie where other processes of the user can write to it. By a file of its user's, a process that has
/// capabilities would let those have a say that have none.
fn may_be_shown() -> bool {
    may_call() && (WISH.load(Ordering::Relaxed) == ON || rights::is_like_others_of(place::user()))
}

/// Makes a file for an endpoint, by the next number that is free: children may still use what another program in this process
/// has made.
fn make(dir: &Dir) -> Option<(u32, Path, i32)> {
    for _ in 0..TRIES {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
        let name = Path::of_endpoint(sys::getpid(), number);
        match dir.make(&name, sys::PAGE, !TOTALS.load(Ordering::Acquire).is_null()) {
            Ok(file) => return Some((number, name, file)),
            Err(Errno::EXIST) => {}
            Err(_) => break,
        }
    }
    None
}

/// Gives an endpoint, which was just opened and has no ring, a page that others may see; where that cannot be, nothing changes.
pub fn begin(local: &Local, family: u32, strict: bool) -> nlmmap_ring::errno::Result<()> {
    local.shown.store(0, Ordering::Relaxed);
    if !may_be_shown() {
        return Ok(());
    }
    let Some(dir) = Dir::find() else { return Ok(()) };
    if NUMBER.load(Ordering::Relaxed) == 0 && TOTALS.load(Ordering::Acquire).is_null() {
        dir.sweep();
    }
    let Some((number, name, file)) = make(&dir) else { return Ok(()) };
    tap::open_by(open_tap);
    let shown = local.endpoint.show_at(file);
    sys::close(file);
    match shown {
        Ok(()) => local.shown.store(number, Ordering::Release),
        Err(_) => {
            dir.remove(&name);
            // What was in the page's place may be gone.
            // SAFETY: just opened by this thread, which has it for itself.
            unsafe { local.endpoint.reset() };
            return local.endpoint.open(family, strict);
        }
    }
    Ok(())
}

/// Maps the file into which what passes through an endpoint is copied; null when there is none, or it is not to be believed.
fn open_tap(endpoint: &Endpoint) -> *mut u8 {
    let local = table::all().find(|local| core::ptr::eq(&raw const local.endpoint, endpoint));
    let number = local.map_or(0, |local| local.shown.load(Ordering::Relaxed));
    let maker = endpoint.card().map_or(0, |card| card.pid.load(Ordering::Relaxed));
    if number == 0 || !may_call() {
        return core::ptr::null_mut();
    }
    let Some(file) = Dir::find().and_then(|dir| dir.open_tap(maker, number)) else { return core::ptr::null_mut() };
    let at = if place::is_own_file(file, tap::LEN) { sys::map_fd(file, tap::LEN) } else { Err(Errno::PERM) };
    sys::close(file);
    at.unwrap_or(core::ptr::null_mut())
}

/// Fills in the card of an endpoint that has been made.
pub fn describe(local: &Local, fd: i32) {
    let Some(card) = local.endpoint.card() else { return };
    let me = place::myself();
    card.pid.store(sys::getpid(), Ordering::Relaxed);
    card.uid.store(place::user(), Ordering::Relaxed);
    card.fd.store(fd as u32, Ordering::Relaxed);
    card.family.store(local.endpoint.family.load(Ordering::Relaxed), Ordering::Relaxed);
    card.strict.store(u32::from(local.endpoint.strict.load(Ordering::Relaxed)), Ordering::Relaxed);
    card.cookie.store(local.cookie.load(Ordering::Relaxed), Ordering::Relaxed);
    card.start.store(me.start, Ordering::Relaxed);
    card.stack.store(me.stack, Ordering::Relaxed);
    card.made.store(sys::now(), Ordering::Relaxed);
    card.name(&me.name);
    card.version.store(VERSION, Ordering::Release);
    let number = local.shown.load(Ordering::Relaxed);
    if number != 0 {
        debug!("fd {fd}: shown as {}.{number}", sys::getpid());
    }
}

/// Whether another process has the rings mapped, as far as known.
fn has_others(control: &Control) -> bool {
    let pid = sys::getpid();
    control.mappers.iter().any(|m| {
        let other = m.pid.load(Ordering::Relaxed);
        other != 0 && other != pid && m.maps.load(Ordering::Relaxed) != 0 && !sys::is_dead(other)
    })
}

/// This process is done with an endpoint. The last one that is takes its file away, and has it counted.
pub fn end(local: &Local) {
    let (Some(control), Some(card)) = (local.endpoint.control(), local.endpoint.card()) else { return };
    if card.version.load(Ordering::Acquire) != VERSION {
        return;
    }
    let (maker, me) = (card.pid.load(Ordering::Relaxed), sys::getpid());
    let is_mine = maker == me;
    if is_mine {
        card.left.store(1, Ordering::Relaxed);
    }
    let number = local.shown.load(Ordering::Relaxed);
    let totals = TOTALS.load(Ordering::Acquire);
    if number == 0 && (totals.is_null() || !is_mine) {
        return;
    }
    // A child that was only just forked is not known to have them mapped yet.
    let all_are_known = card.forked.load(Ordering::Acquire) <= card.settled.load(Ordering::Acquire);
    let may_be_last = is_mine || card.left.load(Ordering::Relaxed) != 0 || sys::is_dead(maker);
    if !all_are_known || !may_be_last || has_others(control) {
        return;
    }
    // SAFETY: null, or mapped for good.
    if let Some(totals) = unsafe { totals.as_ref() }
        && card.count()
    {
        totals.add(card, control);
    }
    if number != 0
        && may_call()
        && let Some(dir) = Dir::find()
    {
        dir.remove(&Path::of_endpoint(maker, number));
    }
}

/// Whether another process has made it, and has not said that it is done with it. Then nothing is asked at the end of a fork child: it
/// may have gone into a sandbox that ends whoever makes a call that it does not expect, and has perhaps never used what it inherited.
/// (Where the maker was killed, who looks next takes the file away.)
fn is_left_to_its_maker(local: &Local) -> bool {
    let card = local.endpoint.card();
    card.is_none_or(|card| card.pid.load(Ordering::Relaxed) != process::pid() && card.left.load(Ordering::Relaxed) == 0)
}

/// The process ends, with endpoints that are still open.
pub fn conclude() {
    if process::is_vfork_child() {
        return;
    }
    for local in table::all().filter(|local| local.live.load(Ordering::Relaxed) && !is_left_to_its_maker(local)) {
        // Nothing is buried at the end of a process.
        if local.users.begin(|| false, || ()) {
            end(local);
            local.users.leave();
        }
    }
}

/// A child is about to be forked that may use it.
pub fn note_fork(local: &Local) {
    if let Some(card) = local.endpoint.card() {
        card.forked.fetch_add(1, Ordering::Relaxed);
    }
}

/// This process is such a child, and is noted where it has the rings mapped.
pub fn note_child(local: &Local) {
    if let Some(card) = local.endpoint.card() {
        card.settled.fetch_add(1, Ordering::Release);
    }
}
