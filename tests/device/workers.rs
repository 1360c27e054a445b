//! The processes that act for clients: where they are, how many, and what their end means.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, Place, client, passes};
use crate::support::patient;

nix::ioctl_write_ptr!(make_socket, 0xDA, 1, [u32; 2]);
nix::ioctl_write_ptr!(bind, 0xDA, 2, [u32; 3]);
nix::ioctl_read!(name, 0xDA, 4, [u32; 3]);

const NOBODY: u32 = 65534;
const LIMIT: u64 = 60;

/// Name and parent of a process that lives.
fn process(pid: i32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (front, rest) = stat.rsplit_once(')')?;
    let name = front.split_once('(')?.1.to_owned();
    let mut rest = rest.split_whitespace();
    let state = rest.next()?;
    Some((name, rest.next()?.parse().ok()?)).filter(|_| state != "Z" && state != "X")
}

fn processes() -> Vec<i32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn children(pid: i32) -> Vec<i32> {
    processes().into_iter().filter(|child| process(*child).is_some_and(|(_, parent)| parent == pid)).collect()
}

fn spawner(daemon: &Daemon<'_>) -> i32 {
    let found = children(daemon.pid() as i32);
    assert_eq!(found.len(), 1, "the spawner alone: {found:?}");
    found[0]
}

/// The workers of a daemon.
pub fn workers(daemon: &Daemon<'_>) -> Vec<i32> {
    children(spawner(daemon))
        .into_iter()
        .filter(|pid| process(*pid).is_some_and(|(n, _)| n == "nlmmap-worker"))
        .collect()
}

/// The effective user id of a process that lives.
pub fn uid(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// All processes of a daemon.
pub fn family(daemon: &Daemon<'_>) -> Vec<i32> {
    let spawner = spawner(daemon);
    [daemon.pid() as i32, spawner].into_iter().chain(children(spawner)).collect()
}

/// Waits until none of these processes of a daemon lives.
#[track_caller]
pub fn gone(processes: &[i32]) {
    for pid in processes {
        until("its end", || process(*pid).is_none_or(|(name, _)| !name.starts_with("nlmmap")));
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + patient(LIMIT);
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {:?}", patient(LIMIT));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open(place: &Place) -> File {
    let file = File::options().read(true).write(true).open(place.node()).expect("the node opens");
    // SAFETY: the arguments are those of the ioctls.
    unsafe {
        make_socket(file.as_raw_fd(), &[libc::SOCK_RAW as u32, 0]).expect("a socket");
        bind(file.as_raw_fd(), &[libc::AF_NETLINK as u32, 0, 0]).expect("bound");
    }
    file
}

fn status(path: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("{path}/status")).unwrap_or_else(|e| panic!("{path}: {e}"));
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} of {path}")).trim().to_owned()
}

/// Every thread of every process of the daemon, while it serves and after a reload.
#[test]
fn the_daemons_processes_have_given_up_what_they_do_not_need() {
    let place = Place::with_config("[limits]\nopens = 100\n");
    let daemon = place.start();
    let held = open(&place);
    daemon.signal(Signal::SIGHUP);
    daemon.says("configuration read");
    // SYS_ADMIN, SYS_PTRACE, NET_ADMIN, KILL.
    let front = format!("{:016x}", 1 << 21 | 1 << 19 | 1 << 12 | 1 << 5);
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("threads").flatten() {
        let path = thread.path().display().to_string();
        let writes = status(&path, "Name") == "log";
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let most = if writes { "0000000000000000" } else { &front };
            assert_eq!(status(&path, set), most, "{set} of {}", status(&path, "Name"));
        }
        assert_eq!(status(&path, "CapInh"), "0000000000000000");
        assert_eq!((status(&path, "NoNewPrivs"), status(&path, "Seccomp")), ("1".into(), "2".into()), "{path}");
        threads += 1;
    }
    assert!(threads >= 7, "{threads}");
    let spawner = format!("/proc/{}", spawner(&daemon));
    assert_eq!((status(&spawner, "NoNewPrivs"), status(&spawner, "Seccomp")), ("1".into(), "2".into()));
    assert_eq!(status(&spawner, "Seccomp_filters"), "1");
    let worker = format!("/proc/{}", workers(&daemon)[0]);
    assert_eq!((status(&worker, "NoNewPrivs"), status(&worker, "Seccomp_filters")), ("1".into(), "2".into()));
    drop(held);
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// A client of another user, which holds an open file until its input ends.
fn other(place: &Place, uid: u32) -> Child {
    let mut command = client("device_hold");
    command.arg(place.node()).uid(uid).gid(uid).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a client");
    let mut byte = [0];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut byte).expect("it holds");
    child
}

