//! What it takes to follow a policy: the rules, who judges, who sends, and for whom.

mod line;
mod marks;
mod turns;

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cuse_rs::{Caller, Errno};

use super::caller::Place;
use super::confine;
use super::workers::{Lodging, Workers, lock};
use crate::policy::Policy;
use crate::policy::audit::{self, Told};
use crate::policy::config::{Rule, Unmatched};
use crate::policy::decide::{Granted, NotGranted, Wanted};
use crate::policy::generic::GenericIds;
use crate::policy::sieve::{self, About};
use crate::policy::subject::Subject;
pub use line::Errand;
use line::Line;
use marks::Marks;
use turns::Turns;

const CAP_NET_ADMIN: u64 = 1 << 12;
/// The numbers of generic families are asked for again after this time.
const FRESH: Duration = Duration::from_secs(2);

/// Something to judge.
type Job = Box<dyn FnOnce() + Send>;

/// Policy, and what it takes to follow it.
pub struct Grants {
    /// To the thread that judges: a long message holds up others that are judged, and nobody else.
    jobs: Arc<Turns<Job>>,
    policy: RwLock<Arc<Policy>>,
    /// Log what no rule grants, and refuse nothing.
    pub audit: bool,
    pub told: Told,
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
    pub grants: Arc<Grants>,
    /// Who opened it, if there was a policy by then.
    opener: Option<Subject>,
    /// The grantor that has a duplicate of the socket.
    pub lent: AtomicU64,
    /// Whether the socket is connected to something else than the kernel.
    pub elsewhere: AtomicBool,
    pub marks: Marks,
}

/// What a request is judged by.
#[derive(Clone)]
pub struct Judge {
    pub policy: Arc<Policy>,
    opener: Option<Subject>,
    pub caller: Subject,
}

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
            marks: Marks::default(),
        }
    }

    pub fn ids(&self) -> Arc<GenericIds> {
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
    pub fn grantor(&self) -> Result<Arc<Lodging>, Errno> {
        let mut grantor = lock(&self.grantor);
        if let Some(there) = grantor.as_ref().filter(|there| there.worker.is_alive()) {
            return Ok(there.clone());
        }
        let caller = Caller { tid: 0, uid: 0, gid: 0 };
        let made = Arc::new(self.workers.lodge(&Place::own(CAP_NET_ADMIN)?, &caller)?);
        *grantor = Some(made.clone());
        Ok(made)
    }

    /// Has the judging thread do this, when it is this user's turn.
    pub fn judge_later(&self, uid: u32, job: Job) {
        self.jobs.push(uid, job);
    }

    /// Has this done with the grantor, when it is this user's turn there.
    pub fn in_line(&self, uid: u32, errand: Errand) {
        self.line.enter(uid, errand);
    }

    /// Notes about what is going to be sent hold until it has been: the number to say so by.
    pub fn announce(&self, notes: &mut Vec<u8>) -> u32 {
        let sending = self.sendings.fetch_add(1, Ordering::Relaxed);
        if !notes.is_empty() {
            notes.extend(sieve::note(About::Sending, sending, &[]));
        }
        sending
    }

    /// Logs what a client wants and no rule grants it, once each.
    pub fn note(&self, judge: &Judge, wanted: &Wanted) {
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

    /// What a request on this open file, of this family, is judged by; none when policy has nothing to say about it.
    pub fn judge(&self, family: Option<u32>, caller: &Caller) -> Option<Judge> {
        let (policy, family) = (self.grants.policy()?, family?);
        let always = self.grants.audit || policy.unmatched == Unmatched::Deny;
        let opener = self.opener.as_ref();
        // What costs nothing first: most clients have no grants.
        if !always && !opener.is_some_and(|opener| policy.has_grants(&[opener], family)) {
            return None;
        }
        // Of whom nothing can be read, nobody knows what he may.
        let caller = subject(caller).unwrap_or_else(nobody);
        let concerned = always || opener.is_some_and(|opener| policy.has_grants(&[opener, &caller], family));
        concerned.then(|| Judge { policy, opener: opener.cloned(), caller })
    }

    /// The grantor, if it has a duplicate of the socket.
    pub fn lent_to(&self) -> Option<Arc<Lodging>> {
        let number = self.lent.load(Ordering::Acquire);
        let grantor = lock(&self.grants.grantor).clone();
        grantor.filter(|grantor| number != 0 && grantor.worker.number() == number)
    }
}

impl Judge {
    pub fn rule(&self, wanted: &Wanted) -> Option<&Rule> {
        let opener = self.opener.as_ref()?;
        self.policy.rule_for(&[opener, &self.caller], wanted).map(|(_, rule)| rule)
    }

    fn grants(&self, wanted: &Wanted) -> bool {
        self.rule(wanted).is_some()
    }

    /// Judges a message: what may be done with it.
    pub fn send(&self, family: u32, to_kernel: bool, data: Vec<u8>, ids: &GenericIds) -> Result<Granted, NotGranted> {
        let nobody = nobody();
        let opener = self.opener.as_ref().unwrap_or(&nobody);
        self.policy.judge(&[opener, &self.caller], family, to_kernel, data, ids, Instant::now())
    }
}
