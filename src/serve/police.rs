//! Policy at work: what a client sends is judged before it is sent, where there is a policy.
//!
//! The bytes are judged here, in the front, as a copy: those of a `write` come with it, those of a TX frame are taken from the
//! ring by the worker, once. What policy grants is sent by the *grantor* (`worker/lent.rs`), a worker with `CAP_NET_ADMIN` in
//! the daemon's own place, on a duplicate of the client's socket, to the kernel. Everything else is sent by the client's own
//! worker with the client's own rights, or refused.
//!
//! A grant is for whoever makes the request *and* for whoever opened the node: a program with grants that writes to an open
//! file it was handed lends them to nobody, and one that hands an open file on gives none away.

mod heard;
mod join;
mod kick;
mod line;
mod turns;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cuse_rs::{Caller, Errno};
use nlmmap_ring::sys::SockaddrNl;

use super::abi;
use super::caller::Place;
use super::confine;
use super::file::{File, bytes_of};
use super::worker::wire::{Head, op};
use super::workers::{Lodging, Then, Workers, lock};
use crate::policy::Policy;
use crate::policy::audit::{self, Told};
use crate::policy::config::{Rule, Unmatched};
use crate::policy::decide::{Granted, Wanted, Why};
use crate::policy::generic::GenericIds;
use crate::policy::sieve::{self, About};
use crate::policy::subject::Subject;
use line::{Errand, Line};
use turns::Turns;

const CAP_NET_ADMIN: u64 = 1 << 12;
/// The numbers of generic families are asked for again after this time.
const FRESH: Duration = Duration::from_secs(2);
/// The part of a message that a worker looks at before somebody else sends it.
const BEGINNING: usize = 16;

/// Something to judge.
type Job = Box<dyn FnOnce() + Send>;

/// Policy, and what it takes to follow it.
pub struct Grants {
    /// To the thread that judges: a long message holds up others that are judged, and nobody else.
    jobs: Arc<Turns<Job>>,
    policy: RwLock<Arc<Policy>>,
    /// Log what no rule grants, and refuse nothing.
    audit: bool,
    told: Told,
    ids: Mutex<Option<(Instant, Arc<GenericIds>)>>,
    grantor: Mutex<Option<Arc<Lodging>>>,
    /// Before the grantor.
    line: Arc<Line>,
    /// The number of the next sending, for sieves.
    sendings: AtomicU32,
    workers: Arc<Workers>,
}

/// Policy's part of an open file.
pub struct Police {
    grants: Arc<Grants>,
    /// Who opened it, if there was a policy by then.
    opener: Option<Subject>,
    /// The grantor that has a duplicate of the socket.
    lent: AtomicU64,
    /// Whether the socket is connected to something else than the kernel.
    elsewhere: AtomicBool,
    marks: heard::Marks,
}

/// What a request is judged by.
#[derive(Clone)]
pub struct Judge {
    policy: Arc<Policy>,
    opener: Option<Subject>,
    caller: Subject,
}

/// Where a message was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// In the argument of a call: the worker has not seen it.
    Call,
    /// In the TX ring, from where the worker has taken it.
    Ring,
}

/// What happens when a message has been sent, or not.
type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

fn subject(caller: &Caller) -> Option<Subject> {
    let read = |file| fs::read_to_string(format!("/proc/{}/{file}", caller.tid)).ok();
    Some(Subject::from_proc(caller.uid, caller.gid, &read("status")?, &read("cgroup").unwrap_or_default()))
}

/// Whom no rule is for that names anybody.
fn nobody() -> Subject {
    Subject { uid: u32::MAX, ..Subject::default() }
}

impl Grants {
    pub fn new(policy: Policy, audit: bool, workers: Arc<Workers>, capabilities: u64) -> io::Result<Arc<Grants>> {
        let jobs = Arc::new(Turns::<Job>::new());
        let queue = jobs.clone();
        // It ends with the last who may have something to judge.
        confine::start_thread("judge", capabilities, move || {
            std::iter::from_fn(|| queue.next()).for_each(|job| job())
        })?;
        Ok(Arc::new(Grants {
            jobs,
            policy: RwLock::new(Arc::new(policy)),
            audit,
            told: Told::default(),
            ids: Mutex::default(),
            grantor: Mutex::default(),
            line: Line::new(),
            sendings: AtomicU32::new(1),
            workers,
        }))
    }

