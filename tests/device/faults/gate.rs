//! `nlmmap run` with its supervisor, of which only the first is the debugger's child: what its processes are, and how the debugger
//! gives way to the supervisor.
//!
//! A thread has one tracer. The supervisor tries on the process that becomes its client whether it can trace it, so the debugger lets go of
//! that process before, when it sleeps in a read, and takes it again behind that. When the client's program is executed it is let go for
//! good.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::places::Places;
use super::process::ptrace;
use super::session::{OPTIONS, Session, Thread};
use super::tracer::Kind;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The trial is to come.
    Before,
    /// The client is the supervisor's.
    Given,
    Over,
}

/// The points in the supervisor between which it tries what it can, and the processes.
#[derive(Clone)]
pub struct Gate {
    /// It opens a client's process.
    opens: Vec<u64>,
    /// It writes to the client.
    tells: Vec<u64>,
    state: State,
    kinds: HashMap<i32, Kind>,
}

impl Gate {
    pub fn of(places: &Places) -> Gate {
        let of = |file: &str, function: &str, import: &str| -> Vec<u64> {
            let all = places.all();
            let there = all.iter().filter(|place| place.file == file && place.function.ends_with(function));
            let at = there.flat_map(|place| places.addresses(place));
            at.filter(|at| places.imports(*at).contains(import)).collect()
        };
        let opens = of("src/supervisor/client.rs", "Process::open", "syscall");
        let tells = of("src/supervisor/mod.rs", "::supervise", "write");
        assert!(!opens.is_empty() && tells.len() == 3, "the trial is not found: {opens:?} {tells:?}");
        Gate { opens, tells, state: State::Before, kinds: HashMap::new() }
    }

    /// Where there have to be breakpoints for it now.
    pub fn points(&self) -> impl Iterator<Item = u64> + '_ {
        let points = match self.state {
            State::Before => &self.opens[..],
            State::Given => &self.tells,
            State::Over => &[],
        };
        points.iter().copied()
    }

    pub fn kind(&self, process: i32, root: i32) -> Kind {
        if process == root { Kind::Command } else { self.kinds.get(&process).copied().unwrap_or(Kind::Mapper) }
    }

    pub fn has_made(&mut self, maker: i32, made: i32, root: i32) {
        let kind = match self.kind(maker, root) {
            Kind::Command => Kind::Launcher,
            Kind::Launcher => Kind::Supervisor,
            _ if self.kinds.values().any(|kind| *kind == Kind::Guardian) => Kind::Mapper,
            _ => Kind::Guardian,
        };
        self.kinds.insert(made, kind);
    }
}

fn is_stop(status: i32) -> bool {
    libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP && status >> 16 == 0
}

/// Its next event, if there is one.
fn event(pid: i32, flags: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: a tracee of this thread's, and a local.
    let got = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | flags) };
    (got == pid).then_some(status)
}

impl Session {
    /// A process has come to a breakpoint.
    pub(super) fn pass_gate(&mut self, process: i32, at: u64) {
        let Some(gate) = &mut self.gate else { return };
        if !gate.points().any(|point| point == at) || gate.kind(process, self.root) != Kind::Supervisor {
            return;
        }
        if gate.state == State::Before {
            gate.state = State::Given;
            self.give();
        } else {
            gate.state = State::Over;
            self.take_again();
        }
        self.insert_everywhere();
    }

    /// Lets go of the client, which is on its way to a read and stays there.
    fn give(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        let reads = format!("{} ", libc::SYS_read);
        while !self.fired && Instant::now() < until {
            if let Some(status) = event(self.root, libc::WNOHANG) {
                self.stopped(self.root, status);
                continue;
            }
            let call = fs::read_to_string(format!("/proc/{}/syscall", self.root)).unwrap_or_default();
            if call.starts_with(&reads) {
                break;
            }
            thread::sleep(Duration::from_micros(50));
        }
        // SAFETY: numbers, of a child of ours.
        unsafe { libc::kill(self.root, libc::SIGSTOP) };
        while self.threads.contains_key(&self.root) {
            match event(self.root, 0) {
                Some(status) if is_stop(status) => self.let_go(self.root),
                Some(status) => self.stopped(self.root, status),
                None => return,
            }
        }
    }

    /// A thread that stands still is nobody's from now on.
    pub(super) fn let_go(&mut self, pid: i32) {
        self.threads.remove(&pid);
        if let Some(mut process) = self.processes.remove(&pid) {
            process.remove_all(self.base);
        }
        let _ = ptrace(libc::PTRACE_DETACH, pid, 0);
    }

    fn take_again(&mut self) {
        if ptrace(libc::PTRACE_SEIZE, self.root, OPTIONS as usize).is_ok() {
            self.threads.insert(self.root, Thread { process: self.root, seen: (true, true), ..Thread::default() });
            self.add_process(self.root, HashMap::new());
        }
    }
}
