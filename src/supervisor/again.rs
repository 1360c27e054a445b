//! What has to be done, whatever the kernel lacks at the moment.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Between two tries.
const NAP: Duration = Duration::from_millis(1);
const TRIES: u32 = 1000;

/// Does what a process like this one cannot be without: it is tried for a second. Then the process ends, and its clients' calls with
/// `ENOSYS`.
pub fn or_abort(mut work: impl FnMut() -> Result<(), Errno>) {
    for _ in 0..TRIES {
        if work().is_ok() {
            return;
        }
        std::thread::sleep(NAP);
    }
    std::process::abort();
}

/// Waits for the end of a child's.
pub fn reap(child: Pid) {
    while waitpid(child, None) == Err(Errno::EINTR) {}
}
