//! Every place in the code of the daemon, its spawner and its workers that calls the kernel fails in its turn: while the daemon starts,
//! while clients of all kinds use it, and while it ends. It starts, or says why not; a client is served, or told by an error; nobody
//! else notices; it ends when it is asked to; and nothing is left behind, of a client that it had or of itself.
//!
//! Which places there are is read from the program (`faults/places.rs`); a debugger makes them fail (`faults/tracer.rs`), and
//! `faults/scene.rs` has the clients. `NLMMAP_FAULTS=all` tries every error that a call can have, not one for each place.

#[path = "faults/answers.rs"]
mod answers;
#[path = "faults/commands.rs"]
mod commands;
#[path = "faults/ends.rs"]
mod ends;
#[allow(dead_code, reason = "shared with the supervisor's test, which uses the rest")]
#[path = "faults/gate.rs"]
mod gate;
#[path = "faults/names.rs"]
mod names;
#[path = "faults/places.rs"]
mod places;
#[path = "faults/plan.rs"]
mod plan;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::cage::MemoryCage;
use crate::daemon::{NLMMAP, uses_cuse};
use crate::support::need_root;
use answers::hows;
use places::Places;
use plan::{Plan, Try};
use reasons::NOT_FAILED;
use scene::{Held, Scene, Visitor, place};
use tracer::How;

/// Whose calls are the daemon's. The rest of the program is other commands'.
const DAEMON: &[&str] =
    &["nlmmap::serve::", "nlmmap::policy::", "nlmmap::cli::serve::", "nlmmap::sigpipe::", "cuse_rs::"];

/// How the reason of a place begins that only a character device comes to.
const CUSE: &str = "a character device";

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

/// There are more: fewer are found where the program is not read as it should be.
const PLACES: usize = 300;

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

impl Plan {
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
            scene.spare_workers();
            let before = scene.rest();
            assert!(scene.visit(Visitor::Client("calls")).success());
            let each = scene.rest().each_since(&before);
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
                        self.note(format!("after all it ended with {end:?}:\n{}", scene.log()));
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
                self.show(begin, what, how, visitor, &outcome);
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
        if starts && scene.tracer.ended().is_none() {
            scene.tracer.disarm();
        }
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
        if scene.tracer.has_fired() {
            self.has_failed(what);
        }
    }
}

#[test]
fn each_place_of_the_daemon_fails() {
    need_root();
    let begin = std::time::Instant::now();
    let places = Arc::new(Places::of(NLMMAP, DAEMON));
    println!("places are known after {:?}", begin.elapsed());
    if !places.have_lines() {
        eprintln!("skipped: the program has no line numbers (docs/testing.md, \"Places that fail\")");
        return;
    }
    let plan = Plan::new(places.clone(), NOT_FAILED);
    assert!(places.all().len() > PLACES, "only {} places: {:?}", places.all().len(), places.all());
    // Whatever else there is fails over the ring file.
    let plan = if uses_cuse() { plan.only(CUSE) } else { plan };
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
        // A capture may come when its client has just gone, and then copies nothing.
        let times = if matches!(visitor, Visitor::Capture) { 5 } else { 1 };
        let mut new = Vec::new();
        for _ in 0..times {
            let outcome = scene.visit(visitor);
            assert!(
                outcome.success(),
                "{visitor:?} without failures {}\nthe daemon:\n{}",
                outcome.describe(),
                scene.log()
            );
            let record = scene.tracer.take();
            new.extend(plan.new_in(&record, &mut known));
            seen.push(record);
        }
        serving.insert(number, new);
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
    plan.judge(&seen, &known);
}
