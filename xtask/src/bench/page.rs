//! The tables in `docs/performance.md`, between two marks; what is written around them stays.

use super::measure::Bench;
use super::said;
use crate::cargo;
use std::fs;

const BEGIN: &str = "<!-- measured: written by cargo xtask bench --write -->\n";
const END: &str = "<!-- end of what was measured -->\n";

/// Replaces what lies between the marks.
fn replace(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{text}{END}{after}"))
}

/// The machine in a few words.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let cpus = info.lines().filter(|line| line.starts_with("processor")).count();
    let kind = if field("flags").is_some_and(|f| f.split(' ').any(|f| f == "hypervisor")) {
        "virtual machine"
    } else {
        "machine"
    };
    format!("{kind} with {cpus} CPUs ({})", field("model name").unwrap_or_else(|| "unknown".into()))
}

/// What else the machine did: the load average of the last minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_string()
}

/// Writes the tables, what they were measured on, and the plot beside the page.
pub fn write(tables: &[String], plot: &str, load: &str, bench: &Bench) -> Result<(), String> {
    let path = cargo::root().join("docs/performance.md");
    let fault = |e: std::io::Error| format!("{}: {e}", path.display());
    let page = fs::read_to_string(&path).map_err(fault)?;
    let kernel = said("uname", &["-r"])?;
    let kernel = kernel.split('-').next().unwrap_or_default();
    let quick = if bench.quick { " --quick" } else { "" };
    let rounds = if bench.rounds == 5 { String::new() } else { format!(" --rounds {}", bench.rounds) };
    let head = format!(
        "\n![rate and CPU of every ring client beside what it is compared with](performance.svg)\n\n- date: {}\n- kernel: {kernel}\n- machine: {}\n- load average at the start: {load}\n- command: `cargo xtask bench{quick}{rounds} --write`\n\n",
        said("date", &["-u", "+%Y-%m-%d"])?,
        machine(),
    );
    let text = format!("{head}{}\n", tables.join("\n"));
    let page = replace(&page, &text).ok_or_else(|| format!("{} has lost its marks: {BEGIN}", path.display()))?;
    fs::write(&path, page).map_err(fault)?;
    let path = path.with_extension("svg");
    fs::write(&path, plot).map_err(|e| format!("{}: {e}", path.display()))
}

#[test]
fn only_the_measured_part_is_replaced() {
    let page = format!("a\n{BEGIN}old\n{END}b\n");
    assert_eq!(replace(&page, "new\n"), Some(format!("a\n{BEGIN}new\n{END}b\n")));
    assert_eq!(replace("a\n", "new\n"), None);
}
