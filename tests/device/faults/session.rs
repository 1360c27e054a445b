//! The thread that traces a program: breakpoints, steps and system calls of all its processes and threads.
//!
//! A thread that comes to a breakpoint goes one step without it, and is then stopped at each system call until the call it has begun
//! comes back: there is a breakpoint behind each call, too. (Where none could be set, what lies at the return address' place tells.)

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::places::Places;
use super::process::{
    ENOUGH, ENOUGH_OF_ONE, Process, enters, field, is_breakpoint, kill_and_see, name_of, ptrace, registers,
    set_registers,
};
use super::tracer::{End, Fault, How, Kind, Order, Record};

/// What a tracee is traced for.
pub(super) const OPTIONS: i32 = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_EXITKILL;

/// A call that is under way from a place.
#[derive(Clone, Copy)]
pub(super) struct Active {
    at: u64,
    /// Where its return address lies.
    slot: u64,
}

#[derive(Default)]
pub(super) struct Thread {
    pub process: i32,
    /// It has stopped for the first time, and its maker has told of it.
    pub seen: (bool, bool),
    /// It goes one step, off this breakpoint.
    pub stepping: Option<u64>,
    pub active: Vec<Active>,
    /// The system call that it is in answers this.
    pub answer: Option<i64>,
}

/// The tracing thread's side: all processes and threads of a program.
pub struct Session {
    pub(super) places: Arc<Places>,
    orders: Receiver<Order>,
    pub root: i32,
    /// What addresses in the process are above those in the file.
    pub(super) base: u64,
    pub(super) threads: HashMap<i32, Thread>,
    pub(super) processes: HashMap<i32, Process>,
    /// Where a client is let go for a moment, and what its processes are.
    pub(super) gate: Option<Gate>,
    record: bool,
    fault: Option<Fault>,
    pub(super) fired: bool,
    /// The same, for the test.
    pub has_fired: Arc<AtomicBool>,
    spared: BTreeSet<i32>,
    seen: Record,
    /// Processes that have died by what no one else had sent them.
    pub(super) crashed: Vec<String>,
    pub(super) status: Option<i32>,
}

