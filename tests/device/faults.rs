//! Every place in the code of the daemon, its spawner and its workers that calls the kernel fails in its turn: while the daemon starts,
//! while clients of all kinds use it, and while it ends. It starts, or says why not; a client is served, or told by an error; nobody
//! else notices; it ends when it is asked to; and nothing is left behind, of a client that it had or of itself.
//!
//! Which places there are is read from the program (`faults/places.rs`); a debugger makes them fail (`faults/tracer.rs`), and
//! `faults/scene.rs` has the clients. `NLMMAP_FAULTS=all` tries every error that a call can have, not one for each place.

#[path = "faults/names.rs"]
mod names;
#[path = "faults/places.rs"]
mod places;
#[path = "faults/process.rs"]
mod process;
#[path = "faults/reasons.rs"]
mod reasons;
#[path = "faults/scene.rs"]
mod scene;
#[path = "faults/session.rs"]
mod session;
#[path = "faults/tracer.rs"]
mod tracer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::cage::MemoryCage;
use crate::daemon::{NLMMAP, is_about_ring_files};
use crate::support::need_root;
use places::{Place, Places};
use reasons::{has_reason, hows, is_left_alone, is_spared};
use scene::{Held, Scene, Visitor, place};
use tracer::{Fault, How, Kind, Record};

/// Who comes, one after the other.
const VISITORS: [Visitor; 13] = [
    Visitor::Client("calls"),
    Visitor::Client("plain"),
    Visitor::Client("user"),
    Visitor::Client("granted"),
    Visitor::Elsewhere("plain"),
    Visitor::Charged("calls"),
    Visitor::Preloaded("faults"),
    Visitor::Preloaded("faults_further"),
    Visitor::Stat,
    Visitor::Capture,
    Visitor::Metrics,
    Visitor::Reload,
    Visitor::Client("plain"),
];

/// So long after it has said that it is ready a daemon's threads have begun to wait.
const SETTLING: Duration = Duration::from_millis(30);

/// So many places may be come to in the record and, since it is a matter of time there, not again.
const CHANCES: usize = 5;

/// What fails.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Try {
    kind: Kind,
    place: Place,
    call: &'static str,
}

impl Try {
    fn fault(&self, places: &Places, how: How) -> Fault {
        Fault { at: places.addresses(&self.place), kind: self.kind, call: self.call, how }
    }
}

/// When a daemon has a failure that is not while it serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Starts,
    StartsAfterAKill,
    Ends,
}

/// A daemon of the place's name is killed, and leaves what it has made.
fn leave_the_rest_of_another(place: &crate::daemon::Place) {
    let daemon = place.start();
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.wait();
}

/// What there is to fail, and what has.
struct Plan {
    places: Arc<Places>,
    tries: AtomicUsize,
    failed: Mutex<BTreeSet<Try>>,
    complaints: Mutex<Vec<String>>,
}

impl Plan {
    /// The calls of a record that no earlier one has.
    fn new_in(&self, record: &Record, known: &mut BTreeSet<Try>) -> Vec<Try> {
        let only = std::env::var("NLMMAP_FAULTS_ONLY").unwrap_or_default();
        let mut new = Vec::new();
        for ((kind, at), calls) in record {
            let Some(place) = self.places.place(*at) else { continue };
            if !format!("{} {}:{} {}", scene::is_of(*kind), place.file, place.line, place.function).contains(&only) {
                continue;
            }
            for call in
                calls.iter().filter(|call| !is_left_alone(call, self.places.imports(*at)) && !is_spared(place, call))
            {
                let what = Try { kind: *kind, place: place.clone(), call };
                if known.insert(what.clone()) {
                    new.push(what);
                }
            }
        }
        new
    }

    fn complain(&self, what: &Try, how: How, text: &str, log: &str) {
        let Try { kind, place, call } = what;
        let at =
            format!("{}, {}:{} ({}), {call}: {how:?}", scene::is_of(*kind), place.file, place.line, place.function);
        let lines: Vec<&str> = log.lines().collect();
        let log = lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n");
        println!("{at}: {text}");
        self.complaints.lock().unwrap().push(format!("{at}: {text}\nthe daemon:\n{log}"));
    }

    fn has_failed(&self, what: &Try) {
        self.tries.fetch_add(1, Ordering::Relaxed);
        self.failed.lock().unwrap().insert(what.clone());
    }

