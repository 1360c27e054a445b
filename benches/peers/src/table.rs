//! Runs everything in alternation and lays the middles side by side.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::{Failure, Outcome, events, queue};

const BEGIN: &str = "<!-- measured: written by the benchmark of peers -->\n";

struct Work {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    ways: &'static [&'static str],
    count: u64,
}

const WORKS: [Work; 3] = [
    Work {
        name: "nfqueue-64",
        title: "NFQUEUE accept, 64 bytes of UDP",
        unit: "packet",
        ways: queue::WAYS,
        count: 200_000,
    },
    Work {
        name: "nfqueue-1400",
        title: "NFQUEUE accept, 1400 bytes of UDP",
        unit: "packet",
        ways: queue::WAYS,
        count: 200_000,
    },
    Work {
        name: "conntrack",
        title: "events of connection tracking, in bursts of 1000",
        unit: "event",
        ways: events::WAYS,
        count: 200_000,
    },
];

pub struct Options {
    rounds: usize,
    quick: bool,
    write: Option<String>,
    only: Option<String>,
}

pub fn options(words: &[&str]) -> Result<Options, Failure> {
    let mut options = Options { rounds: 5, quick: false, write: None, only: None };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().map(ToString::to_string).ok_or(format!("{word} needs a value"));
        match *word {
            "--rounds" => options.rounds = value()?.parse().ok().filter(|n| *n > 0).ok_or("--rounds: a number")?,
            "--quick" => options.quick = true,
            "--write" => options.write = Some(value()?),
            "--only" => options.only = Some(value()?),
            _ => return Err("usage: nlmmap-peers [--rounds N] [--quick] [--only WORK] [--write FILE]".into()),
        }
    }
    Ok(options)
}

/// Messages a second, and CPU nanoseconds a message.
#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    cpu: f64,
}

fn run(work: &Work, way: &str, count: u64) -> Result<Figures, Failure> {
    let output = Command::new(std::env::current_exe()?).args(["one", work.name, way, &count.to_string()]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{}, {way}: {}", work.name, String::from_utf8_lossy(&output.stderr)).into());
    }
    let values: HashMap<&str, f64> = text
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let value = |name| values.get(name).copied().ok_or(format!("{way}: no {name} in {text}"));
    let (messages, wall, cpu) = (value("messages")?, value("wall")?, value("cpu")?);
    if messages < count as f64 {
        return Err(format!("{way}: {messages} of {count}").into());
    }
    Ok(Figures { rate: messages / wall * 1e9, cpu: cpu / messages })
}

/// Least, middle, greatest.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

pub fn all(options: &Options) -> Outcome {
    let mut text = String::new();
    for work in WORKS.iter().filter(|w| options.only.as_deref().is_none_or(|only| only == w.name)) {
        text += &measure(work, options)?;
    }
    let Some(path) = &options.write else {
        print!("{text}");
        return Ok(());
    };
    let page = fs::read_to_string(path)?;
    let (head, _) = page.split_once(BEGIN).ok_or(format!("{path} has no line {BEGIN}"))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let date = String::from_utf8(Command::new("date").args(["-u", "+%F"]).output()?.stdout)?;
    let cpus = std::thread::available_parallelism()?;
    let facts = format!(
        "\n- date: {}\n- kernel: {}\n- CPUs: {cpus}\n",
        date.trim(),
        kernel.trim().split('-').next().unwrap_or_default()
    );
    Ok(fs::write(path, format!("{head}{BEGIN}{facts}{text}"))?)
}

fn measure(work: &Work, options: &Options) -> Result<String, Failure> {
    let count = if options.quick { work.count / 10 } else { work.count };
    let mut results: Vec<Vec<Figures>> = vec![Vec::new(); work.ways.len()];
    for _ in 0..options.rounds {
        for (way, results) in work.ways.iter().zip(&mut results) {
            results.push(run(work, way, count)?);
        }
    }
    // Ratios are taken round by round, against the best peer of that round, so that what else the machine does meets both.
    let is_peer = |way: &str| !way.starts_with("RingSocket");
    let best = |round: usize, of: fn(&Figures) -> f64, better: fn(f64, f64) -> f64| {
        let peers = work.ways.iter().zip(&results).filter(|(way, _)| is_peer(way));
        peers.map(|(_, results)| of(&results[round])).reduce(better).unwrap_or(f64::NAN)
    };
    let mut text = format!("\n### {} ({})\n\n", work.title, work.name);
    let unit = work.unit;
    writeln!(text, "| | {unit}s/s | CPU ns/{unit} | rate : best peer | CPU : best peer |")?;
    writeln!(text, "|---|---:|---:|---:|---:|")?;
    for (way, results) in work.ways.iter().zip(&results) {
        let each = |of: fn(&Figures) -> f64| results.iter().map(of).collect::<Vec<_>>();
        let ratio = |of: fn(&Figures) -> f64, better: fn(f64, f64) -> f64| {
            spread(results.iter().enumerate().map(|(round, r)| of(r) / best(round, of, better)).collect())[1]
        };
        let [low, rate, high] = spread(each(|r| r.rate / 1e3));
        let [least, cpu, most] = spread(each(|r| r.cpu));
        writeln!(
            text,
            "| {way} | {rate:.0}k ({low:.0}k..{high:.0}k) | {cpu:.0} ({least:.0}..{most:.0}) | {:.2} | {:.2} |",
            ratio(|r| r.rate, f64::max),
            ratio(|r| r.cpu, f64::min),
        )?;
    }
    Ok(text)
}
