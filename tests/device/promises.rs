//! `docs/security.md`, `docs/testing.md`: every sentence of their tables of promises names tests that hold it, and they exist.

use std::fs;

use crate::support::repository;

/// What a table says of a test, between backquotes.
fn exists(reference: &str, after: Option<&str>) -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(repository().join(path)).map_err(|error| format!("{path}: {error}"));
    if let Some(target) = reference.strip_prefix("fuzz::") {
        let bin = format!("[[bin]]\nname = \"{target}\"\n");
        let manifests = ["fuzz/Cargo.toml", "fuzz/system/Cargo.toml"];
        let there = manifests.into_iter().any(|path| read(path).is_ok_and(|text| text.contains(&bin)));
        return if there { Ok(()) } else { Err(format!("no fuzz target {target}")) };
    }
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
        _ if reference.starts_with("src/") || reference.starts_with("tests/") => {
            let tested = read(reference)?.contains("#[test]");
            if tested { Ok(()) } else { Err(format!("{reference} has no unit test")) }
        }
        _ if reference.ends_with(".c") => read(&format!("tests/clients/{reference}")).map(drop),
        "cargo xtask attack" => {
            read("xtask/src/main.rs")?.contains("name: \"attack\",\n").then_some(()).ok_or("no such command".into())
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
            judge(what, tests, tests.starts_with("by construction"), &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether what is promised is held by tests that exist, or is `excused`.
fn judge(what: &str, tests: &str, excused: bool, wrong: &mut Vec<String>) {
    let (mut client, mut held) = (None, excused);
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

#[test]
fn every_look_at_the_sender_and_every_process_is_held() {
    let text = fs::read_to_string(repository().join("docs/security.md")).expect("the page");
    let mut wrong = Vec::new();
    let looks = rows(&text, "## Where the kernel looks at the sender");
    assert!(looks.len() > 10, "{} looks", looks.len());
    for row in looks {
        match row[..] {
            [look, _, _, tests] => judge(look, tests, tests == "limit", &mut wrong),
            _ => wrong.push(format!("not four cells: {row:?}")),
        }
    }
    let processes = text.split("## Processes").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let paragraphs: Vec<_> = processes.split("\n\n").filter(|paragraph| paragraph.trim().starts_with("**")).collect();
    assert!(paragraphs.len() >= 6, "{} paragraphs", paragraphs.len());
    for paragraph in paragraphs {
        let what = paragraph.trim().split("**").nth(1).unwrap_or(paragraph);
        let tests = paragraph.split("Held by: ").nth(1).unwrap_or("");
        // What is a word of code in the sentence beside is no reference.
        judge(what, &tests.replace("no `unsafe` there", ""), false, &mut wrong);
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
