//! Measurements as text: one table a piece of work, in Markdown.

use super::measure::{Runs, Sample, spread};
use super::work::{Kind, Work};
use std::fmt::Write as _;

/// A table of columns that line up.
pub fn markdown(title: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(String::as_str);
        cells.chain(head.get(i).copied()).map(str::len).max().unwrap_or(0)
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::from("|");
        for (i, cell) in cells.enumerate() {
            // Words to the left, numbers to the right.
            let _ =
                if i == 0 { write!(line, " {cell:<0$} |", width(i)) } else { write!(line, " {cell:>0$} |", width(i)) };
        }
        line
    };
    let mut out = format!("### {title}\n\n{}\n|", line(&mut head.iter().copied()));
    for i in 0..head.len() {
        let _ = write!(out, "{}{}|", "-".repeat(width(i) + 1), if i == 0 { "-" } else { ":" });
    }
    out.push('\n');
    for row in rows {
        let _ = writeln!(out, "{}", line(&mut row.iter().map(String::as_str)));
    }
    out
}

/// 1234567 as "1 235k", the way people compare rates.
fn rate(n: f64) -> String {
    format!("{:.0}k", n / 1000.0)
}

fn micros(ns: f64) -> String {
    format!("{:.2}", ns / 1000.0)
}

fn values(samples: &[Sample], f: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
    samples.iter().filter_map(f).collect()
}

fn show(values: Vec<f64>, unit: fn(f64) -> String) -> String {
    spread(values).map_or("-".into(), |[mid, low, high]| format!("{} ({}..{})", unit(mid), unit(low), unit(high)))
}

fn middle(values: Vec<f64>, unit: fn(f64) -> String) -> String {
    spread(values).map_or("-".into(), |[mid, ..]| unit(mid))
}

/// Round by round, so that a slow round is slow on both sides.
pub fn ratios(runs: &Runs, base: &Runs, f: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
    runs.timed.iter().zip(&base.timed).filter_map(|(a, b)| Some(f(a)? / f(b)?)).collect()
}

fn against(runs: &Runs, base: &Runs, f: impl Fn(&Sample) -> Option<f64>) -> String {
    middle(ratios(runs, base, f), |x| format!("{x:.2}"))
}

pub fn per_second(s: &Sample) -> Option<f64> {
    Some(1e9 / s.each("wall")?)
}

/// The table of one piece of work.
pub fn of(work: &Work, all: &[Runs]) -> String {
    let title = format!("{} ({})", work.title, work.name);
    let unit = work.unit;
    let cpu = |s: &Sample| s.each("cpu");
    let calls = |runs: &Runs| {
        let calls = runs.counted.each("calls").map_or("-".into(), |n| format!("{n:.2}"));
        let copies = runs.counted.each("copies").filter(|n| *n >= 0.005).map(|n| format!(" ({n:.2} COPY)"));
        let told = runs.counted.of("told").filter(|n| *n > 0.0).map(|n| format!(" ({n} ENOBUFS)"));
        // Where the work permits it: in all timed runs together, of all that was sent.
        let sum = |name: &str| runs.timed.iter().filter_map(|s| s.of(name)).sum::<f64>();
        let lost = sum("lost") / (sum("lost") + sum("messages"));
        let lost = runs.timed.iter().any(|s| s.of("lost").is_some()).then(|| format!(" ({:.1} % lost)", lost * 100.0));
        [Some(calls), copies, told, lost].into_iter().flatten().collect::<String>()
    };
    let Some(base) = all.iter().find(|runs| runs.way.label == work.against) else {
        return String::new();
    };
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|runs| {
            let t = &runs.timed;
            let mut row = vec![runs.way.label.to_string()];
            match work.kind {
                Kind::Rate => row.extend([
                    show(values(t, per_second), rate),
                    show(values(t, cpu), |n| format!("{n:.0}")),
                    calls(runs),
                    against(runs, base, per_second),
                    against(runs, base, cpu),
                ]),
                Kind::Latency => row.extend([
                    show(values(t, |s| s.of("p50")), micros),
                    show(values(t, |s| s.of("p99")), micros),
                    show(values(t, cpu), |n| format!("{n:.0}")),
                    calls(runs),
                    against(runs, base, |s| s.of("p50")),
                    against(runs, base, |s| s.of("p99")),
                    against(runs, base, cpu),
                ]),
            }
            row
        })
        .collect();
    let cpu = format!("CPU ns/{unit}");
    let calls = format!("system calls/{unit}");
    let versus = |what: &str| format!("{what} : {}", work.against);
    match work.kind {
        Kind::Rate => {
            let (per_second, rates, cpus) = (format!("{unit}s/s"), versus("rate"), "CPU : same");
            markdown(&title, &["way", &per_second, &cpu, &calls, &rates, cpus], &rows)
        }
        Kind::Latency => {
            let p50 = versus("p50");
            markdown(&title, &["way", "p50 us", "p99 us", &cpu, &calls, &p50, "p99 : same", "CPU : same"], &rows)
        }
    }
}

#[test]
fn columns_line_up() {
    let rows = [vec!["recv".to_string(), "1".to_string()], vec!["a".to_string(), "1000".to_string()]];
    assert_eq!(
        markdown("t", &["way", "n"], &rows),
        "### t\n\n| way  |    n |\n|------|-----:|\n| recv |    1 |\n| a    | 1000 |\n"
    );
}
