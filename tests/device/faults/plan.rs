//! What there is to fail, what has, and what is left without a reason.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::answers::is_left_alone;
use super::places::{Place, Places};
use super::tracer::{Fault, How, Kind, Record};
use crate::support::{Outcome, names};

/// So many places may be come to in the record and, since it is a matter of time there, not again.
const CHANCES: usize = 5;

/// A place that nobody comes to, or whose failure is told elsewhere: file, function (all if empty), calls (all if empty), and why.
pub type Entry = (&'static str, &'static str, &'static str, &'static str);

fn is_of((file, function, _, _): &Entry, place: &Place) -> bool {
    place.file == *file && names(&place.function, function)
}

/// What fails.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Try {
    pub kind: Kind,
    pub place: Place,
    pub call: &'static str,
}

impl Try {
    pub fn fault(&self, places: &Places, how: How) -> Fault {
        Fault { at: places.addresses(&self.place), kind: self.kind, call: self.call, how }
    }

    fn named(&self) -> String {
        let Try { kind, place, call } = self;
        format!("{}, {}:{} ({}), {call}", kind.name(), place.file, place.line, place.function)
    }
}

/// What there is to fail, and what has.
pub struct Plan {
    pub places: Arc<Places>,
    reasons: &'static [Entry],
    /// Only places whose reason for not failing elsewhere begins so, which fail here.
    only: Option<&'static str>,
    tries: AtomicUsize,
    failed: Mutex<BTreeSet<Try>>,
    complaints: Mutex<Vec<String>>,
}

impl Plan {
    pub fn new(places: Arc<Places>, reasons: &'static [Entry]) -> Plan {
        let (failed, complaints) = (Mutex::default(), Mutex::default());
        Plan { places, reasons, only: None, tries: AtomicUsize::new(0), failed, complaints }
    }

    /// Of the places that fail nowhere else for this reason.
    pub fn only(self, reason: &'static str) -> Plan {
        Plan { only: Some(reason), ..self }
    }

    fn is_wanted(&self, place: &Place) -> bool {
        let begins = |only: &str| self.reasons.iter().any(|entry| is_of(entry, place) && entry.3.starts_with(only));
        self.only.is_none_or(begins)
    }

    /// Whether a call there is not to be tried.
    fn is_spared(&self, place: &Place, call: &str) -> bool {
        self.reasons.iter().any(|entry| is_of(entry, place) && entry.2.split(' ').any(|spared| spared == call))
    }

    /// Whether it has a reason for not having failed, which stands for all that it calls.
    fn has_reason(&self, place: &Place) -> bool {
        let imports = self.imports(place);
        let covers =
            |calls: &str| calls.is_empty() || imports.iter().all(|import| calls.split(' ').any(|call| call == *import));
        self.reasons.iter().any(|entry| is_of(entry, place) && covers(entry.2))
    }

    fn imports(&self, place: &Place) -> BTreeSet<&String> {
        self.places.addresses(place).iter().flat_map(|at| self.places.imports(*at)).collect()
    }

    /// The calls of a record that no earlier one has.
    pub fn new_in(&self, record: &Record, known: &mut BTreeSet<Try>) -> Vec<Try> {
        let only = std::env::var("NLMMAP_FAULTS_ONLY").unwrap_or_default();
        let mut new = Vec::new();
        for ((kind, at), calls) in record {
            let Some(place) = self.places.place(*at).filter(|place| self.is_wanted(place)) else { continue };
            if !format!("{} {}:{} {}", kind.name(), place.file, place.line, place.function).contains(&only) {
                continue;
            }
            let tried = |call: &&&str| !is_left_alone(call, self.places.imports(*at)) && !self.is_spared(place, call);
            for call in calls.iter().filter(tried) {
                let what = Try { kind: *kind, place: place.clone(), call };
                if known.insert(what.clone()) {
                    new.push(what);
                }
            }
        }
        new
    }

    pub fn complain(&self, what: &Try, how: How, text: &str, log: &str) {
        let at = format!("{}: {how:?}", what.named());
        let lines: Vec<&str> = log.lines().collect();
        let log = lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n");
        println!("{at}: {text}");
        self.note(format!("{at}: {text}\nits log:\n{log}"));
    }

    /// With `NLMMAP_FAULTS_SHOWN`: what a client made of a failure.
    pub fn show(&self, since: Instant, what: &Try, how: How, client: impl std::fmt::Debug, outcome: &Outcome) {
        if std::env::var_os("NLMMAP_FAULTS_SHOWN").is_some() {
            let said = outcome.stderr.trim_end().replace('\n', " | ");
            println!("{:?} {}: {how:?}: {client:?} {:?} {said}", since.elapsed(), what.named(), outcome.code);
        }
    }

    /// What is wrong, not by one failure.
    pub fn note(&self, text: String) {
        self.complaints.lock().unwrap().push(text);
    }

    pub fn has_failed(&self, what: &Try) {
        self.tries.fetch_add(1, Ordering::Relaxed);
        self.failed.lock().unwrap().insert(what.clone());
    }

    /// Whether nothing was wrong, and each place has failed or has a reason. `seen`: all records; `known`: what there was to try.
    pub fn judge(self, seen: &[Record], known: &BTreeSet<Try>) {
        let failed = self.failed.lock().unwrap().clone();
        let failed: BTreeSet<&Place> = failed.iter().map(|what| &what.place).collect();
        println!("{} failures tried, {} places have failed", self.tries.load(Ordering::Relaxed), failed.len());
        let recorded: BTreeSet<&Place> = known.iter().map(|what| &what.place).collect();
        // Those that have made no calls but such as are left alone.
        let come_to = seen.iter().flat_map(|record| record.keys()).filter_map(|(_, at)| self.places.place(*at));
        let harmless: BTreeSet<&Place> = come_to.filter(|place| !recorded.contains(place)).collect();
        let all = self.places.all();
        let has_reason = |place: &Place| self.has_reason(place) && self.only.is_none();
        let is_open = |place: &Place| {
            self.is_wanted(place) && !failed.contains(place) && !has_reason(place) && !harmless.contains(place)
        };
        let open: Vec<String> = all
            .iter()
            .filter(|place| is_open(place) && !recorded.contains(place))
            .map(|place| format!("{}:{} {} {:?}", place.file, place.line, place.function, self.imports(place)))
            .collect();
        let complaints = self.complaints.lock().unwrap();
        println!("open: {}\n{}", open.len(), open.join("\n"));
        assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n\n"));
        // What was come to once, and not again while it was to fail.
        let by_chance: Vec<&Place> = all.iter().filter(|place| recorded.contains(place) && is_open(place)).collect();
        println!("by chance, and not come to again: {by_chance:?}");
        assert!(by_chance.len() <= CHANCES, "too many were not come to again: {by_chance:#?}");
        assert!(open.is_empty(), "{} that no test has fail, and no reason is given:\n{}", open.len(), open.join("\n"));
        let gone: Vec<&Entry> =
            self.reasons.iter().filter(|entry| !all.iter().any(|place| is_of(entry, place))).collect();
        assert!(gone.is_empty(), "there is no such place any more: {gone:?}");
    }
}
