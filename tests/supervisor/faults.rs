//! Every place in the code of the supervisor, of its guardian and of `nlmmap run` before it becomes the client that calls the kernel fails
//! in its turn: while it starts, while clients of all kinds are served, when it ends and when it is killed. The program is started, or it is
//! said why not; a client is served, or told by an error; the next one is served; nobody else notices; and nothing is left behind.
//!
//! Places and debugger are those of the daemon's test (`tests/device/faults`); `faults/scene.rs` has the clients. `NLMMAP_FAULTS=all` tries
//! every error that a call can have, not one for each place.

#[path = "../device/faults/answers.rs"]
mod answers;
#[path = "../device/faults/ends.rs"]
mod ends;
#[path = "../device/faults/gate.rs"]
mod gate;
#[path = "../device/faults/names.rs"]
mod names;
#[path = "../device/faults/places.rs"]
mod places;
#[allow(dead_code, reason = "shared with the daemon's test, which uses the rest")]
#[path = "../device/faults/plan.rs"]
mod plan;
#[path = "../device/faults/process.rs"]
mod process;
#[path = "faults/reasons.rs"]
mod reasons;
#[path = "faults/scene.rs"]
mod scene;
#[path = "../device/faults/session.rs"]
mod session;
#[allow(dead_code, reason = "shared with the daemon's test, which uses the rest")]
#[path = "../device/faults/tracer.rs"]
mod tracer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::need_root;
use answers::hows;
use places::Places;
use plan::{Plan, Try};
use reasons::NOT_FAILED;
use scene::{Held, NLMMAP, Scene, Visitor};
use tracer::How;

/// Whose calls are the supervisor's.
const SUPERVISOR: &[&str] = &["nlmmap::supervisor::", "nlmmap::see::place::own"];

/// Who comes, one after the other.
const VISITORS: [Visitor; 6] = [
    ("faults", ""),
    ("faults_further", "supervised"),
    ("supervised_faults", "calls"),
    ("supervised_faults", "people"),
    ("supervised_faults", "room"),
    ("supervised_faults", "busy"),
];

/// Who has to be served whole after each failure.
const NEXT: Visitor = ("basic", "");

/// When something fails that is not while it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Starts,
    Ends,
    IsKilled,
}

impl Plan {
    /// Fails while clients come, under a supervisor that goes on.
    fn while_it_serves(&self, left: &mut Vec<(Visitor, &Try, How)>) {
        while !left.is_empty() {
            let mut scene = Scene::start(&self.places, false, None);
            assert!(scene.ready, "without failures it does not start:\n{}", scene.log());
            scene.begin_witness();
            assert!(scene.visit(NEXT).success(), "{}", scene.log());
            let before = scene.held();
            let mut last = None;
            while let Some((visitor, what, how)) = left.pop() {
                last = Some((what, how));
                if let Some(text) = self.one(&mut scene, visitor, what, how, &before) {
                    self.complain(what, how, &text, &scene.log());
                    break;
                }
            }
            let witness = scene.end_witness();
            if let (Some((what, how)), Err(text)) = (last, witness) {
                self.complain(what, how, &text, &scene.log());
                continue;
            }
            match scene.end() {
                Some((Ok(0), _)) => {}
                end => self.note(format!("after all it ended with {:?}:\n{}", end.map(|(end, _)| end), scene.log())),
            }
        }
    }

    /// Fails once: what is wrong after that.
    fn one(&self, scene: &mut Scene, visitor: Visitor, what: &Try, how: How, before: &Held) -> Option<String> {
        let begin = std::time::Instant::now();
        // It may be come to by chance.
        for _ in 0..6 {
            scene.tracer.arm(what.fault(&self.places, how));
            let outcome = scene.visit(visitor);
            let fired = scene.tracer.disarm();
            if fired {
                self.has_failed(what);
            }
            if let Some(text) = scene.complaint(visitor, how, &outcome) {
                return Some(text);
            }
            let next = scene.visit(NEXT);
            if !next.success() {
                return Some(format!("the next one {}\nafter {visitor:?} {}", next.describe(), outcome.describe()));
            }
            if let Err(text) = scene.at_rest(before) {
                return Some(text);
            }
            if fired {
                self.show(begin, what, how, visitor, &outcome);
                return None;
            }
        }
        None
    }

