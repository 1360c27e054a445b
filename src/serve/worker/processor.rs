//! How long a thread asks to be let run at a time, which decides whom it holds up.
//!
//! The scheduler (from Linux 6.12 on) lets a thread that asks for short turns go before one that has longer ones as soon as it
//! wakes. It is no priority: shares of the processor stay as they are.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The shortest that there is: requests wait for the threads of the daemon and of its workers, and clients who keep the
/// processors busy have long ones.
pub const SHORT: Duration = Duration::from_micros(100);
/// For work that lasts. Longer than those of a thread that asks for nothing, as clients who wake to their answers do.
pub const LONG: Duration = Duration::from_millis(10);

/// Lets go of the processor for a moment: whoever has been waiting for it goes first. (`sched_yield` would not do: where the scheduler
/// divides time by sessions this thread is alone in its own.)
pub fn let_others_go() {
    std::thread::sleep(Duration::from_nanos(1));
}

/// Processor time of the calling thread so far.
pub fn used() -> Duration {
    // Where the clock is refused, none is counted.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// From now on the calling thread, and those it starts, have turns of this length.
pub fn ask_for(turn: Duration) {
    // SAFETY: numbers only. An error (-1) is also a possible answer, and then as good as any.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let turn = u64::try_from(turn.as_nanos()).unwrap_or(0);
    // `struct sched_attr`, first version: size, policy; flags; nice, priority; runtime, deadline, period.
    let attributes: [u64; 6] = [48, 0, u64::from(nice.cast_unsigned()), turn, 0, 0];
    // SAFETY: the structure has the size that it says. Kernels before 6.12 take no notice of the runtime of ordinary threads.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attributes.as_ptr(), 0) };
}
