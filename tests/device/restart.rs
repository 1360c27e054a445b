//! What clients see of a daemon that goes and comes back: an error at once, whatever they were doing, and then the next one.

use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::attacks::{unharmed, witness};
use crate::cage::MemoryCage;
use crate::daemon::{Daemon, Place, client};
use crate::endurance::{NOISE, charged, complete, held, stream};
use crate::support::patient;
use crate::workers::{family, gone, workers};

/// For an error and a new beginning, on a busy machine. Clients themselves give up sleeping later.
const SOON: u64 = 30;

struct Client {
    child: Child,
    at_work: mpsc::Receiver<()>,
    what: &'static str,
}

impl Client {
    fn start(place: &Place, what: &'static str) -> Client {
        let mut command = client("device_restart");
        let mut child = command.arg(place.node()).arg(what).stdout(Stdio::piped()).spawn().expect("a client");
        let mut out = child.stdout.take().expect("a pipe");
        let (told, at_work) = mpsc::channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            while matches!(out.read(&mut byte), Ok(1)) && told.send(()).is_ok() {}
        });
        Client { child, at_work, what }
    }

    #[track_caller]
    fn is_at_work(&mut self, when: &str) {
        if let Err(error) = self.at_work.recv_timeout(patient(SOON)) {
            panic!("{} {when}: {error}; {:?}", self.what, self.child.try_wait());
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn clients_of_a_daemon_that_goes_have_an_error_and_find_the_next_one() {
    let place = Place::new();
    let mut daemon = place.start();
    let all = ["dump", "dump", "dump", "wait", "wait", "stuck", "stuck"];
    let mut clients: Vec<Client> = all.iter().map(|what| Client::start(&place, what)).collect();
    clients.iter_mut().for_each(|client| client.is_at_work("with the first daemon"));
    for (round, signal) in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM].iter().enumerate() {
        // Under load: those that dump are in the middle of something.
        std::thread::sleep(Duration::from_millis(100));
        daemon.signal(*signal);
        let status = daemon.wait();
        assert_eq!(status.success(), *signal == Signal::SIGTERM, "{status}");
        daemon = place.start();
        clients.iter_mut().for_each(|client| client.is_at_work(&format!("after {signal}, round {round}")));
    }
    drop(clients);
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// Killed again and again with everything under way, it leaves nothing that the next one does not clear away, and the clients of
/// another daemon notice nothing.
#[test]
fn daemons_killed_under_load_leave_nothing_and_hurt_no_others() {
    let (place, other) = (Place::new(), Place::new());
    let untouched = other.start();
    // All of them in one group: what they leave is charged to it.
    let cage = MemoryCage::new(1 << 30);
    let start = || place.start_as(|command| cage.iter().for_each(|cage| cage.put(command)));
    // Of the first and the last, once all clients have gone: what it holds, what the kernel holds of it, and memory.
    let at_rest = |daemon: &Daemon<'_>| {
        daemon.wait_for_opens(0);
        gone(&workers(daemon));
        let stat = daemon.stat();
        (held(daemon), [stat["unanswered"].clone(), stat["backings"].clone()], cage.as_ref().map_or(0, charged))
    };
    let mut daemon = start();
    let all = ["dump", "dump", "wait", "wait", "stuck"];
    let run = || all.iter().map(|what| Client::start(&place, what)).collect::<Vec<_>>();
    let mut first = run();
    first.iter_mut().for_each(|client| client.is_at_work("at first"));
    drop(first);
    let before = at_rest(&daemon);
    let beside = (witness(&other, 6), stream(&other, 4, 6));
    let mut clients = run();
    for round in 0..6 {
        clients.iter_mut().for_each(|client| client.is_at_work(&format!("round {round}")));
        // In the middle of something else each time.
        std::thread::sleep(Duration::from_millis(37 * round));
        let processes = family(&daemon);
        daemon.signal(Signal::SIGKILL);
        assert!(!daemon.wait().success());
        gone(&processes);
        daemon = start();
    }
    clients.iter_mut().for_each(|client| client.is_at_work("at the end"));
    drop(clients);
    let after = at_rest(&daemon);
    assert_eq!((&before.0, &before.1), (&after.0, &after.1), "what the first and the last hold");
    assert!(after.2 < before.2 + NOISE, "{} bytes before, {} after", before.2, after.2);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let here = place.directory.path().display().to_string();
    assert_eq!(
        mounts.lines().filter(|line| line.contains(&here)).count(),
        usize::from(!place.cuse),
        "mounts of dead daemons"
    );
    unharmed(beside.0, &untouched);
    complete(beside.1, &untouched);
    daemon.stop();
    untouched.stop();
}
