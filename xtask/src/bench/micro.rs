//! What the library costs those who have no ring sockets, and what a ring socket costs in memory.

use super::measure::{Bench, Sample, run, spread};
use super::table::markdown;
use std::process::Command;

/// Makes one table.
type Table = fn(&Bench) -> Result<String, String>;

/// By their names.
pub const ALL: &[(&str, Table)] = &[("hooks", hooks), ("load", load), ("memory", memory)];

fn client(bench: &Bench, name: &str, args: &[&str], preload: bool) -> Command {
    let mut command = Command::new(bench.clients.join(name));
    command.args(args).env_remove("LD_PRELOAD");
    if preload {
        command.env("LD_PRELOAD", &bench.library);
    }
    command
}

/// Calls on descriptors that are not ours.
fn hooks(bench: &Bench) -> Result<String, String> {
    let count = if bench.quick { "100000" } else { "1000000" };
    let mut rows = Vec::new();
    for (call, what) in [
        ("read", "read of /dev/zero"),
        ("close", "close of a number that is not open"),
        ("poll", "poll of a pipe"),
        ("send", "send to a closed socket"),
    ] {
        let (mut direct, mut more, mut error) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bench.rounds.max(3) {
            for preload in [false, true] {
                let sample = run(&mut client(bench, "hooks", &[call, count], preload))?;
                let both = sample.of("named").zip(sample.of("direct"));
                let (named, libc) = both.ok_or("hooks did not print what it measured")?;
                direct.push(libc);
                if preload { more.push(named - libc) } else { error.push((named - libc).abs()) }
            }
        }
        let counts = [instructions(bench, call, false)?, instructions(bench, call, true)?];
        let mut row = vec![what.to_string()];
        row.push(spread(direct).map_or("-".into(), |[middle, ..]| format!("{middle:.1}")));
        row.push(
            spread(more).map_or("-".into(), |[middle, low, high]| format!("{middle:+.1} ({low:+.1}..{high:+.1})")),
        );
        row.push(spread(error).map_or("-".into(), |[middle, ..]| format!("{middle:.1}")));
        row.push(format!("{:+.0}", counts[1] - counts[0]));
        rows.push(row);
    }
    let head = ["call", "ns", "ns more with the library", "error", "instructions more"];
    Ok(markdown("a hooked call on a descriptor that is not ours (hooks)", &head, &rows))
}

/// Instructions of a call in user space, from two runs that differ in the number of calls only.
fn instructions(bench: &Bench, call: &str, preload: bool) -> Result<f64, String> {
    const FEW: u64 = 10_000;
    let mut totals = [0.0; 2];
    for (total, count) in totals.iter_mut().zip([FEW, 3 * FEW]) {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(bench.clients.join("hooks"));
        valgrind.args([call, "0", &count.to_string()]).env_remove("LD_PRELOAD");
        if preload {
            valgrind.env("LD_PRELOAD", &bench.library);
        }
        let output = valgrind.output().map_err(|e| format!("valgrind: {e}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
        *total = collected.ok_or_else(|| format!("valgrind did not count instructions: {text}"))?;
    }
    Ok((totals[1] - totals[0]) / (2 * FEW) as f64)
}

/// Starting a program that has nothing to do with rings. In many short turns: each difference is of two that ran side by side.
fn load(bench: &Bench) -> Result<String, String> {
    let count = if bench.quick { "10" } else { "50" };
    let library = bench.library.to_string_lossy();
    let mut pairs = Vec::new();
    for _ in 0..bench.rounds * 10 {
        let one = |args: &[&str]| run(&mut client(bench, "spawn", args, false));
        pairs.push((one(&[count])?, one(&[count, &library])?));
    }
    let mut rows = Vec::new();
    for (what, name) in [("time", "wall"), ("CPU of the process", "children")] {
        let each = |sample: &Sample| sample.each(name).map_or(f64::NAN, |ns| ns / 1e6);
        let middle = |values: Vec<f64>| spread(values).map_or(f64::NAN, |[middle, ..]| middle);
        let without = middle(pairs.iter().map(|(a, _)| each(a)).collect());
        let with = middle(pairs.iter().map(|(_, b)| each(b)).collect());
        let more = middle(pairs.iter().map(|(a, b)| each(b) - each(a)).collect());
        rows.push(vec![what.to_string(), format!("{without:.3}"), format!("{with:.3}"), format!("{more:+.3}")]);
    }
    Ok(markdown("starting /bin/true (load)", &["of a process", "ms", "ms with the library", "more"], &rows))
}

/// Memory of ring sockets, less their rings.
fn memory(bench: &Bench) -> Result<String, String> {
    let mut rows = Vec::new();
    for sockets in ["1", "8", "64"] {
        let sample = run(&mut client(bench, "memory", &[sockets], true))?;
        let (beyond, rings) =
            sample.of("beyond").zip(sample.of("rings")).ok_or("memory did not print what it measured")?;
        let each = sample.of("sockets").map_or(f64::NAN, |n| beyond / n);
        rows.push(vec![sockets.to_string()]);
        if let Some(row) = rows.last_mut() {
            row.extend([rings, beyond, each].map(|bytes| format!("{:.0}", bytes / 1024.0)));
        }
    }
    let head = ["ring sockets", "KiB of rings", "KiB beyond them", "a socket"];
    Ok(markdown("memory of ring sockets without copies (memory)", &head, &rows))
}