    /// A new policy, for every request from now on.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// The policy in force, if there is anything to ask it.
    fn policy(&self) -> Option<Arc<Policy>> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        (self.audit || !policy.is_empty()).then(|| policy.clone())
    }

    /// Policy's part of an open file that `caller` opens.
    pub fn police(self: &Arc<Grants>, caller: &Caller) -> Police {
        let opener = self.policy().and_then(|_| subject(caller));
        Police {
            grants: self.clone(),
            opener,
            lent: AtomicU64::new(0),
            elsewhere: AtomicBool::new(false),
            marks: heard::Marks::default(),
        }
    }

    fn ids(&self) -> Arc<GenericIds> {
        let mut ids = lock(&self.ids);
        if let Some((since, ids)) = &*ids
            && since.elapsed() < FRESH
        {
            return ids.clone();
        }
        let read = GenericIds::read().unwrap_or_else(|error| {
            // Then none is known, and nothing of them is granted.
            tracing::warn!(%error, "cannot ask for the families of generic netlink");
            GenericIds::default()
        });
        let read = Arc::new(read);
        *ids = Some((Instant::now(), read.clone()));
        read
    }

    /// The grantor, made when there is none.
    fn grantor(&self) -> Result<Arc<Lodging>, Errno> {
        let mut grantor = lock(&self.grantor);
        if let Some(there) = grantor.as_ref().filter(|there| there.worker.is_alive()) {
            return Ok(there.clone());
        }
        let caller = Caller { tid: 0, uid: 0, gid: 0 };
        let made = Arc::new(self.workers.lodge(&Place::own(CAP_NET_ADMIN)?, &caller)?);
        *grantor = Some(made.clone());
        Ok(made)
    }

    /// Logs what a client wants and no rule grants it, once each.
    fn note(&self, judge: &Judge, wanted: &Wanted) {
        if !judge.grants(wanted) && self.told.is_new(&judge.caller, wanted) {
            tracing::info!("{}", audit::line(&judge.caller, wanted));
        }
    }
}

impl Drop for Grants {
    fn drop(&mut self) {
        self.jobs.close();
    }
}

impl Police {
    pub fn workers(&self) -> &Arc<Workers> {
        &self.grants.workers
    }
}

impl Judge {
    fn rule(&self, wanted: &Wanted) -> Option<&Rule> {
        let opener = self.opener.as_ref()?;
        self.policy.rule_for(&[opener, &self.caller], wanted).map(|(_, rule)| rule)
    }

    fn grants(&self, wanted: &Wanted) -> bool {
        self.rule(wanted).is_some()
    }

    /// Judges a message: what may be done with it.
    fn send(
        &self,
        family: u32,
        to_kernel: bool,
        data: Vec<u8>,
        ids: &GenericIds,
    ) -> Result<Granted, crate::policy::decide::NotGranted> {
        let nobody = nobody();
        let opener = self.opener.as_ref().unwrap_or(&nobody);
        self.policy.judge(&[opener, &self.caller], family, to_kernel, data, ids, Instant::now())
    }
}

impl File {
    /// What this request is judged by; none when policy has nothing to say about it.
    pub fn judge(&self, caller: &Caller) -> Option<Judge> {
        let policy = self.police.grants.policy()?;
        let family = self.family()?;
        let always = self.police.grants.audit || policy.unmatched == Unmatched::Deny;
        let opener = self.police.opener.as_ref();
        // What costs nothing first: most clients have no grants.
        if !always && !opener.is_some_and(|opener| policy.has_grants(&[opener], family)) {
            return None;
        }
        // Of whom nothing can be read, nobody knows what he may.
        let caller = subject(caller).unwrap_or_else(nobody);
        let concerned = always || opener.is_some_and(|opener| policy.has_grants(&[opener, &caller], family));
        concerned.then(|| Judge { policy, opener: opener.cloned(), caller })
    }

