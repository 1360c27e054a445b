//! The built preload library: exports exactly its table, binds to nothing it interposes, needs no other library, keeps no
//! thread-local storage, cannot be unloaded, and is small.

mod support;

use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, RelocationTarget};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use support::{preload, repository};

/// What a C library must give, by names that glibc and musl both have: where errno lives, the
/// environment, what the compiler itself calls, and what the constructor looks up the next object's
/// names and starts its thread with.
const MAY_NEED: &[&str] = &[
    "__errno_location",
    "bcmp",
    "environ",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "strlen",
    "dlsym",
    "pthread_create",
    // Weak, each in one C library only: what a call before the constructor finds its way by.
    "_r_debug",
    "_dl_debug_addr",
    "__libc_stack_end",
    "__libc_single_threaded",
    "gnu_get_libc_version",
];

/// Exported beside the hooks, for the hand-shake with `nlmmap run`.
const ABI: &str = "nlmmap_preload_abi";

const MAX_BYTES: u64 = 288 * 1024;

/// The names in the rows `name(args) -> ret = call;` of the one table.
fn table() -> BTreeSet<String> {
    let source =
        fs::read_to_string(repository().join("crates/preload/src/symbols.rs")).expect("symbols.rs can be read");
    let rows = source.split("macro_rules! with_table").nth(1).and_then(|rest| rest.split("pub(crate) use").next());
    rows.expect("symbols.rs holds with_table!")
        .lines()
        .map(str::trim)
        .filter(|line| line.ends_with(';') && line.contains(") -> ") && line.contains(" = "))
        .filter_map(|line| line.split('(').next())
        .map(str::to_string)
        .collect()
}

/// The modules of the preload library in the order of the table in its `lib.rs`, lowest first.
fn layers(source: &str) -> Vec<String> {
    let rows = source.lines().filter_map(|line| line.strip_prefix("//! | [")).filter_map(|row| row.split('|').next());
    let names = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).map(str::to_string);
    let (top, mut order): (Vec<_>, Vec<_>) = names.partition(|name| name == "entry");
    order.extend(top);
    order
}

/// The names behind `crate::` in what is no comment.
fn uses(source: &str) -> BTreeSet<String> {
    let code: String = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{').and_then(|list| list.split('}').next()) {
            Some(list) => found.extend(list.split(',').map(|item| name(item.trim()))),
            None => drop(found.insert(name(rest))),
        }
    }
    found
}

#[test]
fn modules_use_only_those_below_them() {
    let dir = repository().join("crates/preload/src");
    let root = fs::read_to_string(dir.join("lib.rs")).expect("lib.rs can be read");
    let order = layers(&root);
    let declared: BTreeSet<_> =
        root.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(|l| l.trim_end_matches(';').to_string()).collect();
    assert_eq!(declared, order.iter().cloned().collect(), "the table in lib.rs and the modules");
    for (height, module) in order.iter().enumerate() {
        let inside = fs::read_dir(dir.join(module)).into_iter().flatten().map(|e| e.expect("a directory entry").path());
        for file in inside.chain([dir.join(format!("{module}.rs"))]) {
            if file.file_name().is_some_and(|name| name == "tests.rs") || !file.is_file() {
                continue;
            }
            for used in uses(&fs::read_to_string(&file).expect("a source can be read")) {
                // What is handed on compares itself with the hook's own address, and calls nothing there.
                let is_address = module == "next" && used == "entry";
                let above = order.iter().position(|m| *m == used).is_some_and(|at| at > height);
                assert!(!above || is_address, "{} uses {used}, which is above {module}", file.display());
            }
        }
    }
}

fn with_library(f: impl Fn(&ElfFile64<'_, Endianness>, &[u8])) {
    let bytes = fs::read(preload()).expect("the preload library can be read");
    let file = ElfFile64::<Endianness>::parse(&*bytes).expect("the preload library is a 64-bit ELF file");
    f(&file, &bytes);
}

fn dynamic(file: &ElfFile64<'_, Endianness>, bytes: &[u8]) -> Vec<(elf::DynamicTag, u64)> {
    let endian = file.endian();
    let headers = file.elf_header().program_headers(endian, bytes).expect("program headers");
    let entries = headers.iter().find_map(|h| h.dynamic(endian, bytes).transpose()).expect("a dynamic section");
    let pair = |d: &elf::Dyn64<Endianness>| (d.tag(endian), d.val(endian));
    entries.expect("a readable dynamic section").iter().map(pair).collect()
}

#[test]
fn table_is_read_whole() {
    let table = table();
    assert!(table.len() >= 35, "only {} rows were found: {table:?}", table.len());
    for name in ["setsockopt", "mmap64", "__poll_chk", "epoll_pwait2", "closefrom", "write"] {
        assert!(table.contains(name), "{name} is missing from {table:?}");
    }
}

/// `every_hook.h` is what is called before any constructor (`process`).
#[test]
fn every_row_is_called_early() {
    let calls = fs::read_to_string(repository().join("tests/clients/every_hook.h")).expect("every_hook.h can be read");
    let missing: Vec<_> = table()
        .into_iter()
        .filter(|name| ![' ', '(', '\t'].iter().any(|before| calls.contains(&format!("{before}{name}("))))
        .collect();
    assert!(missing.is_empty(), "every_hook.h does not call {missing:?}");
}

#[test]
fn exports_equal_the_table() {
    with_library(|file, _| {
        let exported: BTreeSet<String> = file
            .dynamic_symbols()
            .filter(|s| s.is_definition() && s.is_global())
            .map(|s| s.name().expect("a symbol has a name").to_string())
            .collect();
        let mut wanted = table();
        wanted.insert(ABI.to_string());
        let missing: Vec<_> = wanted.difference(&exported).collect();
        let surplus: Vec<_> = exported.difference(&wanted).collect();
        assert!(missing.is_empty() && surplus.is_empty(), "not exported: {missing:?}; exported besides: {surplus:?}");
    });
}

#[test]
fn nothing_binds_to_an_interposed_name() {
    let table = table();
    with_library(|file, _| {
        let symbols = file.dynamic_symbol_table().expect("a dynamic symbol table");
        let bound: Vec<String> = file
            .dynamic_relocations()
            .expect("dynamic relocations")
            .filter_map(|(_, relocation)| match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    use object::ObjectSymbolTable;
                    let symbol = symbols.symbol_by_index(index).expect("a relocation names a symbol");
                    Some(symbol.name().expect("a symbol has a name").to_string())
                }
                _ => None,
            })
            .collect();
        let own: Vec<_> = bound.iter().filter(|name| table.contains(*name)).collect();
        assert!(own.is_empty(), "relocations against interposed names: {own:?}");
    });
}

