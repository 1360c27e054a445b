//! `cargo xtask bench`: the ring client beside plain socket loops, in the same run, on the same work, in alternation.
//!
//! The clients are C programs (`benches/clients/`); each run of one prints what it measured. Nothing here judges: the tables
//! say what was measured, one of them whether it is what was wanted, and an exit status other than 0 says that something did
//! not run.

mod device;
mod goals;
mod measure;
mod micro;
mod page;
mod plot;
mod table;
mod work;

use crate::command::{Fault, Words, unknown};
use crate::{cargo, tools};
use measure::Bench;
use std::path::PathBuf;
use std::process::Command;

pub const HELP: &str = "  --quick     a tenth of the work: shows that all of it runs, and little more
  --rounds N  runs of each way, in alternation (default: 5)
  --write     put the tables into docs/performance.md, and their plot into docs/performance.svg
  NAME        only work whose name contains one of these

It needs root, for receive buffers and network namespaces. NLMMAP_PRELOAD names the library to measure; otherwise a release
build is made.";

/// Runs `cargo xtask bench ARGS`.
pub fn main(words: &[String]) -> Result<bool, Fault> {
    let (mut quick, mut write, mut rounds, mut names) = (false, false, 5, Vec::new());
    let mut words = Words::of(words);
    while let Some(word) = words.next() {
        match word {
            "--quick" => quick = true,
            "--write" => write = true,
            "--rounds" => rounds = words.number(word, 1..=1000)?,
            option if option.starts_with('-') => return Err(unknown(option)),
            name => names.push(name.to_string()),
        }
    }
    if write && !names.is_empty() {
        return Err(Fault::wrong("--write replaces all tables: leave the names out"));
    }
    let known: Vec<&str> =
        work::ALL.iter().map(|work| work.name).chain(micro::ALL.iter().map(|(name, _)| *name)).collect();
    if !names.is_empty() && !known.iter().any(|known| names.iter().any(|name| known.contains(name.as_str()))) {
        return Err(Fault::wrong(format!(
            "nothing is named like {}; there are {}",
            names.join(" or "),
            known.join(", ")
        )));
    }
    if said("id", &["-u"])? != "0" {
        return Err("bench needs root, for receive buffers and network namespaces: run it by sudo".into());
    }
    tools::need(&["gcc", "ip", "iptables-legacy", "valgrind"])?;
    let daemon = device::Daemon::start(&folder()?)?;
    let bench = Bench { clients: compile()?, library: library()?, node: daemon.node(), quick, rounds };
    let load = page::load();
    let (tables, rows) = measured(&bench, &names)?;
    if write {
        page::write(&tables, &plot::svg(&rows), &load, &bench)?;
    }
    Ok(true)
}

/// Measures what is named, all of it if nothing is, and prints each table as soon as it is there.
fn measured(bench: &Bench, names: &[String]) -> Result<(Vec<String>, Vec<plot::Row>), String> {
    let wanted = |name: &str| names.is_empty() || names.iter().any(|n| name.contains(n.as_str()));
    let (mut tables, mut rows, mut done) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |table: String| {
        println!("{table}");
        tables.push(table);
    };
    for work in work::ALL.iter().filter(|w| wanted(w.name)) {
        let all = measure::rounds(bench, work)?;
        add(table::of(work, &all));
        rows.extend(plot::rows(work, &all));
        done.push((work, all));
    }
    for (_, run) in micro::ALL.iter().filter(|(name, _)| wanted(name)) {
        add(run(bench)?);
    }
    if let Some(goals) = goals::of(&done) {
        println!("{goals}");
        tables.insert(0, goals);
    }
    Ok((tables, rows))
}

/// What a program prints, without the end of its line.
fn said(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// A copy of the library, so that nobody who builds meanwhile changes what is measured.
fn library() -> Result<PathBuf, String> {
    let built = match std::env::var_os("NLMMAP_PRELOAD") {
        Some(path) => PathBuf::from(path),
        None => {
            if !cargo::run(&["build", "--quiet", "--release", "--package", "nlmmap-preload"])? {
                return Err("the preload library does not build".into());
            }
            cargo::target_dir()?.join("release/libnlmmap_preload.so")
        }
    };
    let copy = folder()?.join("libnlmmap_preload.so");
    // A new file: processes may still have the old one mapped.
    let _ = std::fs::remove_file(&copy);
    std::fs::copy(&built, &copy).map_err(|e| format!("{}: {e}", built.display()))?;
    Ok(copy)
}

/// Where the compiled clients go.
fn folder() -> Result<PathBuf, String> {
    let folder = cargo::target_dir()?.join("bench");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}

/// Compiles every client.
fn compile() -> Result<PathBuf, String> {
    let (folder, sources) = (folder()?, cargo::root().join("benches/clients"));
    let fault = |e: std::io::Error| format!("{}: {e}", sources.display());
    for entry in std::fs::read_dir(&sources).map_err(fault)? {
        let source = entry.map_err(fault)?.path();
        if source.extension().is_some_and(|e| e == "c")
            && let Some(name) = source.file_stem()
        {
            let mut gcc = Command::new("gcc");
            gcc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(folder.join(name)).arg(&source).arg("-ldl");
            let status = gcc.status().map_err(|e| format!("gcc: {e}"))?;
            if !status.success() {
                return Err(format!("{} does not compile", source.display()));
            }
        }
    }
    Ok(folder)
}

#[test]
#[ignore = "half a minute, as root; cargo xtask test runs it by: cargo test --package xtask -- --ignored"]
fn quick_prints_every_row() {
    let daemon = device::Daemon::start(&folder().unwrap()).unwrap();
    let (clients, library) = (compile().unwrap(), library().unwrap());
    let bench = Bench { clients, library, node: daemon.node(), quick: true, rounds: 1 };
    let (tables, rows) = measured(&bench, &[]).unwrap();
    assert!(rows.len() > 20, "the plot has {} rows", rows.len());
    assert_eq!(tables.len(), 1 + work::ALL.len() + micro::ALL.len());
    assert!(tables[0].starts_with("### The goals"));
    for (work, table) in work::ALL.iter().zip(&tables[1..]) {
        for way in work.ways {
            let row = table.lines().find(|line| line.starts_with(&format!("| {} ", way.label)));
            let row = row.unwrap_or_else(|| panic!("{}: no row for {}", work.name, way.label));
            // All but the system calls, which not every machine lets us count.
            let cells: Vec<&str> = row.split('|').skip(2).filter(|cell| !cell.is_empty()).collect();
            assert!(
                cells.iter().filter(|cell| cell.contains(|c: char| c.is_ascii_digit())).count() >= cells.len() - 1,
                "{row}"
            );
        }
    }
    assert!(tables.iter().all(|table| !table.contains("NaN") && !table.contains("inf")));
}
