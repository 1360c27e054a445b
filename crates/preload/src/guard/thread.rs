//! What the backing thread does when it looks: whose turn it is, and the client's work where it is its own.

use super::{GENERATION, arm, watch_all};
use crate::duty::{ACTIVE, ARMED, DRIVING};
use crate::fdtable;
use crate::local::Local;
use crate::log::warning;
use crate::symbols::EpollEvent;
use crate::watch;
use core::sync::atomic::Ordering;
use nlmmap_ring::control::flag;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys;
use syscalls::Sysno;

/// How long a client that has been calling is trusted to call again, in milliseconds.
const TICK: i32 = 2;
/// After so many looks in a row that found every such client calling, the next ones are twice as far apart, up to [`RAREST`].
const CALM: u32 = 8;
const RAREST: i32 = 16;

/// Longest sleep between two looks at frames that a client without calls still holds, in milliseconds. The looks become rarer
/// the longer it holds them.
const LONGEST: i32 = 1 << 20;

/// A client that has frames to work through is trusted for so many looks.
const TRUST: u32 = 16;

/// A sender that is still at it after so many looks may sleep in its send: the thread goes on without it.
const PATIENCE: u32 = 8;

/// What the thread found at one endpoint; of all endpoints the last of these counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// Nothing to do before the kernel says so.
    Quiet,
    /// The client has called: look whether it still does.
    Calling,
    /// Look again after a tick.
    Tick,
    /// The client holds frames (or the ring is full): look again soon, and less often the longer it lasts.
    Soon,
}

/// How far apart the looks at clients that call are.
struct Calm {
    looks: u32,
    tick: i32,
}

impl Calm {
    const NONE: Calm = Calm { looks: 0, tick: TICK };

    /// Another look that found them calling: how long until the next.
    fn goes_on(&mut self) -> i32 {
        self.looks += 1;
        if self.looks == CALM {
            *self = Calm { looks: 0, tick: (self.tick * 2).min(RAREST) };
        }
        self.tick
    }
}

pub(super) extern "C" fn main(generation: usize) -> usize {
    // SAFETY: PR_SET_NAME (15) takes a C string of up to 16 bytes.
    let _ = unsafe { sys::call(Sysno::prctl, [15, c"nlmmap".as_ptr() as usize, 0, 0, 0, 0]) };
    // Not the process's number, which lives on when another of its threads runs a new program: this thread is gone then, in the middle
    // of whatever it does, and who waits behind it (a fork child) has to find that out.
    let me = sys::gettid();
    let mut events = [EpollEvent { events: 0, data: 0 }; 16];
    let mut timeout = TICK;
    let mut soon = 0i32;
    let mut calm = Calm::NONE;
    loop {
        let ep = watch::instance();
        let args = [ep as usize, events.as_mut_ptr() as usize, events.len(), timeout as usize, 0, 8];
        // SAFETY: the events are locals; no signal set.
        let waited = unsafe { sys::call(Sysno::epoll_pwait, args) };
        if GENERATION.load(Ordering::Acquire) != generation {
            // What came is its successor's, if the number that this one waited at has become the new instance's.
            for event in events.iter().take(waited.unwrap_or(0)) {
                if let Some(local) = fdtable::all().find(|l| core::ptr::from_ref(*l) as u64 == event.data) {
                    watch::follow_by_thread(local);
                }
            }
            return 0;
        }
        let n = match waited {
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(_) => {
                // The program has closed our descriptor by a call we do not see.
                if !reopen(ep) {
                    return 0;
                }
                continue;
            }
        };
        for event in events.iter().take(n) {
            if let Some(local) = fdtable::all().find(|l| core::ptr::from_ref(*l) as u64 == event.data) {
                fired(local);
            }
        }
        let mut next = Next::Quiet;
        let mut in_hand = None;
        for local in fdtable::all().filter(|l| l.live.load(Ordering::Relaxed)) {
            if !local.try_use() {
                continue;
            }
            let found = look(local, me, &mut in_hand);
            local.release();
            next = next.max(found);
        }
        soon = if next == Next::Soon && n == 0 {
            (soon.saturating_mul(if soon < 64 { 2 } else { 4 })).clamp(1, LONGEST)
        } else {
            0
        };
        if next != Next::Calling || n > 0 {
            calm = Calm::NONE;
        }
        timeout = match next {
            Next::Quiet => -1,
            Next::Calling => calm.goes_on(),
            Next::Tick => TICK,
            Next::Soon => soon,
        };
        if next == Next::Soon && soon == 0 {
            // The first looks are close together: a client that works through its frames is about to be done.
            sys::nap(50_000);
            soon = 1;
        }
    }
}

/// Makes a new epoll instance in the place of one that is gone.
fn reopen(gone: i32) -> bool {
    if watch::instance() != gone {
        return true;
    }
    if watch::make(gone).is_err() {
        warning!("the backing thread has lost its descriptor and cannot have another: frames move only during calls");
        return false;
    }
    watch_all();
    true
}

/// A watched socket has a message.
fn fired(local: &'static Local) {
    let duty = &local.duty;
    if duty.state.load(Ordering::Relaxed) == ARMED {
        // A client that has never waited by a call of ours is not expected to begin now.
        let next = if local.endpoint.unseen.load(Ordering::Relaxed) { DRIVING } else { ACTIVE };
        if duty.fired(next) && next == DRIVING {
            watch::follow_by_thread(local);
        }
    }
}

