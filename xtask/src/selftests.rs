//! Interpreters' and OpenSSH's own tests, unchanged, without the library, with it, and with it and rings that the program knows nothing
//! of (`tests/selftests/rings.c`).
//!
//! A test that fails bare is judged no further; any other has to end as it does bare. Where one does not, its part runs again:
//! what never ends as it should is a complaint, what does sometimes is named as unsteady.

mod bash;
mod cage;
mod openssh;
mod perl;
mod python;
mod sources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{Fault, Words, unknown};
use crate::{cargo, tools};
use cage::{Cage, Run};

/// What each test of a part said, by its name.
type Outcomes = BTreeMap<String, String>;

/// What one process runs: a module of Python's, a file of Perl's, a script.
struct Part {
    suite: &'static str,
    name: String,
    run: Box<Runner>,
}

/// The parts of a suite, given a directory for what has to be fetched, and whether in brief.
type Parts = fn(&Path, bool) -> Result<Vec<Part>, String>;

const SUITES: [(&str, Parts); 4] =
    [("python", python::parts), ("perl", perl::parts), ("bash", bash::parts), ("openssh", openssh::parts)];

type Runner = dyn Fn(&Cage) -> Result<Outcomes, String> + Send + Sync;

/// Runs more of a part in which something differs.
const AGAIN: usize = 2;
/// Parts beside each other: they sleep most of the time.
const JOBS: usize = 4;
/// For all of it, where nobody says how long.
const MINUTES: u64 = 120;

/// How a part is run.
#[derive(Clone, Copy)]
enum Way {
    Bare,
    Library,
    /// With a library that opens rings, and without ours: the kernel refuses them.
    BareRings,
    Rings,
}

struct Loaded {
    library: PathBuf,
    rings: PathBuf,
    /// When all of it is over.
    end: Instant,
}

impl Loaded {
    fn cage(&self, way: Way) -> Result<Cage, String> {
        let preloads = match way {
            Way::Bare => vec![],
            Way::Library => vec![self.library.clone()],
            Way::BareRings => vec![self.rings.clone()],
            Way::Rings => vec![self.library.clone(), self.rings.clone()],
        };
        Cage::new(preloads, self.end)
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.end
    }

    fn run(&self, part: &Part, way: Way) -> Result<Outcomes, String> {
        (part.run)(&self.cage(way)?).map_err(|why| format!("{} {}: {why}", part.suite, part.name))
    }
}

/// What became of a part's tests, beside those that ended as they should.
#[derive(Default)]
struct Judged {
    tests: usize,
    /// Those that fail without the library too.
    failing: usize,
    unsteady: Vec<String>,
    complaints: Vec<String>,
    /// Parts that were not done when the time was up.
    unrun: Vec<String>,
}

impl Judged {
    fn unrun(part: &Part) -> Judged {
        Judged { unrun: vec![format!("{} {}", part.suite, part.name)], ..Judged::default() }
    }

    fn line(&self) -> String {
        if !self.unrun.is_empty() {
            return "NOT RUN: the time is up".into();
        }
        let mut line = format!("{} tests, {} fail without the library", self.tests, self.failing);
        for (what, tests) in [("unsteady", &self.unsteady), ("DIFFERS", &self.complaints)] {
            tests.iter().for_each(|test| line.extend(["\n    ", what, ": ", test]));
        }
        line
    }

    fn add(&mut self, other: Judged) {
        self.tests += other.tests;
        self.failing += other.failing;
        self.unsteady.extend(other.unsteady);
        self.complaints.extend(other.complaints);
        self.unrun.extend(other.unrun);
    }
}

pub const HELP: &str = "  WORD         only parts of which SUITE/NAME has it in it: python/test_socket, openssh, ...
  --brief      those about files, sockets, processes and signals that do not take long
  --minutes N  end all of it after so long (120); what was not done then is a failure

It needs root, for namespaces. Perl's and bash's sources and OpenSSH's packages are fetched with apt into target/selftests, and
nothing is installed but Python's tests. A test that fails bare is judged no further; any other has to end as it does bare.";

