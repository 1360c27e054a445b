//! What the rules of the code promise, read from the tree: `unsafe` only where `docs/unsafe.md` says, the lints on in every crate
//! that must have them; and that `docs/testing.md` names tests that exist.

mod support;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use support::repository;

/// Denied outside tests in what runs inside other programs or for them.
const NEVER: [&str; 4] = ["unwrap_used", "expect_used", "panic", "indexing_slicing"];

/// The roots of what must not panic: engine, preload, codec, C library, library, command and daemon.
const STRICT: [&str; 6] = [
    "crates/ring/src/lib.rs",
    "crates/preload/src/lib.rs",
    "crates/cuse-rs/src/lib.rs",
    "crates/c/src/lib.rs",
    "src/lib.rs",
    "src/main.rs",
];

/// What reads what others say: no `unsafe` at all, whatever the list has.
const NONE: [&str; 5] = [
    "crates/cuse-rs/src/protocol/",
    "src/policy/",
    "crates/ring/src/message.rs",
    "crates/ring/src/geometry.rs",
    "crates/ring/src/ring.rs",
];

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every Rust file of the repository that is no test, by its path from the root.
fn sources() -> BTreeSet<String> {
    fn walk(at: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(at).expect("a directory can be read").map(|entry| entry.expect("and its entries")) {
            let (path, name) = (entry.path(), entry.file_name().into_string().expect("a name in UTF-8"));
            if entry.file_type().expect("its type").is_dir() {
                if !matches!(name.as_str(), "target" | "tests" | "fuzz") && !name.starts_with('.') {
                    walk(&path, found);
                }
            } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" {
                let path = path.strip_prefix(repository()).expect("below the root");
                found.insert(path.to_str().expect("a path in UTF-8").to_string());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&repository(), &mut found);
    found
}

fn tokens(path: &str, text: &str) -> TokenStream {
    syn::parse_file(text).unwrap_or_else(|e| panic!("{path}: {e}")).into_token_stream()
}

/// Whether the word stands anywhere in the code, macros and attributes included. Comments and strings are none.
fn says_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "unsafe",
        TokenTree::Group(group) => says_unsafe(group.stream()),
        _ => false,
    })
}

/// The files that the page names: `dir`: `file`, `file`.
fn named(page: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(item) = line.strip_prefix("- `") else { continue };
        let mut item = item.to_string();
        while let Some(more) = lines.next_if(|line| line.starts_with("  ")) {
            item.push_str(more);
        }
        let mut words = item.split('`').step_by(2).map(str::to_string);
        let dir = words.next().expect("a directory");
        all.extend(words.filter(|word| !word.is_empty()).map(|file| format!("{dir}/{file}")));
    }
    all
}

#[test]
fn unsafe_stands_where_the_page_says() {
    let page = read("docs/unsafe.md");
    let list = named(&page);
    let names: BTreeSet<String> = list.iter().cloned().collect();
    assert_eq!(names.len(), list.len(), "docs/unsafe.md names a file twice");
    let sources = sources();
    assert!(sources.len() > 200, "only {} sources were found", sources.len());
    let having: BTreeSet<String> = sources.into_iter().filter(|path| says_unsafe(tokens(path, &read(path)))).collect();
    let new: Vec<_> = having.difference(&names).collect();
    assert!(new.is_empty(), "`unsafe` in files that docs/unsafe.md does not name: {new:#?}");
    let gone: Vec<_> = names.difference(&having).collect();
    assert!(gone.is_empty(), "docs/unsafe.md names files without `unsafe`: {gone:#?}");
    let parsers: Vec<_> = having.iter().filter(|path| NONE.iter().any(|none| path.starts_with(none))).collect();
    assert!(parsers.is_empty(), "`unsafe` where others' bytes are read: {parsers:#?}");
    for none in NONE {
        assert!(repository().join(none).exists(), "{none} has moved");
    }
}

#[test]
fn unsafe_is_seen_in_macros_and_attributes_and_not_in_words() {
    let says = |text: &str| says_unsafe(tokens("a text", text));
    assert!(says("fn f() { g!(h, { unsafe { i() } }) }"));
    assert!(says("#[unsafe(no_mangle)] fn f() {}"));
    assert!(says("unsafe impl Send for A {}"));
    assert!(!says("//! unsafe\n/* unsafe */ #![deny(unsafe_op_in_unsafe_fn)] fn f() -> &'static str { \"unsafe\" }"));
    assert_eq!(named("x\n- `a/b`: `c.rs`,\n  `d/e.rs`\n- `f`: `g.rs`\n"), ["a/b/c.rs", "a/b/d/e.rs", "f/g.rs"]);
}