    /// Fails while somebody uses a daemon that goes on.
    fn while_it_serves(&self, tries: &BTreeMap<usize, Vec<Try>>, cage: Option<&MemoryCage>) {
        let mut left: Vec<(Visitor, &Try, How)> = Vec::new();
        for (visitor, whats) in tries {
            for what in whats {
                left.extend(hows(what.call, left.len()).into_iter().map(|how| (VISITORS[*visitor], what, how)));
            }
        }
        left.reverse();
        while !left.is_empty() {
            let place = place();
            let mut scene = Scene::start(&place, cage, &self.places, false, None);
            assert!(scene.ready, "without failures it does not start:\n{}", scene.log());
            let witness = scene.witness();
            scene.tracer.spare_workers();
            let before = scene.held();
            assert!(scene.visit(Visitor::Client("calls")).success());
            let each = scene.held().each_since(&before);
            let mut last = None;
            while let Some((visitor, what, how)) = left.pop() {
                last = Some((what, how));
                if let Some(text) = self.one(&mut scene, visitor, what, how, &before, &each) {
                    self.complain(what, how, &text, &scene.log());
                    if scene.tracer.ended().is_some() || text.starts_with("something is left") {
                        break;
                    }
                }
            }
            let alive = scene.tracer.ended().is_none();
            if let (Some((what, how)), Err(text)) = (last, witness.ends_whole()) {
                self.complain(what, how, &text, &scene.log());
            }
            if alive {
                match scene.end() {
                    Some((Ok(0), _)) => {}
                    end => {
                        let end = end.map(|(end, _)| end);
                        self.complaints
                            .lock()
                            .unwrap()
                            .push(format!("after all it ended with {end:?}:\n{}", scene.log()));
                    }
                }
            }
        }
    }

    /// Fails once: what is wrong after that.
    fn one(
        &self,
        scene: &mut Scene<'_>,
        visitor: Visitor,
        what: &Try,
        how: How,
        before: &Held,
        each: &Held,
    ) -> Option<String> {
        let begin = std::time::Instant::now();
        // It may be come to by chance.
        for _ in 0..6 {
            scene.tracer.arm(what.fault(&self.places, how));
            let outcome = scene.visit(visitor);
            let fired = scene.tracer.disarm();
            if fired {
                self.has_failed(what);
            }
            if let Some(text) = scene.complaint(visitor, &outcome) {
                return Some(text);
            }
            let crashes = scene.tracer.crashes();
            if !crashes.is_empty() {
                return Some(format!("{}; {visitor:?} {}", crashes.join("; "), outcome.describe()));
            }
            if let Some((end, _)) = scene.tracer.ended() {
                return Some(format!("the daemon has ended with {end:?}"));
            }
            if let Err(text) = scene.at_rest(before, each) {
                return Some(text);
            }
            if fired {
                if std::env::var_os("NLMMAP_FAULTS_SHOWN").is_some() {
                    let Try { kind, place, call } = what;
                    println!(
                        "{:?} {kind:?} {}:{} {call} {how:?}: {visitor:?} {:?} {}",
                        begin.elapsed(),
                        place.file,
                        place.line,
                        outcome.code,
                        outcome.stderr.trim_end().replace('\n', " | ")
                    );
                }
                return None;
            }
        }
        None
    }

    /// Fails while a daemon starts, or ends.
    fn at_an_end(&self, what: &Try, how: How, when: When) {
        let (place, starts) = (place(), when != When::Ends);
        if when == When::StartsAfterAKill {
            leave_the_rest_of_another(&place);
        }
        let fault = what.fault(&self.places, how);
        let mut scene = Scene::start(&place, None, &self.places, false, starts.then(|| fault.clone()));
        if starts && scene.ready {
            thread::sleep(SETTLING);
        }
        let mut fired = starts && scene.tracer.ended().is_none() && scene.tracer.disarm();
        let wrong = |scene: &Scene<'_>, text: &str| self.complain(what, how, text, &scene.log());
        if scene.ready {
            let outcome = scene.visit(Visitor::Client("plain"));
            if let Some(text) = scene.complaint(Visitor::Client("plain"), &outcome) {
                return wrong(&scene, &text);
            }
            if !starts {
                scene.tracer.arm(fault);
            }
        } else if scene.tracer.ended().is_none() {
            return wrong(&scene, "it neither starts nor ends");
        } else {
            fired = true;
        }
        let ready = scene.ready;
        let Some((end, _)) = scene.end() else { return wrong(&scene, "it does not end") };
        let log = scene.log();
        match end {
            Ok(0) if ready => {}
            // By its own decision, with the reason.
            Ok(1..=5) if log.lines().any(|line| line.starts_with("nlmmap: ")) => {}
            end => return wrong(&scene, &format!("it ended with {end:?}")),
        }
        // What another has left is still there if this one could not even begin.
        if let Err(text) = scene.is_clean()
            && (ready || when != When::StartsAfterAKill)
        {
            return wrong(&scene, &text);
        }
        if fired || !starts {
            self.has_failed(what);
        }
    }
}