pub fn main(words: &[String]) -> Result<bool, Fault> {
    let (mut brief, mut minutes, mut wanted) = (false, MINUTES, Vec::new());
    let mut words = Words::of(words);
    while let Some(word) = words.next() {
        match word {
            "--brief" => brief = true,
            "--minutes" => minutes = words.number(word, 1..=65_535)?,
            option if option.starts_with('-') => return Err(unknown(option)),
            word => wanted.push(word),
        }
    }
    tools::need(&["gcc", "ip", "unshare", "python3", "perl", "bash"])?;
    if !cargo::run(&["build", "--release", "--package", "nlmmap-preload"])? {
        return Ok(false);
    }
    let target = cargo::target_dir()?;
    let home = target.join("selftests");
    std::fs::create_dir_all(&home).map_err(|e| format!("{}: {e}", home.display()))?;
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    // A copy: this takes long, and the library may be built again meanwhile.
    let (built, library) = (target.join("release/libnlmmap_preload.so"), home.join("libnlmmap_preload.so"));
    let _ = std::fs::remove_file(&library);
    std::fs::copy(&built, &library).map_err(|e| format!("{}: {e}", built.display()))?;
    let loaded = Loaded { library, rings: rings(&home)?, end };
    loaded.try_out()?;
    let (mut parts, mut missing) = (Vec::new(), false);
    for (suite, of) in SUITES {
        match of(&home, brief) {
            Ok(some) => parts.extend(some),
            Err(why) => {
                println!("selftests: {suite} is NOT RUN: {why}");
                missing = true;
            }
        }
    }
    parts.retain(|part: &Part| {
        let name = format!("{}/{}", part.suite, part.name);
        wanted.is_empty() || wanted.iter().any(|word| name.contains(word))
    });
    if parts.is_empty() {
        return Err(format!("no part is named like {}", wanted.join(" or ")).into());
    }
    let clean = report(&parts, judge_all(&loaded, &parts)?);
    // By hand a suite that cannot be had is a failure; beside the other tests it is what was printed.
    Ok(clean && (brief || !missing))
}

/// Each part on its own, some beside each other.
fn judge_all(loaded: &Loaded, parts: &[Part]) -> Result<BTreeMap<&'static str, Judged>, String> {
    let (next, all) = (AtomicUsize::new(0), Mutex::new((BTreeMap::<&str, Judged>::new(), None)));
    thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let judged = judge(loaded, part);
                    let words = judged.as_ref().map_or_else(Clone::clone, Judged::line);
                    println!("  {} {}, {} s: {words}", part.suite, part.name, begin.elapsed().as_secs());
                    let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match judged {
                        Ok(judged) => all.0.entry(part.suite).or_default().add(judged),
                        Err(why) => all.1 = Some(why),
                    }
                }
            });
        }
    });
    let (judged, fault) = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    fault.map_or(Ok(judged), Err)
}

/// One part, bare and in both other ways.
fn judge(loaded: &Loaded, part: &Part) -> Result<Judged, String> {
    if loaded.is_late() {
        return Ok(Judged::unrun(part));
    }
    let bare = loaded.run(part, Way::Bare)?;
    // What was cut off is nobody's fault.
    if loaded.is_late() {
        return Ok(Judged::unrun(part));
    }
    let mut judged =
        Judged { tests: bare.len(), failing: bare.values().filter(|it| is_failure(it)).count(), ..Judged::default() };
    for (bare_way, way, words) in
        [(Way::Bare, Way::Library, "the library"), (Way::BareRings, Way::Rings, "the library and rings")]
    {
        let with = loaded.run(part, way)?;
        let mut different = differences(&bare, &with);
        if different.is_empty() {
            continue;
        }
        // What fails in any bare run is judged no further, what ends well in any with the library is unsteady.
        let (mut bares, mut withs) = (vec![bare.clone()], vec![with]);
        for _ in 0..AGAIN {
            bares.push(loaded.run(part, bare_way)?);
            withs.push(loaded.run(part, way)?);
        }
        if loaded.is_late() {
            return Ok(Judged::unrun(part));
        }
        different.retain(|test| !bares.iter().any(|run| run.get(test).is_none_or(|it| is_failure(it))));
        for test in different {
            let said: Vec<&str> = withs.iter().map(|run| run.get(&test).map_or("nothing", String::as_str)).collect();
            let expected: Vec<&str> = bares.iter().filter_map(|run| run.get(&test)).map(String::as_str).collect();
            let line = format!("{} {}, {test}: with {words} {said:?}, without {expected:?}", part.suite, part.name);
            if said.iter().any(|it| expected.contains(it)) {
                judged.unsteady.push(line);
            } else {
                judged.complaints.push(line);
            }
        }
    }
    Ok(judged)
}