/// The words of an inner attribute of that name, those inside `cfg_attr(CONDITION, ...)` too, with the condition ("" for none).
fn inner_attributes(file: &syn::File, name: &str) -> Vec<(String, String)> {
    let words = |tokens: &TokenStream| tokens.to_string().replace(' ', "");
    let mut found = Vec::new();
    for attribute in &file.attrs {
        let syn::Meta::List(list) = &attribute.meta else { continue };
        if list.path.is_ident(name) {
            found.push((String::new(), words(&list.tokens)));
        } else if list.path.is_ident("cfg_attr") {
            let text = words(&list.tokens);
            if let Some((condition, rest)) = text.split_once(&format!(",{name}(")) {
                found.push((condition.to_string(), rest.trim_end_matches(')').to_string()));
            }
        }
    }
    found
}

#[test]
fn the_lints_are_on_where_they_must_be() {
    let workspace = read("Cargo.toml");
    for (section, lint) in
        [("rust", "unsafe_op_in_unsafe_fn = \"deny\""), ("clippy", "undocumented_unsafe_blocks = \"deny\"")]
    {
        let section =
            workspace.split(&format!("[workspace.lints.{section}]")).nth(1).and_then(|s| s.split("\n[").next());
        assert!(section.is_some_and(|s| s.contains(lint)), "Cargo.toml: no {lint} for the workspace");
    }
    let members = workspace.split("members = [").nth(1).and_then(|s| s.split(']').next()).expect("the members");
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= 6, "{members:?}");
    for member in members {
        let manifest = read(&format!("{member}/Cargo.toml"));
        assert!(manifest.contains("\n[lints]\nworkspace = true\n"), "{member} does not take the workspace's lints");
    }
    for root in STRICT {
        let file = syn::parse_file(&read(root)).expect(root);
        let denied = inner_attributes(&file, "deny");
        for lint in NEVER {
            let lint = format!("clippy::{lint}");
            let on = |(condition, lints): &(String, String)| {
                matches!(condition.as_str(), "" | "not(test)") && lints.split(',').any(|word| word == lint)
            };
            assert!(denied.iter().any(on), "{root} does not deny {lint}");
        }
        for (condition, lints) in inner_attributes(&file, "allow") {
            let weak = NEVER.iter().any(|lint| lints.contains(lint));
            assert!(!weak || condition == "test", "{root} allows {lints} where {condition:?}");
        }
    }
}

/// Attributes below `#[cfg(test)]` or `#[test]` are the tests' own business.
fn allowances(tokens: TokenStream, found: &mut Vec<String>) {
    let mut tokens = tokens.into_iter().peekable();
    let mut in_test = false;
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Punct(sign) if sign.as_char() == '#' => {
                if let Some(TokenTree::Punct(_)) = tokens.peek() {
                    // An inner attribute: of roots, seen to above.
                    tokens.next();
                    tokens.next();
                    continue;
                }
                let Some(TokenTree::Group(attribute)) = tokens.next() else { continue };
                let text = attribute.stream().to_string().replace(' ', "");
                in_test |= text == "cfg(test)" || text == "test" || text.starts_with("cfg(all(test,");
                let gives = text.starts_with("allow(") || text.starts_with("expect(");
                if !in_test && gives && NEVER.iter().any(|lint| text.contains(&format!("clippy::{lint}"))) {
                    found.push(text);
                }
            }
            TokenTree::Group(group) => {
                if !in_test {
                    allowances(group.stream(), found);
                }
                // What an attribute is about ends with its body.
                in_test &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Punct(sign) if sign.as_char() == ';' => in_test = false,
            _ => {}
        }
    }
}

#[test]
fn no_code_is_let_off_the_lints() {
    let strict = |path: &String| STRICT.iter().any(|root| path.starts_with(root.rsplit_once('/').map_or("", |r| r.0)));
    let mut let_off = Vec::new();
    for path in sources().into_iter().filter(strict) {
        let mut found = Vec::new();
        allowances(tokens(&path, &read(&path)), &mut found);
        let_off.extend(found.into_iter().map(|what| format!("{path}: {what}")));
    }
    assert!(let_off.is_empty(), "{let_off:#?}");
    let mut found = Vec::new();
    allowances(
        tokens("a text", "#[cfg(test)] mod t { #[allow(clippy::panic)] fn f() {} } #[allow(clippy::panic)] fn f() {}"),
        &mut found,
    );
    assert_eq!(found, ["allow(clippy::panic)"]);
}

