//! Death of client or supervisor at any moment: nobody hangs, and nothing is left behind.
//!
//! `NLMMAP_KILLS` says how many times each (12 by default).

use crate::support::{Build, compile, patient, scratch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn times() -> u64 {
    std::env::var("NLMMAP_KILLS").ok().and_then(|times| times.parse().ok()).unwrap_or(12)
}

/// A supervised `victim`, and the processes beside it.
struct Run {
    client: Child,
    word: String,
}

impl Run {
    fn start(mode: &str) -> Run {
        let word = scratch("victim").display().to_string();
        let mut command = Command::new("unshare");
        command.args(["--net", env!("CARGO_BIN_EXE_nlmmap"), "run", "--via", "supervisor", "--"]);
        command.arg(compile("victim", Build::Static)).args([word.as_str(), mode]);
        let mut client = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(client.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Run { client, word }
    }

    /// The supervisor first, then its guardian.
    fn beside(&self) -> Vec<Pid> {
        let own = Path::new(env!("CARGO_BIN_EXE_nlmmap")).canonicalize().expect("a path");
        let is = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let executes = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == own);
            executes && String::from_utf8_lossy(&words).contains(&self.word)
        };
        let names = fs::read_dir("/proc").expect("/proc").flatten();
        let mut all: Vec<i32> = names.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(is).collect();
        let parent = |pid: i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse::<i32>().ok())
        };
        let pids = all.clone();
        all.sort_by_key(|pid| parent(*pid).is_some_and(|parent| pids.contains(&parent)));
        all.into_iter().map(Pid::from_raw).collect()
    }

    /// Within a time in which even a slow machine is done: everybody has ended.
    fn is_over(&mut self, why: &str) -> Option<i32> {
        let until = Instant::now() + patient(20);
        loop {
            let status = self.client.try_wait().expect("a child of ours");
            let beside = self.beside();
            if let Some(status) = status
                && beside.is_empty()
            {
                return status.code();
            }
            assert!(Instant::now() < until, "{why}: the client: {status:?}; beside it {beside:?}");
            sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// Some milliseconds, others each time.
fn a_while(nr: u64) {
    sleep(Duration::from_micros(nr * nr * 7919 % 23_000));
}

#[test]
fn a_client_is_killed_at_any_moment() {
    for nr in 0..times() {
        let mut run = Run::start(["busy", "poll", "epoll", "recv"][nr as usize % 4]);
        let beside = run.beside();
        assert_eq!(beside.len(), 2, "a supervisor and its guardian: {beside:?}");
        a_while(nr);
        run.client.kill().expect("it lives");
        assert_eq!(run.is_over("the client was killed"), None);
    }
}

#[test]
fn a_supervisor_is_killed_at_any_moment() {
    for nr in 0..times() {
        for mode in ["busy", "poll", "epoll", "early-epoll", "recv"] {
            let mut run = Run::start(mode);
            let supervisor = *run.beside().first().expect("a supervisor");
            a_while(nr);
            kill(supervisor, Signal::SIGKILL).expect("it lives");
            // 42: told `ENOSYS`. None: killed with it, amid a mapping.
            let code = run.is_over(mode);
            assert!(code == Some(42) || code.is_none() && mode == "busy", "{mode}: {code:?}");
        }
    }
}

#[test]
fn a_guardian_is_killed_and_the_supervisor_goes_on() {
    let mut run = Run::start("busy");
    let beside = run.beside();
    kill(*beside.last().expect("a guardian"), Signal::SIGKILL).expect("it lives");
    sleep(Duration::from_millis(100));
    assert!(run.client.try_wait().expect("a child of ours").is_none(), "the client has ended");
    // Both are gone: who sleeps in a stopped call is told by the kernel.
    kill(*beside.first().expect("a supervisor"), Signal::SIGKILL).expect("it lives");
    let code = run.is_over("both were killed");
    assert!(code == Some(42) || code.is_none(), "{code:?}");
}

/// A stop of the supervisor's (Ctrl-Z, a freezer) while it put a descriptor into its client was told there as success with the number 0.
#[test]
fn a_supervisor_is_stopped_at_any_moment() {
    let mut run = Run::start("sockets");
    let supervisor = *run.beside().first().expect("a supervisor");
    for nr in 0..times() * 500 {
        kill(supervisor, Signal::SIGSTOP).expect("it lives");
        kill(supervisor, Signal::SIGCONT).expect("it lives");
        if nr % 64 == 0 {
            let status = run.client.try_wait().expect("a child of ours");
            assert!(status.is_none(), "the client has ended after {nr} stops: {status:?}");
        }
        sleep(Duration::from_micros(nr * 7919 % 150));
    }
}

#[test]
fn what_terminals_and_service_managers_send_is_for_the_program() {
    let mut run = Run::start("poll");
    for pid in run.beside() {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            kill(pid, signal).expect("it lives");
        }
    }
    sleep(Duration::from_millis(100));
    assert_eq!(run.beside().len(), 2);
    kill(Pid::from_raw(run.client.id() as i32), Signal::SIGTERM).expect("it lives");
    assert_eq!(run.is_over("the client was ended"), None);
}
