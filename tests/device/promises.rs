//! `docs/security.md`, `docs/testing.md`: every sentence of their tables of promises names tests that hold it, and they exist.

use std::fs;

use crate::support::repository;

/// What a table says of a test, between backquotes.
fn exists(reference: &str, after: Option<&str>) -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(repository().join(path)).map_err(|error| format!("{path}: {error}"));
    if let Some((module, name)) = reference.split_once("::") {
        let path = format!("tests/device/{module}.rs");
        let text = read(&path)?;
        let tests = text.split("#[test]").skip(1).filter_map(|rest| rest.split("fn ").nth(1)?.split('(').next());
        let found = match name.strip_suffix('*') {
            Some(beginning) => tests.into_iter().any(|test| test.starts_with(beginning)),
            None => tests.into_iter().any(|test| test == name),
        };
        return if found { Ok(()) } else { Err(format!("{path} has no test {name}")) };
    }
    match reference {
        _ if reference.starts_with("src/") => {
            let tested = read(reference)?.contains("#[test]");
            if tested { Ok(()) } else { Err(format!("{reference} has no unit test")) }
        }
        _ if reference.ends_with(".c") => read(&format!("tests/clients/{reference}")).map(drop),
        "cargo xtask attack" => {
            read("xtask/src/main.rs")?.contains("attack").then_some(()).ok_or("no such command".into())
        }
        // A part of the client that was named before it.
        _ => {
            let client = after.ok_or(format!("{reference} is no reference"))?;
            let text = read(&format!("tests/clients/{client}"))?;
            let there = text.contains(&format!("static void {reference}("));
            if there { Ok(()) } else { Err(format!("{client} has no part {reference}")) }
        }
    }
}

/// The rows of the tables under a heading, but for their own headings: cells.
fn rows<'t>(text: &'t str, heading: &str) -> Vec<Vec<&'t str>> {
    let section = text.split(heading).nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn every_sentence_is_held_by_tests_that_exist() {
    let mut wrong = Vec::new();
    for (page, heading) in [
        ("docs/security.md", "## Who can do what"),
        ("docs/security.md", "## Attacks that are tests"),
        ("docs/testing.md", "## What is asked of the daemon"),
    ] {
        let text = fs::read_to_string(repository().join(page)).expect("the page");
        let rows = rows(&text, heading);
        assert!(rows.len() > 10, "{heading}: {} rows", rows.len());
        for row in rows {
            let [_, what, tests] = row[..] else {
                wrong.push(format!("{heading}: not three cells: {row:?}"));
                continue;
            };
            let (mut client, mut held) = (None, tests.starts_with("by construction"));
            for reference in tests.split('`').skip(1).step_by(2) {
                held = true;
                if let Err(why) = exists(reference, client) {
                    wrong.push(format!("{what}: {why}"));
                }
                client = if reference.ends_with(".c") { Some(reference) } else { client };
            }
            if !held {
                wrong.push(format!("{what}: no test"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn references_to_nothing_are_found() {
    for reference in ["attacks::no_such_test", "attacks::no_such_*", "nowhere::*", "src/main.rs", "nothing.c", "words"]
    {
        assert!(exists(reference, None).is_err(), "{reference}");
    }
    assert!(exists("no_part", Some("device_place.c")).is_err());
    assert_eq!(exists("attacks::holes_in_rings_hurt_nobody", None), Ok(()));
    assert_eq!(exists("tables", Some("device_place.c")), Ok(()));
}
