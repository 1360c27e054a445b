//! The walk-through of docs/device.md: its programs run as they stand there, its numbers are the header's.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::daemon::{Place, output, passes};
use crate::library::library;
use crate::support::repository;

fn document() -> String {
    fs::read_to_string(repository().join("docs/device.md")).expect("docs/device.md")
}

/// The program in the one block of this language.
fn program(language: &str) -> String {
    let text = document();
    let (_, rest) = text.split_once(&format!("```{language}\n")).expect("a block");
    rest.split_once("```\n").expect("its end").0.to_owned()
}

/// The links of this network namespace, as `links` of the document prints them.
fn links() -> BTreeSet<String> {
    let interfaces = fs::read_dir("/sys/class/net").expect("sysfs").flatten();
    let indices = interfaces.filter_map(|one| fs::read_to_string(one.path().join("ifindex")).ok());
    indices.map(|index| format!("link {}", index.trim())).collect()
}

#[test]
fn the_c_program_prints_the_links() {
    let place = Place::new();
    let daemon = place.start();
    let (source, links_c) = (place.path("links.c"), place.path("links"));
    fs::write(&source, program("c")).expect("written");
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Wextra", "-Werror", "-I"]).arg(repository().join("include")).arg(&source);
    compiler.arg(library().join("libnlmmap.a")).args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&links_c);
    assert!(compiler.status().expect("a C compiler (apt install gcc libc6-dev)").success());
    let out = passes(Command::new(&links_c).arg(place.node()), &daemon);
    assert_eq!(out.lines().map(str::to_owned).collect::<BTreeSet<_>>(), links());
    daemon.stop();
}

#[test]
fn the_python_program_prints_the_links_by_both_ways() {
    let place = Place::new();
    let daemon = place.start();
    let script = place.path("links.py");
    fs::write(&script, program("python")).expect("written");
    let out = passes(Command::new("python3").arg(&script).arg(place.node()), &daemon);
    assert_eq!(out.lines().map(str::to_owned).collect::<BTreeSet<_>>(), links());
    let ways = if crate::daemon::uses_cuse() { 1 } else { 2 };
    assert_eq!(out.lines().count(), ways * links().len(), "{out}");
    daemon.stop();
}

/// The rows of the table of ioctls: call and number.
fn rows() -> BTreeSet<(String, String)> {
    let text = document();
    let rows = text.lines().filter(|line| line.starts_with("| `NLMMAP_"));
    let rows = rows.map(|line| line.split('|').map(str::trim).skip(1).take(2).collect::<Vec<_>>());
    rows.map(|row| (row[0].trim_matches('`').to_owned(), row[1].to_owned())).collect()
}

/// The calls of the header: every macro that is an ioctl's number.
fn calls() -> BTreeSet<String> {
    let header = fs::read_to_string(repository().join("include/nlmmap.h")).expect("the header").replace("\\\n", " ");
    let macros = header.lines().filter_map(|line| line.strip_prefix("#define ")?.split_once([' ', '(']));
    let numbers = macros.filter(|(_, rest)| rest.contains("_IO") && rest.contains("NLMMAP_MAGIC"));
    numbers.map(|(name, rest)| if rest.starts_with("bytes") { format!("{name}(n)") } else { name.into() }).collect()
}

#[test]
fn the_numbers_of_the_table_are_the_headers() {
    let place = Place::new();
    let calls = calls();
    assert!(calls.len() > 20, "{calls:?}");
    let mut source = String::from("#include <nlmmap.h>\n#include <stdio.h>\nint main(void)\n{\n");
    for call in &calls {
        let (expression, more) = match call.strip_suffix("(n)") {
            Some(name) => (format!("{name}(0)"), " + n"),
            None => (call.clone(), ""),
        };
        source += &format!("\tprintf(\"{call} 0x%08lX{more}\\n\", (unsigned long)({expression}));\n");
    }
    source += "\treturn 0;\n}\n";
    let (file, program) = (place.path("numbers.c"), place.path("numbers"));
    fs::write(&file, source).expect("written");
    let mut compiler = Command::new("cc");
    compiler.arg("-I").arg(repository().join("include")).arg(&file).arg("-o").arg(&program);
    assert!(compiler.status().expect("a C compiler").success());
    let printed = String::from_utf8(output(&mut Command::new(&program)).stdout).expect("text");
    let right = printed.lines().filter_map(|line| line.split_once(' '));
    let right: BTreeSet<_> = right.map(|(call, number)| (call.to_owned(), number.to_owned())).collect();
    assert_eq!(rows(), right);
}
