//! differences.txt: every line on which the library answers otherwise than 3.10.108 and 4.5.0 did, and why.
//!
//! One a line, separated by tabs: mode, line id, reason (a key of docs/compat.md), kernels on which it is so (`any`,
//! `>=A.B`, `<A.B`, joined by `&`), the answer seen (`*` stands for any text). A mode that begins with `~` marks a line
//! that may be equal or not: its answer depends on timing.

use crate::kernel::Kernel;
use crate::lines::Lines;
use std::collections::BTreeMap;
use std::fmt;

/// What a line without a reason gets; no heading of docs/compat.md has this name.
const NO_REASON: &str = "unexplained";

const HEAD: &str =
    "# Lines of golden-common.txt on which the library answers otherwise, and why: docs/compat.md explains each reason.
# mode, line, reason, kernels, answer; separated by tabs. Rewritten by `cargo xtask conformance --update`, which keeps
# reasons and conditions and gives new lines the reason \"unexplained\". `~mode`: may be equal or not. `*`: any text.
";

/// One listed line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// `strict` or `default`.
    pub mode: String,
    /// May be equal as well.
    pub sometimes: bool,
    /// The line's id.
    pub id: String,
    /// The key of its explanation.
    pub reason: String,
    /// The kernels on which it differs.
    pub kernels: String,
    /// The answer, `*` for any text.
    pub seen: String,
}

impl Difference {
    fn applies(&self, mode: &str, kernel: &Kernel) -> bool {
        self.mode == mode && kernel.meets(&self.kernels)
    }
}

/// The whole list.
#[derive(Debug, Default)]
pub struct List(Vec<Difference>);

type Unequal = BTreeMap<String, (String, String)>;

impl List {
    /// Reads the file.
    pub fn parse(text: &str) -> List {
        let entries = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(|line| {
            let [mode, id, reason, kernels, seen] = line.splitn(5, '\t').collect::<Vec<_>>()[..] else {
                panic!("differences.txt: five fields separated by tabs, not: {line}");
            };
            Difference {
                mode: mode.trim_start_matches('~').to_string(),
                sometimes: mode.starts_with('~'),
                id: id.to_string(),
                reason: reason.to_string(),
                kernels: kernels.to_string(),
                seen: seen.to_string(),
            }
        });
        List(entries.collect())
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &Difference> {
        self.0.iter()
    }

    fn find<'a>(&'a self, mode: &'a str, kernel: &'a Kernel, id: &'a str) -> impl Iterator<Item = &'a Difference> {
        self.0.iter().filter(move |d| d.id == id && d.applies(mode, kernel))
    }

    /// Differences that are not listed, or listed with another answer.
    pub fn unlisted(&self, mode: &str, kernel: &Kernel, unequal: &Unequal) -> Vec<String> {
        let unknown =
            unequal.iter().filter(|(id, (_, seen))| !self.find(mode, kernel, id).any(|d| matches(&d.seen, seen)));
        unknown
            .map(|(id, (expected, seen))| format!("not listed: {mode} {id}: {seen} (the kernels: {expected})"))
            .collect()
    }

    /// Listed differences that are none any more, or whose line does not exist.
    pub fn gone(&self, mode: &str, kernel: &Kernel, golden: &Lines, unequal: &Unequal) -> Vec<String> {
        let mine = self.0.iter().filter(|d| d.mode == mode);
        mine.filter_map(|d| {
            if golden.get(&d.id).is_none() {
                // A case that this kernel cannot run says nothing about its lines.
                return kernel
                    .can_run(&d.id)
                    .then(|| format!("listed, but no line of golden-common.txt: {mode} {}", d.id));
            }
            let gone = d.applies(mode, kernel) && !d.sometimes && !unequal.contains_key(&d.id);
            gone.then(|| format!("listed, but equal now: {mode} {}", d.id))
        })
        .collect()
    }

    /// Makes the list true for one mode on this kernel, keeping what it said about others.
    pub fn update(&mut self, mode: &str, kernel: &Kernel, unequal: &Unequal) {
        self.0.retain(|d| {
            !d.applies(mode, kernel)
                || d.sometimes
                || unequal.get(&d.id).is_some_and(|(_, seen)| matches(&d.seen, seen))
        });
        for (id, (_, seen)) in unequal {
            if !self.find(mode, kernel, id).any(|d| matches(&d.seen, seen)) {
                let reason = NO_REASON.to_string();
                let (mode, id, seen) = (mode.to_string(), id.clone(), seen.clone());
                self.0.push(Difference { mode, sometimes: false, id, reason, kernels: "any".to_string(), seen });
            }
        }
        self.0.sort_by(|a, b| (&b.mode, &a.id).cmp(&(&a.mode, &b.id)));
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for d in &self.0 {
            let sometimes = if d.sometimes { "~" } else { "" };
            writeln!(f, "{sometimes}{}\t{}\t{}\t{}\t{}", d.mode, d.id, d.reason, d.kernels, d.seen)?;
        }
        Ok(())
    }
}

/// Whether the text fits the pattern, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[test]
fn patterns() {
    // The kernels' run-length strings hold a star of their own, which fits itself.
    assert!(matches("V*4 U*4", "V*4 U*4") && matches("*", "") && matches("a*c", "abbc") && matches("x", "x"));
    assert!(!matches("x", "xy") && !matches("a*c", "abcd") && !matches("a*b*c", "ac"));
}

#[test]
fn reads_what_it_writes() {
    let text = format!("{HEAD}strict\tC10.fs3792\tdump-chunks\t>=5.4\tV*4 f0 V\n~default\tE01.poll\ttiming\tany\t*\n");
    assert_eq!(List::parse(&text).to_string(), text);
}