    /// Fails while it starts, or ends.
    fn at_an_end(&self, what: &Try, how: How, when: When) {
        let (fault, starts) = (what.fault(&self.places, how), when == When::Starts);
        let mut scene = Scene::start(&self.places, false, starts.then(|| fault.clone()));
        let wrong = |scene: &Scene, text: &str| self.complain(what, how, text, &scene.log());
        let ready = scene.ready;
        if ready {
            let outcome = scene.visit(NEXT);
            if !outcome.success() {
                return wrong(&scene, &format!("{NEXT:?} {}", outcome.describe()));
            }
            if !starts {
                scene.tracer.arm(fault);
            }
            if when == When::IsKilled
                && let Err(text) = scene.loses_its_supervisor()
            {
                return wrong(&scene, &text);
            }
        }
        let Some((end, _)) = scene.end() else { return wrong(&scene, "it does not end") };
        let log = scene.log();
        match end {
            Ok(0) if ready => {}
            // It was the victim.
            Ok(-9) if how == How::Killed && !ready => {}
            // By its own decision, with the reason.
            Ok(125 | 126) if !ready && log.lines().any(|line| line.starts_with("nlmmap: ")) => {}
            end => return wrong(&scene, &format!("it ended with {end:?}")),
        }
        if let Err(text) = scene.is_clean()
            && when != When::IsKilled
        {
            return wrong(&scene, &text);
        }
        if scene.tracer.has_fired() {
            self.has_failed(what);
        }
    }
}

#[test]
fn each_place_of_the_supervisor_fails() {
    need_root();
    let begin = std::time::Instant::now();
    let places = Arc::new(Places::of(NLMMAP, SUPERVISOR));
    println!("places are known after {:?}", begin.elapsed());
    assert!(places.have_lines(), "the program has no line numbers");
    let plan = Plan::new(places.clone(), NOT_FAILED);
    let (mut known, mut serving, mut seen) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
    let mut scene = Scene::start(&places, true, None);
    assert!(scene.ready, "without failures it does not start:\n{}", scene.log());
    let record = scene.tracer.take();
    let starting = plan.new_in(&record, &mut known);
    seen.push(record);
    for (number, visitor) in VISITORS.into_iter().enumerate() {
        // Whether a thread on a busy processor waits for its turn is chance, one for each process.
        let visits = if format!("{visitor:?}").contains("busy") { 12 } else { 1 };
        for _ in 0..visits {
            let outcome = scene.visit(visitor);
            assert!(
                outcome.success(),
                "{visitor:?} without failures {}\nits log:\n{}",
                outcome.describe(),
                scene.log()
            );
            let record = scene.tracer.take();
            serving.entry(number).or_insert_with(Vec::new).extend(plan.new_in(&record, &mut known));
            seen.push(record);
        }
    }
    let (end, record) = scene.end().expect("it ends");
    assert_eq!(end, Ok(0), "{}", scene.log());
    let ending = plan.new_in(&record, &mut known);
    seen.push(record);
    drop(scene);
    let mut scene = Scene::start(&places, true, None);
    assert!(scene.ready, "without failures it does not start:\n{}", scene.log());
    seen.push(scene.tracer.take());
    scene.loses_its_supervisor().expect("a client without a supervisor ends");
    let (end, record) = scene.end().expect("it ends");
    assert_eq!(end, Ok(0), "{}", scene.log());
    let killed = plan.new_in(&record, &mut known);
    seen.push(record);
    drop(scene);
    println!(
        "{} places; {} fail at the start, {} while it serves, {} at the end, {} when it is killed; recorded after {:?}",
        places.all().len(),
        starting.len(),
        serving.values().map(Vec::len).sum::<usize>(),
        ending.len(),
        killed.len(),
        begin.elapsed()
    );
    let ends: Vec<(&Try, How, When)> = [(&starting, When::Starts), (&ending, When::Ends), (&killed, When::IsKilled)]
        .into_iter()
        .flat_map(|(whats, when)| whats.iter().map(move |what| (what, when)))
        .enumerate()
        .flat_map(|(nth, (what, when))| hows(what.call, nth).into_iter().map(move |how| (what, how, when)))
        .collect();
    let mut serve: Vec<(Visitor, &Try, How)> = Vec::new();
    for (visitor, whats) in &serving {
        for what in whats {
            serve.extend(hows(what.call, serve.len()).into_iter().map(|how| (VISITORS[*visitor], what, how)));
        }
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        // Two halves beside each other: most of the time somebody waits.
        let (mut evens, mut odds) = (Vec::new(), Vec::new());
        for (number, what) in serve.into_iter().rev().enumerate() {
            if number % 2 == 0 { evens.push(what) } else { odds.push(what) }
        }
        scope.spawn(|| plan.while_it_serves(&mut { evens }));
        scope.spawn(|| plan.while_it_serves(&mut { odds }));
        scope.spawn(|| {
            while let Some((what, how, when)) = ends.get(next.fetch_add(1, Ordering::Relaxed)) {
                plan.at_an_end(what, *how, *when);
            }
        });
    });
    plan.judge(&seen, &known);
    println!("done after {:?}", begin.elapsed());
}