fn error(file: &File) -> Option<i32> {
    let mut answer = [0u32; 3];
    // SAFETY: the argument is that of the ioctl.
    unsafe { name(file.as_raw_fd(), &raw mut answer) }.err().map(|errno| errno as i32)
}

#[test]
fn one_for_each_place_and_no_longer_than_it_is_used() {
    let place = Place::new();
    let daemon = place.start();
    assert!(workers(&daemon).is_empty(), "before anybody came");
    let files = [open(&place), open(&place)];
    assert_eq!(workers(&daemon).len(), 1, "two files of one client");
    let mut others = [other(&place, NOBODY), other(&place, NOBODY), other(&place, NOBODY - 1)];
    let there = workers(&daemon);
    assert_eq!(there.len(), 3, "and of two other users");
    for pid in there {
        looks_like_a_worker(pid);
    }
    drop(files);
    for child in &mut others {
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
    daemon.wait_for_opens(0);
    until("idle workers end", || workers(&daemon).is_empty());
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    daemon.stop();
}

#[test]
fn a_worker_is_in_its_clients_control_group_namespace() {
    let place = Place::new();
    let daemon = place.start();
    let mut command = client("device_hold");
    command.arg(place.node()).stdin(Stdio::piped()).stdout(Stdio::piped());
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(|| Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)?)) };
    let mut child = command.spawn().expect("a client");
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("it holds");
    let [worker] = workers(&daemon)[..] else { panic!("one worker") };
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/cgroup")).expect("its namespace");
    assert_ne!(namespace(child.id()), namespace(daemon.pid()), "the client is elsewhere");
    assert_eq!(namespace(worker.cast_unsigned()), namespace(child.id()));
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// What a worker must not have.
fn looks_like_a_worker(pid: i32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:"), field("Threads:")), ("1", "2", "1"), "{status}");
    assert_eq!(
        (field("CapBnd:"), field("CapAmb:"), field("CapInh:")),
        ("0000000000000000", "0000000000000000", "0000000000000000")
    );
    if !field("Uid:").starts_with("0\t") {
        assert_eq!((field("CapEff:"), field("CapPrm:")), ("0000000000000000", "0000000000000000"));
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten() {
        let to = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        assert!(
            to.starts_with("socket:") || to == "anon_inode:[eventpoll]",
            "descriptor {:?}: {to}",
            entry.file_name()
        );
    }
}

#[test]
fn a_dead_worker_costs_its_own_clients_only() {
    let place = Place::new();
    let daemon = place.start();
    let mut victim = open(&place);
    let [worker] = workers(&daemon)[..] else { panic!("one worker") };
    let mut witness = other(&place, NOBODY);
    // One sleeps in poll, one in read.
    let sleeper = victim.try_clone().expect("a duplicate");
    let asleep = std::thread::spawn(move || {
        let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&sleeper), PollFlags::POLLIN)];
        let woken = poll(&mut fds, PollTimeout::from(60_000u16)).expect("poll");
        (woken, fds[0].revents())
    });
    let mut reader = open(&place);
    let reading = std::thread::spawn(move || reader.read(&mut [0; 4096]).map_err(|error| error.raw_os_error()));
    std::thread::sleep(Duration::from_millis(200));
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("killed");
    let (woken, events) = asleep.join().expect("the sleeper");
    assert!(woken == 1 && events.is_some_and(|events| events.contains(PollFlags::POLLERR)), "{woken} {events:?}");
    assert_eq!(reading.join().expect("the reader"), Err(Some(libc::ENOTCONN)));
    assert_eq!(error(&victim), Some(libc::ENOTCONN));
    assert_eq!(victim.write(&[0; 16]).map_err(|error| error.raw_os_error()), Err(Some(libc::ENOTCONN)));
    // SAFETY: the argument is that of the ioctl.
    let again = unsafe { make_socket(victim.as_raw_fd(), &[libc::SOCK_RAW as u32, 0]) };
    assert_eq!(again, Err(nix::errno::Errno::ENOTCONN), "a lost file stays lost");
    until("the log says so", || daemon.log().contains("a worker has ended"));
    // The others, and the next of the same user.
    witness.stdin.as_mut().expect("a pipe").write_all(b"x").expect("asked");
    let mut byte = [0];
    witness.stdout.as_mut().expect("a pipe").read_exact(&mut byte).expect("the witness goes on");
    assert_eq!(error(&open(&place)), None);
    drop(witness.stdin.take());
    assert!(witness.wait().expect("it ends").success());
    drop(victim);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_stopped_worker_is_killed_and_holds_nobody() {
    let place = Place::new();
    let daemon = place.start();
    let victim = open(&place);
    let [worker] = workers(&daemon)[..] else { panic!("one worker") };
    kill(Pid::from_raw(worker), Signal::SIGSTOP).expect("stopped");
    let asking = std::thread::spawn(move || error(&victim));
    // Meanwhile nobody else notices.
    let mut witness = other(&place, NOBODY);
    drop(witness.stdin.take());
    assert!(witness.wait().expect("it ends").success());
    assert_eq!(asking.join().expect("answered"), Some(libc::ENOTCONN));
    until("the log says so", || daemon.log().contains("a worker does not answer"));
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// Between its last answer and its end nothing is asked of it, so nobody notices that it is silent.
#[test]
fn a_worker_that_is_stopped_when_nobody_uses_it_ends_all_the_same() {
    let place = Place::new();
    let daemon = place.start();
    drop(open(&place));
    daemon.wait_for_opens(0);
    let [worker] = workers(&daemon)[..] else { panic!("one worker") };
    kill(Pid::from_raw(worker), Signal::SIGSTOP).expect("stopped");
    gone(&[worker]);
    daemon.stop();
}

#[test]
fn no_worker_outlives_its_daemon() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let place = Place::new();
        let daemon = place.start();
        let mut held = open(&place);
        let mut all = workers(&daemon);
        all.push(spawner(&daemon));
        assert_eq!(all.len(), 2);
        daemon.signal(signal);
        daemon.wait();
        gone(&all);
        held.write_all(&[0; 16]).expect_err("nobody is there");
    }
}

