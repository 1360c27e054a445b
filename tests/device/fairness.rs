//! Nobody waits for somebody else's data, and who sleeps costs nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use crate::daemon::{Place, client, passes};
use crate::workers::{uid, workers};

#[test]
fn small_requests_do_not_wait_for_large_kicks() {
    let place = Place::new();
    let daemon = place.start();
    passes(client("device_fair").arg(place.node()), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// How long a thread that lives asks to be let run at a time, in nanoseconds: 0 where the kernel does not know.
fn turn(pid: i32) -> Option<u64> {
    let mut attributes = [0u64; 6];
    // SAFETY: the kernel writes `struct sched_attr` of the size that it is told.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, pid, attributes.as_mut_ptr(), 48, 0) };
    (done == 0).then(|| attributes[3])
}

/// Users who kick without end go on one after the other, one that is stopped in its turn holds nobody, and whoever only asks
/// goes first at the processor.
#[test]
fn long_kicks_of_many_users_have_turns() {
    const FIRST: u32 = 60_000;
    let place = Place::new();
    let daemon = place.start();
    // Turns are for work that takes more than an eighth of a processor: as one of four on a single one it does not.
    let many = if std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1) { 3 } else { 4 };
    let mut command = client("device_kickers");
    command.arg(place.node()).args(["6", &many.to_string(), "others", "2"]).stdout(Stdio::piped());
    let mut kickers = command.spawn().expect("a client");
    let mut lines = BufReader::new(kickers.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    let all = workers(&daemon);
    let of = |user: u32| *all.iter().find(|pid| uid(**pid) == Some(user)).expect("its worker");
    let (stopped, asking) = (of(FIRST), of(0));
    let others: Vec<i32> = (1..many).map(|next| of(FIRST + next)).collect();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stopped), nix::sys::signal::Signal::SIGSTOP).expect("stopped");
    let (mut long, mut told) = (0, 0);
    for _ in 0..400 {
        // On a busy machine the kickers' time may be over before.
        let Some(short) = turn(asking) else { break };
        told = told.max(short);
        long = others.iter().copied().filter_map(turn).fold(long, u64::max);
        assert!(short <= 100_000, "the worker of who only asks");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Kernels before 6.12 tell of no turns.
    assert!(long == 10_000_000 || told == 0, "nobody's turns are long: {long}");
    let counts = lines.map(|line| line.expect("text")).find_map(|line| Some(line.strip_prefix("kicks")?.to_owned()));
    let counts: Vec<u64> = counts.expect("counts").split_whitespace().map(|n| n.parse().expect("a number")).collect();
    assert!(
        counts.len() == many as usize && counts.iter().skip(1).all(|kicks| *kicks > 0),
        "{counts:?}\n{}",
        daemon.tail()
    );
    assert!(kickers.wait().expect("it ends").success());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stopped), nix::sys::signal::Signal::SIGCONT).expect("it goes on");
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// How often a process has given the processor away.
fn switches(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
    line.trim().parse().expect("a number")
}

#[test]
fn full_rings_of_sleeping_clients_cost_next_to_nothing() {
    let place = Place::new();
    let daemon = place.start();
    let mut command = client("device_stalled");
    command.arg(place.node()).arg("200").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut stalled = command.spawn().expect("a client");
    let mut lines = BufReader::new(stalled.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "stalled");
    let [worker] = workers(&daemon)[..] else { panic!("one worker") };
    // Until the looks are as rare as they become.
    std::thread::sleep(Duration::from_secs(5));
    let before = switches(worker);
    std::thread::sleep(Duration::from_secs(4));
    let looks = switches(worker) - before;
    assert!(looks <= 40, "{looks} switches in four seconds");
    stalled.stdin.take().expect("a pipe").write_all(b"go\n").expect("told");
    assert_eq!(lines.next().expect("a line").expect("text"), "all there");
    assert!(stalled.wait().expect("it ends").success());
    daemon.wait_for_opens(0);
    daemon.stop();
}