#[test]
fn little_is_needed_from_a_c_library() {
    with_library(|file, _| {
        let needed: Vec<_> = file
            .dynamic_symbols()
            .filter(|s| s.is_undefined())
            .map(|s| s.name().expect("a symbol has a name").to_string())
            .filter(|name| !name.is_empty() && !MAY_NEED.contains(&name.as_str()))
            .collect();
        assert!(needed.is_empty(), "undefined symbols that no list allows: {needed:?}");
    });
}

#[test]
fn no_library_is_needed() {
    with_library(|file, bytes| {
        let needed = dynamic(file, bytes).into_iter().filter(|&(tag, _)| tag == elf::DT_NEEDED).count();
        assert_eq!(needed, 0, "{needed} DT_NEEDED entries: the library would not load into every program");
    });
}

#[test]
fn bound_now_and_never_unloaded() {
    with_library(|file, bytes| {
        let dynamic = dynamic(file, bytes);
        let flags = |wanted| dynamic.iter().find(|&&(tag, _)| tag == wanted).map_or(0, |&(_, value)| value);
        let (flags, flags_1) = (flags(elf::DT_FLAGS), flags(elf::DT_FLAGS_1));
        assert!(flags & elf::DF_BIND_NOW.0 != 0 || flags_1 & elf::DF_1_NOW.0 != 0, "bound lazily");
        assert!(flags_1 & elf::DF_1_NODELETE.0 != 0, "dlclose could unload it");
        let writable_text = dynamic.iter().any(|&(tag, _)| tag == elf::DT_TEXTREL);
        assert!(!writable_text, "relocations in the text");
    });
}

#[test]
fn no_thread_local_storage() {
    with_library(|file, bytes| {
        let endian = file.endian();
        let headers = file.elf_header().program_headers(endian, bytes).expect("program headers");
        let tls = headers.iter().any(|h| h.p_type(endian) == elf::PT_TLS);
        assert!(!tls, "PT_TLS: __tls_get_addr may allocate inside a hook");
        let stack = headers.iter().find(|h| h.p_type(endian) == elf::PT_GNU_STACK).expect("PT_GNU_STACK");
        assert_eq!((stack.p_flags(endian) & elf::PF_X).0, 0, "an executable stack");
    });
}

/// What is loaded counts; debug sections do not.
#[test]
fn loaded_size_is_bounded() {
    with_library(|file, bytes| {
        let endian = file.endian();
        let headers = file.elf_header().program_headers(endian, bytes).expect("program headers");
        let loaded: u64 = headers.iter().filter(|h| h.p_type(endian) == elf::PT_LOAD).map(|h| h.p_filesz(endian)).sum();
        assert!(loaded > 4096 && loaded <= MAX_BYTES, "{loaded} bytes are loaded, at most {MAX_BYTES} may be");
    });
}

/// Names in backticks of the last column of docs/hazards.md that are written as tests are.
#[test]
fn every_hazard_names_tests_that_exist() {
    let text = fs::read_to_string(repository().join("docs/hazards.md")).expect("docs/hazards.md");
    let sources: Vec<PathBuf> =
        ["tests", "crates", "src"].iter().flat_map(|dir| sources_below(&repository().join(dir))).collect();
    let code: String = sources.iter().map(|path| fs::read_to_string(path).expect("a source can be read")).collect();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert_eq!(rows.len(), 39, "one for each hazard");
    for row in rows {
        let held = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let names: Vec<&str> = held.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')).collect();
        let is_target = |name: &str| repository().join("fuzz/fuzz_targets").join(format!("{name}.rs")).exists();
        assert!(held == "the build" || !names.is_empty(), "{row}");
        for name in names {
            assert!(code.contains(&format!("fn {name}(")) || is_target(name), "there is no test {name}");
        }
    }
}

fn sources_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(sources_below(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found
}
