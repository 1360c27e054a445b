//! Compiles clients with the system's C compilers into a cache, keyed by everything that goes into them.

use super::paths::{clients_dir, repository};
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The ways in which programs are built.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Build {
    /// gcc, glibc.
    Plain,
    /// `-D_FORTIFY_SOURCE=2 -O2`: calls go to the `__*_chk` names.
    Fortified,
    /// `-D_FILE_OFFSET_BITS=64`: calls go to the `*64` names.
    Offset64,
    /// Linked against musl.
    Musl,
    /// `-fsanitize=address`.
    Asan,
    /// `-fsanitize=address`, its runtime linked statically: it starts before any library's constructor.
    StaticAsan,
    /// `-fsanitize=thread`, the same way.
    StaticTsan,
    /// `-fsanitize=leak`, the same way.
    StaticLsan,
    /// A shared library, for `dlopen` and `LD_PRELOAD`.
    Library,
    /// Linked statically: the preload cannot enter it.
    Static,
    /// The same against musl.
    StaticMusl,
}

impl Build {
    fn tag(self) -> &'static str {
        match self {
            Build::Plain => "plain",
            Build::Fortified => "fortified",
            Build::Offset64 => "offset64",
            Build::Musl => "musl",
            Build::Asan => "asan",
            Build::StaticAsan => "static-asan",
            Build::StaticTsan => "static-tsan",
            Build::StaticLsan => "static-lsan",
            Build::Library => "library",
            Build::Static => "static",
            Build::StaticMusl => "static-musl",
        }
    }

    fn compiler(self) -> &'static str {
        if matches!(self, Build::Musl | Build::StaticMusl) { "musl-gcc" } else { "gcc" }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Build::Plain => &["-O1"],
            Build::Fortified => &["-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"],
            Build::Offset64 => &["-O2", "-D_FILE_OFFSET_BITS=64"],
            // musl-gcc sees no kernel headers; those of the system come last.
            Build::Musl => &["-O1", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"],
            Build::Asan => &["-O1", "-fsanitize=address", "-fno-omit-frame-pointer"],
            Build::StaticAsan => &["-O1", "-fsanitize=address", "-static-libasan"],
            Build::StaticTsan => &["-O1", "-fsanitize=thread", "-static-libtsan"],
            Build::StaticLsan => &["-O1", "-fsanitize=leak", "-static-liblsan"],
            Build::Library => &["-O1", "-shared", "-fPIC"],
            Build::Static => &["-O1", "-static"],
            Build::StaticMusl => {
                &["-O1", "-static", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]
            }
        }
    }
}

/// Compiles `tests/clients/NAME.c` unless the cache has it, and returns the program's path.
pub fn compile(name: &str, build: Build) -> PathBuf {
    let mut flags = vec!["-Wall", "-Wextra", "-Werror"];
    flags.extend(build.flags());
    cached(build.compiler(), &repository().join(format!("tests/clients/{name}.c")), build.tag(), &flags)
}

/// Compiles one other C file of the repository with gcc.
pub fn compile_file(path: &str, flags: &[&str]) -> PathBuf {
    cached("gcc", &repository().join(path), "plain", flags)
}

fn cached(compiler: &str, source: &Path, tag: &str, flags: &[&str]) -> PathBuf {
    let cache = clients_dir();
    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let program = cache.join(format!("{name}-{tag}-{:016x}", key(source, flags)));
    if program.exists() {
        return program;
    }
    fs::create_dir_all(&cache).expect("the cache of clients can be made");
    // Compiled aside and moved: another test may want the same client at the same time.
    let aside = cache.join(format!("{name}-{}-{:?}.new", std::process::id(), std::thread::current().id()));
    let output = Command::new(compiler)
        .args(["-g", "-std=gnu11"])
        .args(flags)
        .arg(source)
        .arg("-o")
        .arg(&aside)
        .arg("-pthread")
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}; `cargo xtask test` installs what the tests need"));
    assert!(
        output.status.success(),
        "{} does not compile with {flags:?}:\n{}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&aside, &program).expect("the compiled client moves into the cache");
    program
}

/// Source, headers beside it and flags: a change in any makes another program.
fn key(source: &Path, flags: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    flags.hash(&mut hasher);
    let dir = source.parent().expect("a source lies in a directory");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("a source's directory can be listed")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "h") || path == source)
        .collect();
    files.sort();
    files.push(repository().join("include/nlmmap.h"));
    for file in files {
        fs::read(&file).expect("a source can be read").hash(&mut hasher);
    }
    hasher.finish()
}
