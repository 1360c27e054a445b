//! More than one waits on an open file.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use crate::daemon::{Place, client, passes};
use crate::endurance::ask;
use crate::lifecycle::{open, open_plain, ticks};
use crate::workers::workers;

#[test]
fn who_sleeps_is_woken_whoever_else_asks() {
    let place = Place::new();
    let daemon = place.start();
    let mut command = client("device_waiters");
    let out = passes(command.arg(place.node()).uid(65534), &daemon);
    crate::support::say(out.trim_end());
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// With a ring and without one; the answer, which nobody reads, leaves the socket readable, or a frame.
#[test]
fn messages_that_nobody_reads_cost_nothing() {
    let place = Place::new();
    let daemon = place.start();
    let mut files = [open_plain(&place), open_plain(&place), open(&place), open(&place)];
    files.iter_mut().for_each(|file| (0..20).for_each(|_| ask(file)));
    let [worker] = workers(&daemon)[..] else { panic!("one worker") };
    std::thread::sleep(Duration::from_millis(500));
    let (start, pause) = (ticks(worker as u32), Duration::from_secs(2));
    std::thread::sleep(pause);
    let used = ticks(worker as u32) - start;
    assert!(used <= 5, "{used} ticks of processor time in {pause:?}");
    drop(files);
    daemon.wait_for_opens(0);
    daemon.stop();
}
