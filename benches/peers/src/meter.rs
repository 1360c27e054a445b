//! Clocks of one measured thread, and its result line.

use std::time::Instant;

/// CPU time of this thread, in nanoseconds.
fn cpu() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, a local.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sums wall and CPU time while it runs.
#[derive(Default)]
pub struct Meter {
    wall: u64,
    cpu: u64,
    since: Option<(Instant, u64)>,
}

impl Meter {
    pub fn go(&mut self) {
        self.since = Some((Instant::now(), cpu()));
    }

    pub fn pause(&mut self) {
        if let Some((wall, before)) = self.since.take() {
            self.cpu += cpu() - before;
            self.wall += wall.elapsed().as_nanos() as u64;
        }
    }

    /// `messages=N wall=NS cpu=NS`
    pub fn report(&mut self, messages: u64) {
        self.pause();
        println!("messages={messages} wall={} cpu={}", self.wall, self.cpu);
    }
}