#[test]
fn without_a_spawner_the_daemon_ends() {
    let place = Place::new();
    let daemon = place.start();
    let _held = open(&place);
    kill(Pid::from_raw(spawner(&daemon)), Signal::SIGKILL).expect("killed");
    let log = place.path("log");
    assert_eq!(daemon.wait().code(), Some(1));
    let text = fs::read_to_string(log).expect("a log");
    assert!(text.contains("the process that makes workers has ended") && text.contains("cure: "), "{text}");
    place.is_clean();
}

#[test]
fn a_file_moves_with_its_waiters_and_what_waits_in_it() {
    let place = Place::new();
    let daemon = place.start();
    passes(client("device_move").arg(place.node()), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_user_has_so_many_workers_and_no_more() {
    let place = Place::new();
    let daemon = place.start();
    let program = client("device_hold").get_program().to_owned();
    // Each in a user namespace of its own: a place of its own.
    let hold = |uid: u32| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-current-user"]).arg(&program).arg(place.node()).uid(uid).gid(uid);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a client");
        let held = child.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).is_ok();
        (child, held)
    };
    let mut all: Vec<_> = (0..64).map(|_| hold(NOBODY)).collect();
    assert!(all.iter().all(|(_, held)| *held), "{}", daemon.tail());
    let (one, held) = hold(NOBODY);
    let error = one.wait_with_output().expect("it ends").stderr;
    let error = String::from_utf8_lossy(&error);
    assert!(!held && error.contains("Resource temporarily unavailable"), "{error}");
    daemon.says("64 workers, of this user or of all, are the most");
    let (other, held) = hold(NOBODY - 1);
    assert!(held, "another user has his own");
    all.push((other, true));
    for (child, _) in &mut all {
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn workers_take_of_their_users_descriptors() {
    // Four open files and their workers take twenty.
    let place = Place::with_config("[limits]\ndescriptors_per_uid = 20\n");
    let daemon = place.start();
    let program = client("device_hold").get_program().to_owned();
    let mut held = Vec::new();
    let error = loop {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-current-user"]).arg(&program).arg(place.node()).uid(NOBODY).gid(NOBODY);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a client");
        if child.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).is_err() {
            break child.wait_with_output().expect("it ends").stderr;
        }
        held.push(child);
        assert!(held.len() <= 4, "{}", daemon.tail());
    };
    let error = String::from_utf8_lossy(&error);
    assert!(held.len() == 4 && error.contains("Too many open files"), "{error}");
    daemon.says("the limit descriptors_per_uid = 20");
    assert_eq!(daemon.stat()["descriptors"].as_u64(), Some(20), "{}", daemon.stat());
    for child in &mut held {
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
    until("all is given back", || daemon.stat()["descriptors"].as_u64() == Some(0));
    daemon.stop();
}

#[test]
fn a_namespace_that_ends_takes_its_worker_along() {
    let place = Place::new();
    let daemon = place.start();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--net"]).arg(client("device_hold").get_program()).arg(place.node());
    passes(command.stdin(Stdio::null()), &daemon);
    daemon.wait_for_opens(0);
    until("the worker's end", || workers(&daemon).is_empty());
    daemon.stop();
}