/// Does what the state asks for, as thread `me`. `in_hand`: what [`anything_in_hand`] has answered in this round.
fn look(local: &'static Local, me: u32, in_hand: &mut Option<bool>) -> Next {
    let duty = &local.duty;
    match duty.state.load(Ordering::Acquire) {
        ACTIVE => {
            let waits = duty.waits.load(Ordering::Relaxed);
            if duty.inside.load(Ordering::Relaxed) > 0 && duty.seen.swap(waits, Ordering::Relaxed) == waits {
                // One wait that lasts: the client is idle, and will find somebody to watch for it when it is over.
                if duty.idle() && !watch::arm_by_thread(local) {
                    arm(local);
                }
                return Next::Quiet;
            }
            if duty.inside.load(Ordering::Relaxed) > 0 || duty.seen.swap(waits, Ordering::Relaxed) != waits {
                duty.trusted.store(0, Ordering::Relaxed);
                return if is_strict(local) { Next::Tick } else { Next::Calling };
            }
            if duty.trusted.fetch_add(1, Ordering::Relaxed) < TRUST
                && !is_strict(local)
                && *in_hand.get_or_insert_with(anything_in_hand)
                && !is_filling(local)
            {
                return Next::Tick;
            }
            duty.trusted.store(0, Ordering::Relaxed);
            if !duty.change(ACTIVE, DRIVING) {
                return Next::Tick;
            }
            local.endpoint.unseen.store(true, Ordering::Relaxed);
            watch::follow_by_thread(local);
            drive(local, me)
        }
        DRIVING => drive(local, me),
        _ => Next::Quiet,
    }
}

/// Whether frames are to appear as they did in the kernel: at once, or as near to it as can be, whatever the client does.
fn is_strict(local: &Local) -> bool {
    local.endpoint.strict.load(Ordering::Relaxed)
}

/// Whether the client has a frame in hand of any socket with which it is between two calls: what has come since is then better
/// left to its next call. (Not while a socket's receive buffer fills: the ring is room too.)
fn anything_in_hand() -> bool {
    fdtable::all().filter(|l| l.live.load(Ordering::Relaxed) && l.duty.state.load(Ordering::Relaxed) == ACTIVE).any(
        |l| {
            l.try_use() && {
                let holds = l.endpoint.holds_newest();
                l.release();
                holds
            }
        },
    )
}

/// Whether a quarter of the socket's receive buffer is taken. Nothing is touched: a number that is another socket's by now only
/// makes the answer a wrong one.
fn is_filling(local: &Local) -> bool {
    // SK_MEMINFO_RMEM_ALLOC and SK_MEMINFO_RCVBUF.
    let info: Result<[u32; 9]> =
        sys::getsockopt(local.any_fd(), sys::SOL_SOCKET, linux_raw_sys::net::SO_MEMINFO as i32);
    info.map_or(true, |[taken, room, ..]| taken > room / 4)
}

/// Messages moved into the ring so far.
fn moved(local: &Local) -> u64 {
    local
        .endpoint
        .control()
        .map_or(0, |c| c.counters.rx_frames.load(Ordering::Relaxed) + c.counters.rx_copies.load(Ordering::Relaxed))
}

/// Moves what there is, in the client's stead.
fn drive(local: &'static Local, me: u32) -> Next {
    // What has come between a send and the pump that follows it is the sender's to take, for as long as its sends come to an end.
    if local.endpoint.sending.load(Ordering::Acquire) > 0 {
        let waits = local.duty.waits.load(Ordering::Relaxed);
        if local.duty.seen.swap(waits, Ordering::Relaxed) != waits {
            local.duty.passed.store(0, Ordering::Relaxed);
        }
        if local.duty.passed.fetch_add(1, Ordering::Relaxed) < PATIENCE {
            local.duty.useless.fetch_add(1, Ordering::Relaxed);
            return Next::Soon;
        }
    }
    local.duty.passed.store(0, Ordering::Relaxed);
    if !local.try_use() {
        return Next::Quiet;
    }
    let mut next = Next::Quiet;
    let fd = local.any_fd();
    let mut stale = false;
    // First the claim, then the look whether the number still leads here; `quiesce` does it the other way round.
    local.duty.using.begin(fd);
    let reached = local.live.load(Ordering::Acquire) && fd >= 0 && local.is_reached_by(fd);
    if reached && !fdtable::is_still(fd, local) {
        stale = true;
    } else if reached {
        let before = (moved(local), local.duty.waits.load(Ordering::Relaxed));
        local.endpoint.service(&Fd(fd), me, Context::Background);
        let sent =
            local.duty.waits.load(Ordering::Relaxed) != before.1 || local.endpoint.sending.load(Ordering::Relaxed) > 0;
        if moved(local) != before.0 && !sent {
            local.duty.useless.store(0, Ordering::Relaxed);
            local.duty.alone.store(0, Ordering::Relaxed);
        } else if local.duty.moved.swap(before.0, Ordering::Relaxed) != before.0 {
            // Messages came and went since the last look, and none of them was for this thread to move, or it was in a sender's way.
            local.duty.useless.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(control) = local.endpoint.control()
            && control.flags.load(Ordering::Relaxed) & (flag::BLOCKED | flag::BELL) != 0
        {
            next = Next::Soon;
        }
    }
    local.duty.using.end();
    if stale && fdtable::certain_fd(local) >= 0 {
        // By another number, then.
        next = Next::Tick;
    }
    local.release();
    next
}

#[cfg(test)]
#[test]
fn looks_become_rare_while_all_is_calm() {
    let mut calm = Calm::NONE;
    let apart = |calm: &mut Calm| (0..CALM).map(|_| calm.goes_on()).last();
    assert_eq!([(); 5].map(|()| apart(&mut calm)), [4, 8, 16, 16, 16].map(Some));
    calm = Calm::NONE;
    assert_eq!(calm.goes_on(), TICK);
}
