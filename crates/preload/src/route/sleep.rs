//! How a blocking receive sleeps (readiness.md, "What a blocking receive waits for").
//!
//! First on the real socket, by a receive of no bytes, if nothing is in it that stays there: the kernel then keeps the
//! client's time limit, its signals and its cancellation. When that was for nothing, or cannot be done, by sleeps between
//! looks at memory, with signals blocked outside of them: one that comes between two sleeps must end the receive all the same.

use super::signals;
use super::wait::{FIRST_NAP, LONGEST_NAP, is_blocked};
use crate::cancel;
use crate::fdtable;
use crate::guard;
use crate::local::Local;
use crate::next::{self, errno, set_errno};
use crate::process;
use crate::symbols::{PollFd, TimeSpec};
use core::ffi::c_int;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use nlmmap_ring::control::{Control, flag};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::lock::Quiet;
use nlmmap_ring::readiness::IN;
use nlmmap_ring::sys::{self, MSG_DONTWAIT, MSG_PEEK, SOL_SOCKET};
use nlmmap_ring::trouble::{self, Trouble};

const SO_RCVTIMEO: i32 = 20;

/// The sleeps of one receive.
pub(super) struct Sleep {
    /// When the first began: the client's limit counts from there.
    began: u64,
    slept: bool,
    again: Option<Again>,
}

/// What every sleep but the first of a receive needs.
struct Again {
    /// When the last must end, `None` for never.
    until: Option<u64>,
    quiet: Quiet,
    nap: u64,
}

impl Sleep {
    pub(super) fn begin() -> Sleep {
        Sleep { began: sys::now(), slept: false, again: None }
    }

    /// Sleeps until there may be something for a receive. `false`: the receive has failed, and `errno` says how.
    pub(super) fn once(&mut self, local: &'static Local, fd: c_int) -> bool {
        let Some(control) = local.endpoint.control() else {
            set_errno(Errno::BADF);
            return false;
        };
        let is_again = core::mem::replace(&mut self.slept, true) || must_look_again(local, control, 1);
        if is_again && self.again.is_none() {
            match Again::begin(self.began, fd) {
                Ok(again) => self.again = Some(again),
                Err(error) => {
                    set_errno(error);
                    return false;
                }
            }
        }
        let mask = self.again.as_ref().and_then(|again| again.quiet.mask());
        announce(local, control);
        let leave = || {
            withdraw(local, control);
            if let Some(mask) = mask {
                sys::restore_signals(mask);
            }
            local.leave();
        };
        let go_on = cancel::guarded(&leave, || {
            if control.copies.load(Relaxed) > 0 || control.error.load(Relaxed) != 0 {
                return true;
            }
            match &mut self.again {
                Some(again) => again.sleep(local, fd, control, must_look_again(local, control, 2)),
                // The first sleep, and meanwhile something has come that stays.
                None if must_look_again(local, control, 2) => true,
                None => peek(local, fd, control, MSG_PEEK),
            }
        });
        withdraw(local, control);
        go_on
    }
}

impl Again {
    /// Fails where the kernel does not tell the socket's limit: a sleep without one might never end.
    fn begin(began: u64, fd: c_int) -> Result<Again> {
        let [seconds, micros] = sys::getsockopt::<[i64; 2]>(fd, SOL_SOCKET, SO_RCVTIMEO)?;
        let quiet = Quiet::begin();
        let nanos = (seconds as u64).saturating_mul(1_000_000_000).saturating_add(micros as u64 * 1000);
        Ok(Again { until: (nanos > 0).then(|| began.saturating_add(nanos)), quiet, nap: FIRST_NAP })
    }

    /// Sleeps on the socket, or, `briefly`, beside it.
    fn sleep(&mut self, local: &Local, fd: c_int, control: &Control, briefly: bool) -> bool {
        let left = self.until.map(|until| until.saturating_sub(sys::now()));
        if left == Some(0) {
            set_errno(Errno::AGAIN);
            return false;
        }
        let mut most = left;
        if briefly {
            most = Some(left.map_or(self.nap, |left| left.min(self.nap)));
            self.nap = (self.nap * 2).min(LONGEST_NAP);
        }
        let time = most.map(|n| TimeSpec { tv_sec: (n / 1_000_000_000) as i64, tv_nsec: (n % 1_000_000_000) as i64 });
        // A C library's set of signals has 1024 bits.
        let mask = self.quiet.mask().map(|mask| [mask.bits(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut entry = PollFd { fd, events: IN, revents: 0 };
        // SAFETY: one entry, one time and one set, locals.
        let woken = unsafe {
            next::ppoll(
                &raw mut entry,
                u64::from(!briefly),
                time.as_ref().map_or(core::ptr::null(), core::ptr::from_ref),
                mask.as_ref().map_or(core::ptr::null(), |mask| mask.as_ptr().cast()),
            )
        };
        match woken {
            // Linux restarts no receive that has a limit (signal(7)).
            -1 => errno() == Errno::INTR && left.is_none() && !signals::interrupt(),
            0 => true,
            // For an error that the kernel holds.
            _ => still(local, fd).is_none_or(|fd| peek(local, fd, control, MSG_PEEK | MSG_DONTWAIT)),
        }
    }
}

/// A look at the socket, by a receive of no bytes. `false`: it failed.
fn peek(local: &Local, fd: c_int, control: &Control, flags: u32) -> bool {
    let mut byte = 0u8;
    // SAFETY: a buffer of no bytes.
    let got = unsafe { next::recv(fd, (&raw mut byte).cast(), 0, flags as c_int) };
    if got >= 0 || flags & MSG_DONTWAIT != 0 && errno() == Errno::AGAIN {
        return true;
    }
    if errno() == Errno::NOBUFS {
        // The kernel has handed its error over: it is this call's.
        control.count(&control.counters.overruns, 1);
        trouble::report(&local.endpoint, Trouble::LostByKernel);
    }
    false
}

/// Whether something is in the socket that stays there, so that it cannot be slept on; or another thread, of at least
/// `others` announced ones, may take the message that this one waits for, and cannot ring for it.
fn must_look_again(local: &Local, control: &Control, others: u32) -> bool {
    let others = || control.waiters.load(Relaxed) + control.receivers.load(Relaxed) >= others;
    is_blocked(local)
        || control.flags.load(Relaxed) & (flag::BELL | flag::PLUG) != 0
        || control.has(flag::NO_BELL) && others()
}

/// As [`super::wait::announce`], for a thread that frames do not wake.
fn announce(local: &Local, control: &Control) {
    guard::enter_wait(local);
    control.receivers.fetch_add(1, SeqCst);
    if !control.lock.is_free() {
        drop(control.lock.hold(process::pid()));
    }
}

fn withdraw(local: &'static Local, control: &Control) {
    // Saturating: a fork child may leave a wait that its parent entered.
    let _ = control.receivers.fetch_update(SeqCst, Relaxed, |n| Some(n.saturating_sub(1)));
    guard::leave_wait(local);
}

/// The number by which a receive that has slept goes on: its own may have been closed meanwhile, and be another file's.
pub(super) fn still(local: &Local, fd: c_int) -> Option<c_int> {
    if fdtable::leads_to(fd, local) && fdtable::is_still(fd, local) {
        return Some(fd);
    }
    Some(fdtable::certain_fd(local)).filter(|other| *other >= 0)
}