fn is_failure(outcome: &str) -> bool {
    matches!(outcome, "failed" | "error" | "not ok" | "hung or died")
}

/// Tests that do not end as they do bare, where they do not fail.
fn differences(bare: &Outcomes, with: &Outcomes) -> Vec<String> {
    bare.iter()
        .filter(|(test, it)| !is_failure(it) && with.get(*test) != Some(it))
        .map(|(test, _)| test.clone())
        .collect()
}

fn report(parts: &[Part], judged: BTreeMap<&'static str, Judged>) -> bool {
    let mut clean = true;
    for (suite, judged) in judged {
        for line in &judged.complaints {
            println!("  DIFFERS: {line}");
        }
        for part in &judged.unrun {
            println!("  NOT RUN: {part}: the time was up");
        }
        let files = parts.iter().filter(|part| part.suite == suite).count();
        println!(
            "selftests: {suite}: {} tests in {} of {files} parts, {} fail without the library, {} unsteady, {} differ",
            judged.tests,
            files - judged.unrun.len(),
            judged.failing,
            judged.unsteady.len(),
            judged.complaints.len()
        );
        clean &= judged.complaints.is_empty() && judged.unrun.is_empty() && judged.tests > judged.failing;
    }
    clean
}

/// The library that opens rings in whatever loads it.
fn rings(home: &Path) -> Result<PathBuf, String> {
    let (source, library) = (cargo::root().join("tests/selftests/rings.c"), home.join("rings.so"));
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-g", "-shared", "-fPIC"]).arg(format!("-I{}", cargo::root().join("include").display()));
    match gcc.arg(&source).arg("-o").arg(&library).status() {
        Ok(status) if status.success() => Ok(library),
        Ok(_) => Err(format!("{} does not compile", source.display())),
        Err(e) => Err(format!("gcc: {e}")),
    }
}

impl Loaded {
    /// That what is to be loaded is, in each interpreter, and has the rings that it should have.
    fn try_out(&self) -> Result<(), String> {
        let maps = "/proc/self/maps";
        let python = format!("print(open('{maps}').read())");
        let perl = format!("open F, '{maps}'; print <F>");
        let shell = ["python3", "-c", &python, "perl", "-e", &perl, "bash", "-c", "exec 3</proc/$$/maps; cat <&3"];
        for interpreter in shell.chunks(3) {
            for (way, ours, rings) in [(Way::Bare, false, false), (Way::Library, true, false), (Way::Rings, true, true)]
            {
                let Run { output: seen, errors, .. } =
                    self.cage(way)?.run(&interpreter[0..1], &interpreter[1..], 20)?;
                let has = |what: &str| seen.lines().any(|line| line.ends_with(what));
                // The rings' own memory, as compat.md says that it is named.
                if has("/libnlmmap_preload.so") != ours || has("/dev/zero (deleted)") != rings {
                    return Err(format!("{} has not loaded what it was to load: {errors}\n{seen}", interpreter[0]));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn only_what_does_not_fail_bare_is_compared() {
    let outcomes =
        |all: &[(&str, &str)]| all.iter().map(|(test, it)| (test.to_string(), it.to_string())).collect::<Outcomes>();
    let bare = outcomes(&[("a", "ok"), ("b", "failed"), ("c", "ok"), ("d", "skipped"), ("e", "ok")]);
    let with = outcomes(&[("a", "ok"), ("b", "ok"), ("c", "error"), ("d", "ok")]);
    assert_eq!(differences(&bare, &with), ["c", "d", "e"]);
}