#[test]
fn each_place_of_the_daemon_fails() {
    need_root();
    if is_about_ring_files() {
        return;
    }
    let begin = std::time::Instant::now();
    let places = Arc::new(Places::of(NLMMAP));
    println!("places are known after {:?}", begin.elapsed());
    let plan = Plan {
        places: places.clone(),
        tries: AtomicUsize::new(0),
        failed: Mutex::default(),
        complaints: Mutex::default(),
    };
    let cage = MemoryCage::new(300 << 20);
    let (mut known, mut serving, mut seen) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
    let here = place();
    let mut scene = Scene::start(&here, cage.as_ref(), &places, true, None);
    assert!(scene.ready, "without failures it does not start:\n{}", scene.log());
    // Threads that have only just begun.
    thread::sleep(SETTLING * 5);
    let record = scene.tracer.take();
    let starting = plan.new_in(&record, &mut known);
    seen.push(record);
    for (number, visitor) in VISITORS.into_iter().enumerate() {
        let outcome = scene.visit(visitor);
        assert!(outcome.success(), "{visitor:?} without failures {}\nthe daemon:\n{}", outcome.describe(), scene.log());
        let record = scene.tracer.take();
        serving.insert(number, plan.new_in(&record, &mut known));
        seen.push(record);
    }
    let (end, record) = scene.end().expect("it ends");
    assert_eq!(end, Ok(0), "{}", scene.log());
    let ending = plan.new_in(&record, &mut known);
    println!("recorded after {:?}", begin.elapsed());
    seen.push(record);
    drop(scene);
    leave_the_rest_of_another(&here);
    let mut scene = Scene::start(&here, None, &places, true, None);
    assert!(scene.ready, "after a kill it does not start:\n{}", scene.log());
    let record = scene.tracer.take();
    let clearing = plan.new_in(&record, &mut known);
    seen.push(record);
    assert_eq!(scene.end().map(|(end, _)| end), Some(Ok(0)), "{}", scene.log());
    drop(scene);
    let count = serving.values().map(Vec::len).sum::<usize>();
    println!(
        "{} places; {} fail at the start, {count} while it serves, {} at the end",
        places.all().len(),
        starting.len(),
        ending.len()
    );
    let ends: Vec<(&Try, How, When)> =
        [(&starting, When::Starts), (&clearing, When::StartsAfterAKill), (&ending, When::Ends)]
            .into_iter()
            .flat_map(|(whats, when)| whats.iter().map(move |what| (what, when)))
            .enumerate()
            .flat_map(|(nth, (what, when))| hows(what.call, nth).into_iter().map(move |how| (what, how, when)))
            .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| plan.while_it_serves(&serving, cage.as_ref()));
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((what, how, when)) = ends.get(next.fetch_add(1, Ordering::Relaxed)) {
                    plan.at_an_end(what, *how, *when);
                }
            });
        }
    });
    let (failed, complaints) = (plan.failed.into_inner().unwrap(), plan.complaints.into_inner().unwrap());
    let failed_places: BTreeSet<&Place> = failed.iter().map(|what| &what.place).collect();
    println!("{} failures tried, {} places have failed", plan.tries.into_inner(), failed_places.len());
    let come_to: BTreeSet<&Place> =
        seen.iter().flat_map(|record| record.keys()).filter_map(|(_, at)| places.place(*at)).collect();
    // Those that have made no calls but such as are left alone.
    let mut harmless = come_to;
    harmless.retain(|place| !known.iter().any(|what| what.place == **place));
    let all = places.all();
    let imports = |place: &Place| {
        places.addresses(place).iter().flat_map(|at| places.imports(*at)).cloned().collect::<BTreeSet<String>>()
    };
    let is_open = |place: &Place| {
        !failed_places.contains(place) && !has_reason(place, &imports(place)) && !harmless.contains(place)
    };
    let recorded: BTreeSet<&Place> = known.iter().map(|what| &what.place).collect();
    let open: Vec<String> = all
        .iter()
        .filter(|place| is_open(place) && !recorded.contains(place))
        .map(|place| {
            let imports: BTreeSet<&String> =
                places.addresses(place).iter().flat_map(|at| places.imports(*at)).collect();
            format!("{}:{} {} {imports:?}", place.file, place.line, place.function)
        })
        .collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n\n"));
    // What was come to once, and not again while it was to fail.
    let by_chance: Vec<&Place> = all.iter().filter(|place| recorded.contains(place) && is_open(place)).collect();
    println!("by chance, and not come to again: {by_chance:?}");
    assert!(by_chance.len() <= CHANCES, "too many were not come to again: {by_chance:#?}");
    assert!(open.is_empty(), "{} that no test has fail, and no reason is given:\n{}", open.len(), open.join("\n"));
    let gone = reasons::unused(&all);
    assert!(gone.is_empty(), "there is no such place any more: {gone:?}");
}
