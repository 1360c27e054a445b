//! The places in a part of the code that call the kernel, read from the program as it is built for tests.
//!
//! A place is a call instruction in a function of ours that leads to a function of the C library's, or to a `syscall` instruction, through
//! nothing but others' functions: Rust's library, crates, and those of our own that only hand a call on ([`WRAPPERS`]). So everything
//! counts that a line of ours has the kernel do, by whatever way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::names::{ENGINE, IMPORTS_LEFT_ALONE, NO_WAY, RAW, WRAPPERS};

/// A line that has the kernel do something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    pub line: u32,
    pub function: String,
}

pub struct Places {
    pub program: String,
    /// Where each call instruction comes back to.
    pub back: BTreeMap<u64, u64>,
    returns: HashSet<u64>,
    code: std::ops::Range<u64>,
    places: BTreeMap<u64, Place>,
    /// Functions of the C library that a place leads to.
    imports: BTreeMap<u64, BTreeSet<String>>,
}

enum Target {
    Function(u64),
    Import(String),
}

struct Call {
    at: u64,
    back: u64,
    target: Target,
    /// Not a mention only.
    is_call: bool,
}

struct Function {
    name: String,
    calls: Vec<Call>,
}

impl Places {
    /// `part`: what the names of its functions begin with.
    pub fn of(program: &str, part: &[&str]) -> Places {
        let functions = functions(program);
        let reached = reached(&functions);
        let ours = ours(&functions, part);
        let (mut back, mut imports, mut names) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for function in ours.iter().filter_map(|at| functions.get(at)) {
            for call in function.calls.iter().filter(|call| call.is_call) {
                let leads: BTreeSet<String> = match &call.target {
                    Target::Import(name) => [name.clone()].into(),
                    Target::Function(at) => match functions.get(at) {
                        Some(called) if is_place_of(&called.name) => continue,
                        _ => reached.get(at).cloned().unwrap_or_default(),
                    },
                };
                let leads: BTreeSet<String> =
                    leads.into_iter().filter(|name| !IMPORTS_LEFT_ALONE.contains(&name.as_str())).collect();
                if !leads.is_empty() {
                    back.insert(call.at, call.back);
                    imports.insert(call.at, leads);
                    names.insert(call.at, without_generics(&function.name));
                }
            }
        }
        let lines = lines(program, back.keys());
        assert_eq!(lines.len(), names.len(), "addr2line says nothing of some");
        let places = names
            .into_iter()
            .zip(lines)
            .map(|((at, function), (file, line))| (at, Place { file, line, function }))
            .collect();
        let returns = back.values().copied().collect();
        let code = functions.keys().next().copied().unwrap_or(0)..functions.keys().next_back().copied().unwrap_or(0);
        Places { program: program.to_string(), back, returns, code, places, imports }
    }

    /// Whether it is an address between the first and the last function.
    pub fn is_code(&self, at: u64) -> bool {
        self.code.contains(&at)
    }

    /// Whether there may be a breakpoint.
    pub fn is_place(&self, at: u64) -> bool {
        self.back.contains_key(&at) || self.returns.contains(&at)
    }

    pub fn place(&self, at: u64) -> Option<&Place> {
        self.places.get(&at)
    }

    pub fn imports(&self, at: u64) -> &BTreeSet<String> {
        const NONE: &BTreeSet<String> = &BTreeSet::new();
        self.imports.get(&at).unwrap_or(NONE)
    }

    /// All calls of a line.
    pub fn addresses(&self, place: &Place) -> Vec<u64> {
        self.places.iter().filter(|(_, there)| *there == place).map(|(at, _)| *at).collect()
    }

    /// Whether the program tells lines.
    pub fn have_lines(&self) -> bool {
        self.places.values().any(|place| place.line > 0)
    }

    pub fn all(&self) -> BTreeSet<Place> {
        self.places.values().cloned().collect()
    }
}

/// What a symbol's function belongs to: `<T as Trait>::f` to `T`, else to `Trait`.
fn belongs(name: &str, prefixes: &[&str]) -> bool {
    let plain = name.trim_start_matches(['<', '&', '*']).trim_start_matches("mut ").trim_start_matches("const ");
    let by_type = prefixes.iter().any(|prefix| plain.starts_with(prefix.trim_start_matches('<')));
    let by_trait = name.starts_with('<')
        && name.split_once(" as ").is_some_and(|(_, rest)| prefixes.iter().any(|prefix| rest.starts_with(prefix)));
    by_type || by_trait
}

