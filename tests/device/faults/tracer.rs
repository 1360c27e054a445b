//! A debugger of a program and all that it forks: it says which places are come to and which system calls they make, and makes one of
//! them fail.
//!
//! A place is a call instruction, with a breakpoint on it. From there until the call comes back its thread is stopped at each system
//! call. So what fails is a place's own call, whatever other threads do meanwhile, and nothing is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::gate::Gate;
use super::places::Places;
use super::session::Session;

/// Which of the processes of a daemon, or of `nlmmap run` with its supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Front,
    Spawner,
    Worker,
    Payer,
    /// What becomes the client.
    Command,
    /// It makes the supervisor, and ends.
    Launcher,
    Supervisor,
    Guardian,
    /// It makes one mapping.
    Mapper,
}

impl Kind {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Front => "front",
            Kind::Spawner => "spawner",
            Kind::Worker => "worker",
            Kind::Payer => "payer",
            Kind::Command => "command",
            Kind::Launcher => "launcher",
            Kind::Supervisor => "supervisor",
            Kind::Guardian => "guardian",
            Kind::Mapper => "mapper",
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is not made, and answers this.
    Error(i32),
    /// It is made with half the length (`read`, `write` and their like).
    Short,
    /// It is made when the thread that it is about has been killed.
    Killed,
}

/// A failure to be: the first call of this name that the place makes in a process of this kind.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its call instructions (a generic function has several).
    pub at: Vec<u64>,
    pub kind: Kind,
    pub call: &'static str,
    pub how: How,
}

/// What a run has shown: process, address of the place, and the system calls from there.
pub type Record = BTreeMap<(Kind, u64), BTreeSet<&'static str>>;

pub(super) enum Order {
    Arm(Fault),
    /// Whether it has happened.
    Disarm(Sender<bool>),
    /// These processes are let alone by failures.
    Spare(Vec<i32>),
    /// The processes that are traced.
    Processes(Sender<Vec<(Kind, i32)>>),
    Take(Sender<Record>),
    /// What has crashed since the last time.
    Crashes(Sender<Vec<String>>),
}

/// The daemon, seen from the test. Dropped, it is dead.
pub struct Tracer {
    orders: Sender<Order>,
    thread: Option<thread::JoinHandle<()>>,
    pub pid: i32,
    fired: Arc<AtomicBool>,
    ended: Receiver<End>,
    end: Option<End>,
}

/// The exit status, or minus a signal; or what has crashed. And what was recorded last.
pub type End = (Result<i32, String>, Record);

impl Tracer {
    /// Starts the program and waits until it is stopped at its beginning; it goes on at once. `first` fails in it, or `record` is made.
    /// `gate`: of `nlmmap run` with its supervisor.
    pub fn start(
        command: Command,
        places: Arc<Places>,
        record: bool,
        first: Option<Fault>,
        gate: Option<Gate>,
    ) -> Tracer {
        let (orders, taken) = channel();
        let (end, ended) = channel();
        let (begin, begun) = channel();
        let body = move || {
            let session = Session::begin(command, places, taken, record, first, gate);
            begin.send((session.root, session.has_fired.clone())).expect("the test waits");
            let _ = end.send(session.run());
        };
        let thread = thread::Builder::new().name("tracer".into()).spawn(body).expect("a thread");
        let (pid, fired) = begun.recv().expect("the program starts");
        Tracer { orders, thread: Some(thread), pid, fired, ended, end: None }
    }

    pub fn arm(&self, fault: Fault) {
        let _ = self.orders.send(Order::Arm(fault));
    }

    /// Ends a failure: whether there was one.
    pub fn disarm(&self) -> bool {
        let (answer, answered) = channel();
        let _ = self.orders.send(Order::Disarm(answer));
        answered.recv().unwrap_or(false)
    }

    pub fn spare(&self, processes: Vec<i32>) {
        let _ = self.orders.send(Order::Spare(processes));
    }

    pub fn processes(&self) -> Vec<(Kind, i32)> {
        let (answer, answered) = channel();
        let _ = self.orders.send(Order::Processes(answer));
        answered.recv().unwrap_or_default()
    }

    /// Whether the failure that was ordered last, or that it began with, has happened.
    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::Relaxed)
    }

    /// What was recorded so far, which is forgotten.
    pub fn take(&self) -> Record {
        let (answer, answered) = channel();
        let _ = self.orders.send(Order::Take(answer));
        answered.recv().unwrap_or_default()
    }

    /// Processes that have died by a signal that nobody sends, since the last time.
    pub fn crashes(&self) -> Vec<String> {
        let (answer, answered) = channel();
        let _ = self.orders.send(Order::Crashes(answer));
        answered.recv().unwrap_or_default()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<End> {
        if self.end.is_none() {
            self.end = self.ended.try_recv().ok();
        }
        self.end.clone()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Nobody takes orders any more: whoever traces kills what it traces.
        self.orders = channel().0;
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}
