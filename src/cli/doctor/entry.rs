//! Does the library get into programs? A small program is run with it, and shows its own memory map.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{Check, State};
use crate::preload::{self, Library};
use crate::program::{self, elf, search, secure};

const GROUP: &str = "preload";
const GLIBC: &str = "glibc program";
const MUSL: &str = "musl program";

/// A program that prints its own map, for a C library that no program here uses.
const MAPS_C: &str = "#include <stdio.h>
int main(void)
{
\tFILE *f = fopen(\"/proc/self/maps\", \"r\");
\tint c;

\tif (!f)
\t\treturn 1;
\twhile ((c = getc(f)) != EOF)
\t\tputchar(c);
\treturn 0;
}
";

/// The library, then a program of each C library.
pub fn checks() -> Vec<Check> {
    let library = match preload::find() {
        Ok(library) => library,
        Err(error) => {
            let check = Check::new(GROUP, "library", State::No, error.to_string()).needed();
            return vec![check.cure(error.cures().join("; "))];
        }
    };
    let text = format!("{} ({}, abi {})", library.path.display(), library.machine, preload::ABI);
    let found = Check::new(GROUP, "library", State::Ok, text).needed();
    let (glibc, musl) = match system_program(&library) {
        // The C library of the system's own programs is the one that has to work.
        Ok((program, true)) => (no_glibc(), tried(MUSL, &library, &program).needed()),
        Ok((program, false)) => (tried(GLIBC, &library, &program).needed(), musl(&library)),
        Err(check) => (check, musl(&library)),
    };
    vec![found, glibc, musl]
}

/// `cat`, and whether musl is its C library.
fn system_program(library: &Library) -> Result<(PathBuf, bool), Check> {
    let no = |why: String| Check::new(GROUP, GLIBC, State::Maybe, why);
    let cat = search::find("cat".as_ref()).map_err(|why| no(format!("no program to try with: cat: {why}")))?;
    let caller = secure::Caller::current().map_err(|e| no(format!("cannot read /proc/self: {e}")))?;
    let program = program::judge(&cat, library.machine, &caller)
        .map_err(|refusal| no(format!("not tried: {refusal}")).cure(refusal.cures().join("; ")))?;
    let musl = program.linker.is_some_and(|linker| linker.to_string_lossy().contains("ld-musl"));
    Ok((program.path, musl))
}

fn no_glibc() -> Check {
    Check::new(GROUP, GLIBC, State::Maybe, "not tried: the programs here use musl")
}

/// Runs `program /proc/self/maps` with the library, and looks for the library in what it prints.
fn tried(name: &'static str, library: &Library, program: &Path) -> Check {
    let mut command = Command::new(program);
    command.arg("/proc/self/maps").env("LD_PRELOAD", &library.path);
    let fail = |why: String| {
        Check::new(GROUP, name, State::No, format!("{}: {why}", program.display()))
            .cure("build the library again from the same release (cargo build --release), and report it if that does not help")
    };
    let output = match run(&mut command) {
        Ok(output) => output,
        Err(why) => return fail(why),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    let entered = String::from_utf8_lossy(&output.stdout)
        .lines()
        .any(|line| line.split_whitespace().nth(5).is_some_and(|path| Path::new(path) == library.path));
    match (entered, output.status.success(), errors.trim()) {
        (true, true, "") => Check::new(GROUP, name, State::Ok, format!("{} was entered and ran", program.display())),
        (true, true, text) => fail(format!("was entered, with complaints: {text}")),
        (_, false, text) => fail(format!("ended with {} {text}", output.status).trim_end().to_owned()),
        (false, true, "") => fail("ran without the library".to_owned()),
        (false, true, text) => fail(text.to_owned()),
    }
}

/// Musl on a system of another C library: its dynamic linker may be there, a program of it seldom is.
fn musl(library: &Library) -> Check {
    let maybe = |why: &str, cure: &str| Check::new(GROUP, MUSL, State::Maybe, why).cure(cure);
    let Some(linker) = musl_linker(library) else {
        return Check::new(GROUP, MUSL, State::Maybe, "not tried: musl is not installed, so no program here needs it");
    };
    let Ok(compiler) = search::find("musl-gcc".as_ref()) else {
        return maybe(
            &format!("not tried: {} is there, and no program that uses it", linker.display()),
            "install musl's compiler to have one made (apt install musl-tools)",
        );
    };
    let Ok(dir) = tempfile::tempdir() else {
        return maybe("not tried: no room for temporary files", "set TMPDIR to a directory that can be written");
    };
    let (source, program) = (dir.path().join("maps.c"), dir.path().join("maps"));
    let made = fs::write(&source, MAPS_C).map_err(|e| e.to_string()).and_then(|()| {
        let output = run(Command::new(compiler).arg("-o").arg(&program).arg(&source))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    });
    match made {
        Ok(()) => {
            let mut check = tried(MUSL, library, &program);
            check.why = check.why.replace(&program.display().to_string(), "a program made with musl-gcc");
            check
        }
        Err(why) => maybe(&format!("not tried: musl-gcc: {why}"), "repair musl-gcc"),
    }
}

fn musl_linker(library: &Library) -> Option<PathBuf> {
    let entries = fs::read_dir("/lib").ok()?;
    let mut linkers = entries.filter_map(Result::ok).map(|e| e.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("ld-musl-") && elf::read(path).is_ok_and(|facts| facts.machine == library.machine)
    });
    linkers.next()
}

/// Runs a command that is done in a moment, and ends it when it is not: a library can hang a program's start.
fn run(command: &mut Command) -> Result<Output, String> {
    const PATIENCE: Duration = Duration::from_secs(10);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("cannot be started: {e}"))?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not end within {} seconds", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    // What these commands print fits a pipe, so they end without being read from.
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let read = |from: Option<&mut dyn Read>, to: &mut Vec<u8>| from.map_or(Ok(0), |from| from.read_to_end(to));
    read(child.stdout.as_mut().map(|o| o as &mut dyn Read), &mut stdout).map_err(|e| e.to_string())?;
    read(child.stderr.as_mut().map(|o| o as &mut dyn Read), &mut stderr).map_err(|e| e.to_string())?;
    Ok(Output { status, stdout, stderr })
}