fn is_ours(name: &str) -> bool {
    belongs(name, &["nlmmap::", "cuse_rs::", "nlmmap_ring::"])
}

fn is_wrapper(name: &str) -> bool {
    WRAPPERS.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether calls in it are places.
fn is_place_of(name: &str) -> bool {
    is_ours(name) && !is_wrapper(name)
}

/// Our functions whose calls are a part's: by their names, and what of the engine they come to.
fn ours(functions: &BTreeMap<u64, Function>, part: &[&str]) -> BTreeSet<u64> {
    let mut found: BTreeSet<u64> =
        functions.iter().filter(|(_, function)| belongs(&function.name, part)).map(|(at, _)| *at).collect();
    let mut left: Vec<u64> = found.iter().copied().collect();
    let mut known: HashSet<u64> = left.iter().copied().collect();
    while let Some(at) = left.pop() {
        let Some(function) = functions.get(&at) else { continue };
        for call in &function.calls {
            if let Target::Function(to) = call.target
                && known.insert(to)
            {
                left.push(to);
                if functions.get(&to).is_some_and(|function| belongs(&function.name, &[ENGINE])) {
                    found.insert(to);
                }
            }
        }
    }
    found.retain(|at| functions.get(at).is_some_and(|function| is_place_of(&function.name)));
    found
}

/// Whose own calls by number are for locks and waits, keys of hash tables, and forms of a call that it has otherwise, too.
fn is_rusts(name: &str) -> bool {
    belongs(name, &["std::", "core::", "getrandom::", "parking_lot_core::"])
}

/// What each function of others leads to in the C library, through others' functions alone.
fn reached(functions: &BTreeMap<u64, Function>) -> HashMap<u64, BTreeSet<String>> {
    let is_way = |name: &str| !is_place_of(name) && !NO_WAY.iter().any(|prefix| name.starts_with(prefix));
    let mut callers: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut by_import: HashMap<&str, Vec<u64>> = HashMap::new();
    for (at, function) in functions.iter().filter(|(_, function)| is_way(&function.name)) {
        for call in &function.calls {
            match &call.target {
                Target::Function(to) => callers.entry(*to).or_default().push(*at),
                Target::Import(name) if name == "syscall" && is_rusts(&function.name) => {}
                Target::Import(name) => by_import.entry(name).or_default().push(*at),
            }
        }
    }
    let mut reached: HashMap<u64, BTreeSet<String>> = HashMap::new();
    for (import, from) in by_import {
        if IMPORTS_LEFT_ALONE.contains(&import) {
            continue;
        }
        let (mut left, mut known) = (from, HashSet::new());
        while let Some(at) = left.pop() {
            if known.insert(at) {
                reached.entry(at).or_default().insert(import.to_string());
                left.extend(callers.get(&at).into_iter().flatten());
            }
        }
    }
    reached
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of functions, by where they begin.
fn names(program: &str) -> BTreeMap<u64, String> {
    let text = run(Command::new("nm").args(["--demangle", "--defined-only", program]));
    let entry = |line: &str| {
        let (at, rest) = line.split_once(' ')?;
        let (kind, name) = rest.split_once(' ')?;
        let is_code = matches!(kind, "t" | "T" | "w" | "W");
        is_code.then_some(())?;
        Some((u64::from_str_radix(at, 16).ok()?, name.to_string()))
    };
    text.lines().filter_map(entry).collect()
}

/// What the loader puts into the table of addresses: another function, or one of a library.
fn table(program: &str) -> HashMap<u64, Target> {
    let text = run(Command::new("readelf").args(["--relocs", "--wide", program]));
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = u64::from_str_radix(words.first()?, 16).ok()?;
        match *words.get(2)? {
            "R_X86_64_GLOB_DAT" | "R_X86_64_JUMP_SLOT" | "R_X86_64_JUMP_SLO" => {
                let name = words.get(4)?.split('@').next()?;
                Some((at, Target::Import(name.to_string())))
            }
            "R_X86_64_RELATIVE" => Some((at, Target::Function(u64::from_str_radix(words.get(3)?, 16).ok()?))),
            _ => None,
        }
    };
    text.lines().filter_map(entry).collect()
}

/// The number that a text begins with.
fn number(text: &str) -> Option<u64> {
    let digits = text.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

fn functions(program: &str) -> BTreeMap<u64, Function> {
    let (names, table) = (names(program), table(program));
    let mut objdump = Command::new("objdump")
        .args(["--disassemble", "--no-show-raw-insn", "--section=.text", program])
        .stdout(Stdio::piped())
        .spawn()
        .expect("objdump starts");
    let mut lines = BufReader::with_capacity(1 << 20, objdump.stdout.take().expect("a pipe"));
    let mut functions: BTreeMap<u64, Function> = BTreeMap::new();
    let mut current: Option<(u64, u64)> = None;
    // A call, whose end is where the next instruction begins.
    let mut open = false;
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes).expect("objdump writes") > 0 {
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("  ") {
            let Some((at, text)) = rest.trim_start().split_once(":\t") else {
                bytes.clear();
                continue;
            };
            let at = u64::from_str_radix(at, 16).unwrap_or(0);
            // A new function begins where a name says so, whatever objdump takes for one.
            if let Some(name) = names.get(&at)
                && current.is_none_or(|(begin, _)| begin != at)
            {
                current = Some((at, at));
                functions.insert(at, Function { name: name.clone(), calls: Vec::new() });
            }
            if let Some(function) = current.and_then(|(begin, _)| functions.get_mut(&begin)) {
                if std::mem::take(&mut open)
                    && let Some(last) = function.calls.last_mut()
                {
                    last.back = at;
                }
                if let Some(call) = call(at, text, &table) {
                    open = call.is_call;
                    function.calls.push(call);
                }
            }
        }
        bytes.clear();
    }
    assert!(objdump.wait().is_ok_and(|status| status.success()), "objdump reads {program}");
    functions
}

/// What an instruction calls or mentions.
fn call(at: u64, text: &str, table: &HashMap<u64, Target>) -> Option<Call> {
    let text = text.strip_prefix("addr32 ").unwrap_or(text);
    let (name, operands) = text.split_once(' ').unwrap_or((text, ""));
    let operands = operands.trim_start();
    if name == "syscall" {
        return Some(Call { at, back: 0, target: Target::Import(RAW.into()), is_call: false });
    }
    let is_call = name == "call" || name == "callq";
    let slot = text.split_once("# ").and_then(|(_, slot)| number(slot));
    let target = match slot {
        Some(slot) if name == "lea" => Target::Function(slot),
        Some(slot) => match table.get(&slot)? {
            Target::Import(name) => Target::Import(name.clone()),
            Target::Function(to) => Target::Function(*to),
        },
        None if is_call || name == "jmp" => {
            // `sym@plt`
            match operands.split_once('<').and_then(|(_, name)| name.strip_suffix("@plt>")) {
                Some(import) => Target::Import(import.split('@').next().unwrap_or(import).to_string()),
                None => Target::Function(number(operands)?),
            }
        }
        None => return None,
    };
    // Mentioned: `lea` of a function that is handed on. It is called by others, as part of the call.
    Some(Call { at, back: 0, target, is_call })
}

/// Without what stands in angle brackets behind `::`, and the numbers of closures.
fn without_generics(name: &str) -> String {
    let (mut plain, mut depth) = (String::new(), 0u32);
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if depth == 0 && rest.starts_with("::<") {
            depth = 1;
            rest = &rest[3..];
            continue;
        }
        match c {
            '<' if depth > 0 => depth += 1,
            '>' if depth > 0 && !rest.starts_with("->") => depth -= 1,
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
        rest = &rest[c.len_utf8()..];
    }
    plain
}

/// File, from the repository's root on, and line of each address.
fn lines<'a>(program: &str, addresses: impl Iterator<Item = &'a u64>) -> Vec<(String, u32)> {
    let mut addr2line = Command::new("addr2line");
    addr2line.args(["--exe", program]).args(addresses.map(|at| format!("{at:#x}")));
    let text = run(&mut addr2line);
    let line = |line: &str| {
        let line = line.split_once(" (").map_or(line, |(line, _)| line);
        let (file, number) = line.rsplit_once(':').unwrap_or((line, "0"));
        let root = crate::support::repository();
        let file = file.strip_prefix(&format!("{}/", root.display())).unwrap_or(file);
        (file.to_string(), number.parse().unwrap_or(0))
    };
    text.lines().map(line).collect()
}

#[test]
fn generics_are_left_away() {
    assert_eq!(without_generics("<a::B<C>>::d::<e::F<G>, H>::i"), "<a::B<C>>::d::i");
    assert!(belongs("<nlmmap::serve::X as core::ops::Drop>::drop", &["nlmmap::serve::"]));
    assert!(belongs("<u8 as nlmmap::serve::X>::y", &["nlmmap::serve::"]));
    assert!(!belongs("core::ptr::drop_in_place::<nlmmap::serve::X>", &["nlmmap::serve::"]));
}
