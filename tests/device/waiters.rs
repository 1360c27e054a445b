//! More than one waits on an open file.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, Place, client, passes};
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

/// A signal that came before the worker had the kick, or while that stood behind another one, was forgotten, and the kick never ended.
#[test]
fn a_signal_ends_a_kick_whenever_it_comes() {
    let place = Place::new();
    let daemon = place.start();
    let out = passes(client("device_interrupts").arg(place.node()).arg("1500").uid(65534), &daemon);
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

/// What is filled before anybody asks, and waits that the front answers, lose nothing and nobody.
#[test]
fn rings_are_filled_ahead_and_nobody_is_left_asleep() {
    let place = Place::new();
    let daemon = place.start();
    passes(client("device_walkers").arg(place.node()).uid(65534), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// The worker is not asked about a ring that it attends to: stopped, it could not answer. (On a busy machine it may have left
/// the ring just before: then the next try.)
#[test]
fn a_full_ring_is_answered_for_without_its_worker() {
    let place = Place::new();
    let daemon = place.start();
    assert!((0..10).any(|_| is_answered_for(&place, &daemon)), "the worker is asked every time");
    daemon.stop();
}

/// Whether a hundred waits for a full ring are answered while the worker is stopped.
fn is_answered_for(place: &Place, daemon: &Daemon<'_>) -> bool {
    let mut command = client("device_walkers");
    command.arg(place.node()).arg("full").uid(65534).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut walker = command.spawn().expect("it starts");
    let mut out = BufReader::new(walker.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "full\n");
    let [worker] = workers(daemon)[..] else { panic!("one worker") };
    kill(Pid::from_raw(worker), Signal::SIGSTOP).expect("stopped");
    walker.stdin.take().expect("a pipe").write_all(b"\n").expect("it reads");
    let mut answer = [PollFd::new(out.get_ref().as_fd(), PollFlags::POLLIN)];
    let answered = poll(&mut answer, PollTimeout::from(2000u16)).expect("it waits") == 1;
    kill(Pid::from_raw(worker), Signal::SIGCONT).expect("it goes on");
    let mut ready = String::new();
    out.read_to_string(&mut ready).expect("its end");
    assert!(walker.wait().expect("it ends").success());
    assert_eq!(ready.trim(), "100", "whoever answers");
    daemon.wait_for_opens(0);
    answered
}