    /// Sends a message as far as policy or the client's own rights go. Does not wait.
    fn send_judged(
        self: &Arc<File>,
        judge: &Judge,
        caller: &Caller,
        dest: Option<SockaddrNl>,
        data: Vec<u8>,
        origin: Origin,
        done: Done,
    ) {
        let (file, judge, caller) = (self.clone(), judge.clone(), *caller);
        let job: Job = Box::new(move || file.judge_and_send(&judge, &caller, dest, data, origin, done));
        self.police.grants.jobs.push(caller.uid, job);
    }

    fn judge_and_send(
        self: &Arc<File>,
        judge: &Judge,
        caller: &Caller,
        dest: Option<SockaddrNl>,
        data: Vec<u8>,
        origin: Origin,
        done: Done,
    ) {
        let (grants, family) = (&self.police.grants, self.family().unwrap_or(u32::MAX));
        let elsewhere = self.police.elsewhere.load(Ordering::Relaxed);
        let to_kernel = dest.map_or(!elsewhere, |dest| dest.portid == 0 && dest.groups == 0);
        let ids = if family == libc::NETLINK_GENERIC as u32 { grants.ids() } else { Arc::default() };
        let not = match judge.send(family, to_kernel, data, &ids) {
            Ok(granted) => {
                let notes = if grants.audit {
                    self.listen(judge, family, granted.bytes(), &ids)
                } else {
                    granted.notes.clone()
                };
                return self.send_granted(caller.uid, granted, notes, origin, done);
            }
            Err(not) => not,
        };
        let mut notes = Vec::new();
        if grants.audit {
            match Policy::wants(family, &not.bytes, &ids) {
                Ok(wants) if to_kernel => {
                    wants.keys().for_each(|wanted| grants.note(judge, wanted));
                    notes = self.listen(judge, family, &not.bytes, &ids);
                }
                Ok(_) | Err(Why::Nothing) => {}
                Err(why) => {
                    let shown = Wanted::nameless(family);
                    if grants.told.is_new(&judge.caller, &shown) {
                        let uid = judge.caller.uid;
                        tracing::info!(uid, family, "policy audit, never granted: {why}; of this family told once");
                    }
                }
            }
        } else if judge.policy.unmatched == Unmatched::Deny && not.why != Why::Nothing {
            super::log::refused(&self.client, format_args!("a message is not sent: {}", not.why));
            if !to_kernel {
                return done(Err(Errno::EPERM));
            }
            let then: Then = Box::new(move |answer| done(bytes_of(answer).map(drop)));
            return self.ask(self.head(op::REFUSE, 0, 0), not.bytes, then);
        }
        let dest_len = if dest.is_some() { size_of::<SockaddrNl>() as u32 } else { 0 };
        let mut bytes = abi::bytes(&abi::Send { dest: dest.unwrap_or_default(), dest_len, flags: 0 }).to_vec();
        bytes.extend_from_slice(&not.bytes);
        let mut then: Then = Box::new(move |answer| done(bytes_of(answer).map(drop)));
        if !notes.is_empty() {
            let sending = self.announce(&mut notes);
            self.hear_by(notes);
            let (file, sent) = (self.clone(), then);
            then = Box::new(move |answer| {
                let then: Then = Box::new(move |_| sent(answer));
                file.ask(file.head(op::SERVICE, u64::from(sending), 0), Vec::new(), then);
            });
        }
        self.act(caller, self.head(op::WRITE, 0, 0), bytes, Vec::new(), then);
    }

    /// Notes about what is going to be sent hold until it has been: the number to say so by.
    fn announce(&self, notes: &mut Vec<u8>) -> u32 {
        let sending = self.police.grants.sendings.fetch_add(1, Ordering::Relaxed);
        if !notes.is_empty() {
            notes.extend(sieve::note(About::Sending, sending, &[]));
        }
        sending
    }

