//! Running clients in alternation.

use super::work::{Way, Work};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a run needs to know.
pub struct Bench {
    pub clients: PathBuf,
    pub library: PathBuf,
    /// For the ways through a device.
    pub node: PathBuf,
    pub quick: bool,
    pub rounds: usize,
}

/// What one run of a client said.
#[derive(Clone, Debug, Default)]
pub struct Sample(BTreeMap<String, f64>);

impl Sample {
    /// Reads `name=value` pairs.
    pub fn parse(text: &str) -> Option<Sample> {
        let pairs = text.split_whitespace().map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_string(), value.parse().ok()?))
        });
        let sample = Sample(pairs.collect::<Option<_>>()?);
        (sample.of("messages")? > 0.0).then_some(sample)
    }

    /// A value by its name.
    pub fn of(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// A value a message.
    pub fn each(&self, name: &str) -> Option<f64> {
        Some(self.of(name)? / self.of("messages")?)
    }
}

/// All runs of one way: those that were timed, and one in which system calls were counted.
pub struct Runs {
    pub way: &'static Way,
    pub timed: Vec<Sample>,
    pub counted: Sample,
}

/// A client that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs a client to its end, and reads what it printed.
pub fn run(command: &mut Command) -> Result<Sample, String> {
    command.env_remove("NLMMAP_STRICT").env_remove("NLMMAP_LOG").stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    let said = format!("{command:?}");
    let mut child = command.spawn().map_err(|e| format!("{said}: {e}"))?;
    let start = Instant::now();
    while child.try_wait().map_err(|e| format!("{said}: {e}"))?.is_none() {
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{said}: not done after {} s", LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|e| format!("{said}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{said}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    Sample::parse(&text).ok_or_else(|| format!("{said}: printed {text:?}"))
}

/// One run of one way.
fn once(bench: &Bench, work: &Work, way: &Way, counted: bool) -> Result<Sample, String> {
    let mut command = Command::new(bench.clients.join(work.program));
    command.arg(way.arg).env_remove("LD_PRELOAD");
    let count = work.count[usize::from(bench.quick)].to_string();
    command.args(work.args.iter().map(|arg| if *arg == "COUNT" { count.as_str() } else { arg }));
    if way.ring {
        command.env("LD_PRELOAD", &bench.library);
    }
    if way.device {
        command.env("NLMMAP_DEVICE", &bench.node);
    }
    if counted {
        command.env("BENCH_COUNT", "1");
    }
    run(&mut command)
}

/// Every way once a round, so that what else the machine does meets all of them.
pub fn rounds(bench: &Bench, work: &'static Work) -> Result<Vec<Runs>, String> {
    let mut all: Vec<Runs> =
        work.ways.iter().map(|way| Runs { way, timed: Vec::new(), counted: Sample::default() }).collect();
    for round in 0..bench.rounds {
        for i in 0..all.len() {
            // Each round begins with another way.
            let runs = &mut all[(i + round) % work.ways.len()];
            runs.timed.push(once(bench, work, runs.way, false)?);
        }
    }
    for runs in &mut all {
        runs.counted = once(bench, work, runs.way, true)?;
    }
    Ok(all)
}

/// The middle, the least and the greatest of some values.
pub fn spread(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    Some([*values.get(values.len() / 2)?, *values.first()?, *values.last()?])
}

#[test]
fn clients_lines_are_read() {
    let sample = Sample::parse("messages=4 wall=10 cpu=8\n").unwrap();
    assert_eq!((sample.of("wall"), sample.each("cpu"), sample.of("p50")), (Some(10.0), Some(2.0), None));
    assert!(Sample::parse("").is_none());
    assert!(Sample::parse("messages=0 wall=1").is_none());
    assert!(Sample::parse("messages=4 wall").is_none());
}

#[test]
fn spread_is_by_value() {
    assert_eq!(spread(vec![3.0, 1.0, 10.0, 2.0, 4.0]), Some([3.0, 1.0, 10.0]));
    assert_eq!(spread(vec![]), None);
}