impl Session {
    /// Starts the program, and stops it at its beginning.
    pub fn begin(
        mut command: Command,
        places: Arc<Places>,
        orders: Receiver<Order>,
        record: bool,
        fault: Option<Fault>,
        gate: Option<Gate>,
    ) -> Session {
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(|| ptrace(libc::PTRACE_TRACEME, 0, 0));
        }
        let root = command.spawn().expect("the program starts").id() as i32;
        let mut status = 0;
        // SAFETY: a child of this thread's, and a local.
        let stopped = unsafe { libc::waitpid(root, &raw mut status, libc::__WALL) };
        assert!(stopped == root && libc::WIFSTOPPED(status), "it does not stop at its beginning: {status:#x}");
        ptrace(libc::PTRACE_SETOPTIONS, root, OPTIONS as usize).expect("it can be traced");
        let maps = fs::read_to_string(format!("/proc/{root}/maps")).expect("its mappings");
        let first = maps.lines().find(|line| line.ends_with(&*places.program)).expect("the program is mapped");
        let base = u64::from_str_radix(first.split('-').next().unwrap_or_default(), 16).expect("an address");
        let mut session = Session {
            places,
            orders,
            root,
            base,
            threads: HashMap::new(),
            processes: HashMap::new(),
            gate,
            record,
            fault,
            fired: false,
            has_fired: Arc::default(),
            spared: BTreeSet::new(),
            seen: Record::new(),
            crashed: Vec::new(),
            status: None,
        };
        session.threads.insert(root, Thread { process: root, seen: (true, true), ..Thread::default() });
        session.add_process(root, HashMap::new());
        session.insert_everywhere();
        session
    }

    pub(super) fn add_process(&mut self, pid: i32, bytes: HashMap<u64, u8>) {
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
        if let Ok(memory) = memory {
            self.processes.insert(pid, Process { memory, come: HashMap::new(), bytes });
        }
    }

    /// The first process goes on, until all have ended.
    pub fn run(mut self) -> End {
        self.go_on(self.root, 0);
        let (mut idle, mut count) = (Instant::now(), 0u32);
        loop {
            let mut status = 0;
            // SAFETY: children and tracees of this thread, and a local.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG) };
            if pid > 0 {
                self.stopped(pid, status);
                idle = Instant::now();
                count += 1;
                if count % 64 != 0 {
                    continue;
                }
            } else if pid < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD) {
                let status = self.status.unwrap_or(-libc::SIGKILL);
                let end = if self.crashed.is_empty() { Ok(status) } else { Err(self.crashed.join("; ")) };
                return (end, self.seen);
            }
            let nap = if idle.elapsed() < Duration::from_millis(2) { 0 } else { 200 };
            match self.orders.recv_timeout(Duration::from_micros(nap)) {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let root = Some(self.root).filter(|_| self.status.is_none());
                    for pid in self.processes.keys().copied().chain(root) {
                        // SAFETY: numbers. They are traced by us or our child, so they are still what they were.
                        unsafe { libc::kill(pid, libc::SIGKILL) };
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Arm(fault) => {
                self.remove_everywhere();
                self.forget_calls();
                (self.fault, self.fired) = (Some(fault), false);
                self.has_fired.store(false, Ordering::Relaxed);
                self.insert_everywhere();
            }
            Order::Disarm(answer) => {
                self.remove_everywhere();
                self.forget_calls();
                self.fault = None;
                self.insert_everywhere();
                let _ = answer.send(self.fired);
            }
            Order::Spare(those) => self.spared.extend(those),
            Order::Processes(answer) => {
                let kind = |pid| match &self.gate {
                    Some(gate) => gate.kind(pid, self.root),
                    None => self.kind(pid),
                };
                let _ = answer.send(self.processes.keys().map(|pid| (kind(*pid), *pid)).collect());
            }
            Order::Take(answer) => drop(answer.send(std::mem::take(&mut self.seen))),
            Order::Crashes(answer) => drop(answer.send(std::mem::take(&mut self.crashed))),
        }
    }

    /// Without the breakpoints behind them nobody sees calls come back: those under way are nobody's any more.
    fn forget_calls(&mut self) {
        if !self.record {
            self.threads.values_mut().for_each(|thread| thread.active.clear());
        }
    }

    /// Where breakpoints are to be, in the file's addresses.
    fn wanted(&self) -> Vec<u64> {
        let mut wanted = Vec::new();
        if self.record {
            wanted.extend(self.places.back.keys().copied());
            wanted.extend(self.places.back.values().copied());
        }
        if let Some(fault) = self.fault.as_ref().filter(|_| !self.fired) {
            wanted.extend(&fault.at);
            wanted.extend(fault.at.iter().filter_map(|at| self.places.back.get(at)));
        }
        wanted.extend(self.gate.iter().flat_map(Gate::points));
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    pub(super) fn insert_everywhere(&mut self) {
        let wanted = self.wanted();
        let spared = &self.spared;
        for (_, process) in self.processes.iter_mut().filter(|(pid, _)| !spared.contains(pid)) {
            for at in &wanted {
                process.insert(self.base, *at);
            }
        }
    }

    fn remove_everywhere(&mut self) {
        self.processes.values_mut().for_each(|process| process.remove_all(self.base));
    }

    pub(super) fn kind(&self, process: i32) -> Kind {
        if let Some(gate) = &self.gate {
            // Of the same code, whoever comes to it.
            let kind = gate.kind(process, self.root);
            return if kind == Kind::Mapper { Kind::Supervisor } else { kind };
        }
        if process == self.root {
            return Kind::Front;
        }
        match fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim() {
            "nlmmap-worker" => Kind::Worker,
            "nlmmap-payer" => Kind::Payer,
            _ => Kind::Spawner,
        }
    }

    pub(super) fn stopped(&mut self, pid: i32, status: i32) {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            return self.gone(pid, status);
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        let Some(thread) = self.threads.get_mut(&pid) else {
            // Before its maker has told of it.
            let process = field(pid, "Tgid:").and_then(|tgid| tgid.parse().ok()).unwrap_or(pid);
            self.threads.insert(pid, Thread { process, seen: (true, false), ..Thread::default() });
            return;
        };
        if !std::mem::replace(&mut thread.seen.0, true) {
            return self.go_on(pid, 0);
        }
        match (signal, event) {
            (libc::SIGTRAP, libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK) => {
                self.has_made(pid);
                self.go_on(pid, 0);
            }
            (libc::SIGTRAP, libc::PTRACE_EVENT_EXEC) => self.let_go(pid),
            (signal, 0) if signal == libc::SIGTRAP | 0x80 => {
                self.at_call(pid);
                self.go_on(pid, 0);
            }
            (libc::SIGTRAP, 0) => self.trapped(pid),
            // Signals of its own, and of others.
            (signal, 0) => {
                if matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGABRT) {
                    self.note_crash(pid, signal);
                }
                self.go_on(pid, signal);
            }
            _ => self.go_on(pid, 0),
        }
    }

    /// A thread has made another, or a process.
    fn has_made(&mut self, pid: i32) {
        let mut new = 0usize;
        if ptrace(libc::PTRACE_GETEVENTMSG, pid, (&raw mut new) as usize).is_err() {
            return;
        }
        let new = new as i32;
        let process = field(new, "Tgid:").and_then(|tgid| tgid.parse().ok()).unwrap_or(new);
        let maker = &self.threads[&pid];
        let (from, active) = (maker.process, maker.active.clone());
        let early = self.threads.get(&new).is_some_and(|thread| thread.seen.0);
        let is_thread = process == from;
        let active = if is_thread { Vec::new() } else { active };
        self.threads.insert(new, Thread { process, seen: (early, true), active, ..Thread::default() });
        if !is_thread {
            if let Some(gate) = &mut self.gate {
                gate.has_made(from, process, self.root);
            }
            // With the breakpoints that its maker has.
            let bytes = self.processes.get(&from).map(|process| process.bytes.clone()).unwrap_or_default();
            self.add_process(process, bytes);
        }
        if early {
            self.go_on(new, 0);
        }
    }

    fn is_under_way(&self, pid: i32, active: &Active, stack: u64) -> bool {
        let back = self.places.back.get(&active.at).map(|back| back + self.base);
        stack <= active.slot && self.word(pid, active.slot) == back
    }

    pub(super) fn word(&self, pid: i32, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        let process = self.processes.get(&self.threads.get(&pid)?.process)?;
        process.memory.read_exact_at(&mut bytes, at).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// A thread is before or behind a system call.
    fn at_call(&mut self, pid: i32) {
        let Ok(mut now) = registers(pid) else { return };
        if !enters(pid) {
            if let Some(answer) = self.threads.get_mut(&pid).and_then(|thread| thread.answer.take()) {
                now.rax = answer.cast_unsigned();
                set_registers(pid, &now);
            }
            return;
        }
        while let Some(active) = self.threads[&pid].active.last().copied()
            && !self.is_under_way(pid, &active, now.rsp)
        {
            self.threads.get_mut(&pid).expect("it is known").active.pop();
            if !self.fired && self.fault.as_ref().is_some_and(|fault| fault.at.contains(&active.at)) {
                // It has not made that call this time.
                self.insert(pid, active.at);
            }
        }
        let Some(active) = self.threads[&pid].active.last().copied() else { return };
        let Some(name) = name_of(&now) else { return };
        let kind = self.kind(self.threads[&pid].process);
        if self.record {
            self.seen.entry((kind, active.at)).or_default().insert(name);
        }
        let Some(fault) = self.fault.as_ref().filter(|_| !self.fired) else { return };
        if fault.kind != kind || fault.call != name || !fault.at.contains(&active.at) {
            return;
        }
        match fault.how {
            How::Error(errno) => {
                now.orig_rax = u64::MAX;
                self.threads.get_mut(&pid).expect("it is known").answer = Some(-i64::from(errno));
            }
            How::Short => now.rdx /= 2,
            How::Killed => {
                let victim = if name == "ptrace" { now.rsi } else { now.rdi } as i32;
                if self.spared.contains(&victim) || !kill_and_see(victim) {
                    return;
                }
            }
        }
        set_registers(pid, &now);
        self.fired = true;
        self.has_fired.store(true, Ordering::Relaxed);
    }

    fn insert(&mut self, pid: i32, at: u64) {
        let (base, process) = (self.base, self.threads[&pid].process);
        if let Some(process) = self.processes.get_mut(&process) {
            process.insert(base, at);
        }
    }

    /// A breakpoint, or the end of a step.
    fn trapped(&mut self, pid: i32) {
        let Ok(mut now) = registers(pid) else { return self.go_on(pid, 0) };
        // A step may come to a breakpoint: to the same one, when another thread's step has brought it back.
        let stepping = self.threads.get_mut(&pid).expect("it is known").stepping.take();
        if let Some(at) = stepping.filter(|_| !is_breakpoint(pid)) {
            let process = self.threads[&pid].process;
            if self.wanted_at(process, at) {
                self.insert(pid, at);
            }
            if now.rip == at + self.base {
                // A signal came between.
                return self.go_on(pid, 0);
            }
            if let Some(back) = self.places.back.get(&at).copied()
                && self.word(pid, now.rsp) == Some(back + self.base)
            {
                let kind = self.kind(self.threads[&pid].process);
                let chases = self.fault.as_ref().is_some_and(|fault| fault.kind == kind && fault.at.contains(&at));
                if self.record || chases && !self.fired {
                    self.threads.get_mut(&pid).expect("it is known").active.push(Active { at, slot: now.rsp });
                }
            }
            // What the step has led to may have a breakpoint, too: it is come to next.
            return self.go_on(pid, 0);
        }
        let at = (now.rip - 1).wrapping_sub(self.base);
        let process = self.threads[&pid].process;
        let known = self.processes.get(&process).is_some_and(|process| process.bytes.contains_key(&at));
        if !known && !self.places.is_place(at) {
            // Not ours.
            return self.go_on(pid, libc::SIGTRAP);
        }
        now.rip -= 1;
        set_registers(pid, &now);
        self.pass_gate(process, at);
        if !known {
            // Taken away while it was on it.
            return self.go_on(pid, 0);
        }
        let base = self.base;
        if self.record || self.fault.is_some() {
            let back = self.places.back.get(&self.threads[&pid].active.last().map_or(0, |active| active.at)).copied();
            if back == Some(at) && self.threads[&pid].active.last().is_some_and(|active| now.rsp == active.slot + 8) {
                self.threads.get_mut(&pid).expect("it is known").active.pop();
            }
        }
        if let Some(process) = self.processes.get_mut(&process) {
            process.remove(base, at);
            *process.come.entry(at).or_default() += 1;
        }
        self.threads.get_mut(&pid).expect("it is known").stepping = Some(at);
        self.go_on(pid, 0);
    }

    fn wanted_at(&self, process: i32, at: u64) -> bool {
        let come = self.processes.get(&process).and_then(|process| process.come.get(&at).copied()).unwrap_or(0);
        // What a call comes back to stays longer: whoever is under way would else seem to be so for ever.
        let enough = if self.gate.is_some() { ENOUGH_OF_ONE } else { ENOUGH };
        let enough = if self.places.back.contains_key(&at) { enough } else { 3 * enough };
        let recorded = self.record && self.places.is_place(at) && come < enough;
        let is_gate = self.gate.iter().flat_map(Gate::points).any(|point| point == at);
        let is_of = |fault: &Fault| fault.at.iter().any(|it| *it == at || self.places.back.get(it) == Some(&at));
        recorded || is_gate || !self.fired && self.fault.as_ref().is_some_and(is_of)
    }

    fn go_on(&mut self, pid: i32, signal: i32) {
        let Some(thread) = self.threads.get(&pid) else { return };
        if thread.seen != (true, true) {
            return;
        }
        let how = if thread.stepping.is_some() {
            libc::PTRACE_SINGLESTEP
        } else if !thread.active.is_empty() || thread.answer.is_some() {
            libc::PTRACE_SYSCALL
        } else {
            libc::PTRACE_CONT
        };
        let _ = ptrace(how, pid, signal as usize);
    }
}