    /// The grantor gets a duplicate of the socket, if it has none, and then `bytes` with `head`, when it is this user's turn.
    ///
    /// `beginning` is for the worker, if it has not seen the message; `notes` are for its sieve.
    fn lend(
        self: &Arc<File>,
        uid: u32,
        beginning: Option<Vec<u8>>,
        notes: &[u8],
        head: Head,
        bytes: Vec<u8>,
        done: Done,
    ) {
        let grantor = match self.police.grants.grantor() {
            Ok(grantor) => grantor,
            Err(errno) => return done(Err(errno)),
        };
        let (file, number) = (self.clone(), grantor.worker.number());
        let is_lent = self.police.lent.load(Ordering::Acquire) == number;
        let grant = move |socket: Option<OwnedFd>, done: Done| {
            let line = file.police.grants.line.clone();
            let errand: Errand = Box::new(move |pass| {
                let workers = file.workers();
                if let Some(socket) = socket {
                    let family = u64::from(file.family().unwrap_or(u32::MAX));
                    // In order: what follows finds it there, or finds it refused.
                    let nothing: Then = Box::new(|_| {});
                    let borrow = file.head(op::BORROW, family, 0);
                    if grantor.worker.ask(workers, borrow, Vec::new(), vec![socket], nothing).is_ok() {
                        file.police.lent.store(number, Ordering::Release);
                    }
                }
                let then: Then = Box::new(move |answer| {
                    drop(pass);
                    done(bytes_of(answer).map(drop));
                });
                if let Err((then, errno)) = grantor.worker.ask(workers, head, bytes, Vec::new(), then) {
                    then(Err(errno));
                }
            });
            line.enter(uid, errand);
        };
        if is_lent && beginning.is_none() && notes.is_empty() {
            return grant(None, done);
        }
        // The client's own worker may take its time, and holds up nobody but its clients.
        let then: Then = Box::new(move |answer| match answer {
            Ok(mut packet) if packet.head.error == 0 => grant(packet.fds.pop(), done),
            Ok(packet) => done(Err(Errno::new(packet.head.error))),
            Err(errno) => done(Err(errno)),
        });
        let mut told = beginning.unwrap_or_default();
        let head = self.head(op::SHARE, u64::from(!is_lent), told.len() as u32);
        told.extend_from_slice(notes);
        self.ask(head, told, then);
    }

    fn send_granted(self: &Arc<File>, uid: u32, granted: Granted, mut notes: Vec<u8>, origin: Origin, done: Done) {
        tracing::debug!(handle = self.handle, uid = self.client.uid, rules = ?granted.rules, "granted");
        let sending = self.announce(&mut notes);
        let bytes = granted.into_bytes();
        let beginning = (origin == Origin::Call).then(|| bytes.get(..BEGINNING).unwrap_or(&bytes).to_vec());
        let file = self.clone();
        let sent: Done = Box::new(move |result| {
            // What it has brought is in the ring when the call returns, whatever became of it.
            let then: Then = Box::new(move |_| done(result));
            file.ask(file.head(op::SERVICE, u64::from(sending), 0), Vec::new(), then);
        });
        self.lend(uid, beginning, &notes, self.head(op::GRANTED, 0, 0), bytes, sent);
    }

    /// `write`, and `NLMMAP_SEND`.
    pub fn write_judged(
        self: &Arc<File>,
        judge: &Judge,
        caller: &Caller,
        dest: Option<SockaddrNl>,
        data: &[u8],
        done: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        self.send_judged(judge, caller, dest, data.to_vec(), Origin::Call, Box::new(done));
    }

    /// The open file is closed: the grantor lets go of its socket.
    pub fn return_lent(&self) {
        let number = self.police.lent.load(Ordering::Acquire);
        let grantor = lock(&self.police.grants.grantor).clone();
        if let Some(grantor) = grantor.filter(|grantor| number != 0 && grantor.worker.number() == number) {
            let nothing: Then = Box::new(|_| {});
            let _ = grantor.worker.ask(self.workers(), self.head(op::RETURN, 0, 0), Vec::new(), Vec::new(), nothing);
        }
    }
}