/// The test functions of the repository, and where they are.
fn tests() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut dirs = vec![repository()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory can be read").map(|entry| entry.expect("and its entries")) {
            let name = entry.file_name().into_string().expect("a name in UTF-8");
            if entry.file_type().expect("its type").is_dir() {
                if name != "target" && !name.starts_with('.') {
                    dirs.push(entry.path());
                }
            } else if name.ends_with(".rs") {
                files.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source can be read");
        let path = file.strip_prefix(repository()).expect("below the root").display().to_string();
        for rest in text.split("#[test]").skip(1) {
            let name = rest.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap_or("");
            found.push((name.to_string(), path.clone()));
        }
    }
    found
}

/// Whether what a page names is there; why not.
fn is_there(reference: &str, tests: &[(String, String)]) -> Result<(), String> {
    let file = |path: &str| if repository().join(path).is_file() { Ok(()) } else { Err(format!("no file {path}")) };
    if let Some(target) = reference.strip_prefix("fuzz::") {
        let manifests = ["fuzz/Cargo.toml", "fuzz/preload/Cargo.toml", "fuzz/system/Cargo.toml"];
        let bin = format!("[[bin]]\nname = \"{target}\"\n");
        let is = manifests.iter().any(|path| read(path).contains(&bin));
        return if is { Ok(()) } else { Err(format!("no fuzz target {target}")) };
    }
    if let Some(model) = reference.strip_prefix("loom::") {
        let path = format!("crates/ring/tests/loom/{model}.rs");
        return has_tests(&path, tests);
    }
    if let Some(command) = reference.strip_prefix("cargo xtask ") {
        let is = read("xtask/src/main.rs").contains(&format!("name: \"{command}\",\n"));
        return if is { Ok(()) } else { Err(format!("no command {command}")) };
    }
    if reference.ends_with(".rs") {
        return has_tests(reference, tests);
    }
    if reference.contains('/') {
        return file(reference);
    }
    if reference.starts_with("NLMMAP_") {
        let name = reference.split('=').next().unwrap_or(reference);
        return if read("tests/faults.rs").contains(name) { Ok(()) } else { Err(format!("no variable {name}")) };
    }
    let is = tests.iter().any(|(name, _)| name == reference);
    if is { Ok(()) } else { Err(format!("no test {reference}")) }
}

/// A file that has tests, in itself or in what it consists of.
fn has_tests(path: &str, tests: &[(String, String)]) -> Result<(), String> {
    if !repository().join(path).is_file() {
        return Err(format!("no file {path}"));
    }
    let dir = path.trim_end_matches(".rs").trim_end_matches("/main").to_string() + "/";
    let is = tests.iter().any(|(_, at)| at == path || at.starts_with(&dir));
    if is { Ok(()) } else { Err(format!("{path} has no test")) }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let page = read("docs/testing.md");
    let section = page.split("## What holds which promise").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows: Vec<&str> = section.expect("the section").lines().filter(|l| l.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 20, "only {} promises", rows.len());
    let tests = tests();
    let mut wrong = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [promise, held] = cells[..] else {
            wrong.push(format!("not two cells: {row}"));
            continue;
        };
        let references: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        if references.is_empty() && !held.contains("(security.md)") {
            wrong.push(format!("{promise}: no test"));
        }
        wrong
            .extend(references.iter().filter_map(|r| is_there(r, &tests).err()).map(|why| format!("{promise}: {why}")));
    }
    // Every target and every model is in the table: what nobody names, nobody misses.
    let named = |name: &str| section.is_some_and(|text| text.contains(&format!("`{name}`")));
    for path in ["fuzz/Cargo.toml", "fuzz/preload/Cargo.toml", "fuzz/system/Cargo.toml"] {
        for bin in read(path).split("[[bin]]\nname = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            if !named(&format!("fuzz::{bin}")) {
                wrong.push(format!("the fuzz target {bin} holds no promise"));
            }
        }
    }
    for (_, at) in &tests {
        let model = at.strip_prefix("crates/ring/tests/loom/").and_then(|name| name.strip_suffix(".rs"));
        if model.is_some_and(|model| !named(&format!("loom::{model}"))) {
            wrong.push(format!("{at} holds no promise"));
        }
    }
    assert!(wrong.is_empty(), "docs/testing.md: {wrong:#?}");
    for nothing in ["fuzz::nothing", "loom::sys", "cargo xtask nothing", "src/nothing.rs", "docs/nothing.md", "no_test"]
    {
        assert!(is_there(nothing, &tests).is_err(), "{nothing}");
    }
}
