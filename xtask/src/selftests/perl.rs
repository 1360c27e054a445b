//! Perl's own tests, from Debian's source: those of the core that are about files, sockets, processes and signals, and those of modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cage::Cage;
use super::{Outcomes, Part, sources};

/// Files and directories of them.
const BRIEF: &[&str] = &[
    "t/io/argv.t",
    "t/io/closepid.t",
    "t/io/dup.t",
    "t/io/eintr.t",
    "t/io/errnosig.t",
    "t/io/fs.t",
    "t/io/inplace.t",
    "t/io/openpid.t",
    "t/io/open.t",
    "t/io/pipe.t",
    "t/io/read.t",
    "t/io/socket.t",
    "t/io/socketpair.t",
    "t/op/alarm.t",
    "t/op/exec.t",
    "t/op/fork.t",
    "t/op/kill0.t",
    "t/op/sselect.t",
    "t/op/sysio.t",
    "cpan/Socket/t",
    "dist/IO/t",
    "ext/IPC-Open3/t",
    "ext/Fcntl/t",
];
const MORE: &[&str] = &[
    "cpan/IO-Socket-IP/t",
    "t/cmd",
    "t/io",
    "t/op/chdir.t",
    "t/op/die_exit.t",
    "t/op/filetest.t",
    "t/op/getpid.t",
    "t/op/getppid.t",
    "t/op/magic.t",
    "t/op/readline.t",
    "t/op/select.t",
    "t/op/sigdispatch.t",
    "t/op/sigsystem.t",
    "t/op/sleep.t",
    "t/op/stat.t",
    "t/op/threads.t",
    "t/op/time.t",
    "cpan/File-Temp/t",
    "cpan/IPC-Cmd/t",
    "cpan/IPC-SysV/t",
    "cpan/Sys-Syslog/t",
    "dist/Net-Ping/t",
    "dist/Thread-Queue/t",
    "dist/Time-HiRes/t",
    "dist/threads-shared/t",
    "dist/threads/t",
    "ext/File-Find/t",
    "ext/FileCache/t",
    "ext/POSIX/t",
    "ext/Sys-Hostname/t",
];
const SECONDS: u32 = 120;

pub fn parts(home: &Path, brief: bool) -> Result<Vec<Part>, String> {
    let source = sources::of("perl", home)?;
    as_if_built(&source)?;
    let mut files = Vec::new();
    for name in BRIEF.iter().chain(if brief { &[] } else { MORE }) {
        if name.ends_with(".t") {
            files.extend(source.join(name).is_file().then(|| PathBuf::from(name)));
        } else {
            let there = fs::read_dir(source.join(name)).map_err(|e| format!("{name}: {e}"))?;
            files.extend(
                there
                    .flatten()
                    .map(|entry| Path::new(name).join(entry.file_name()))
                    .filter(|file| file.extension().is_some_and(|it| it == "t")),
            );
        }
    }
    files.sort();
    files.dedup();
    let part = |file: PathBuf| {
        let source = source.clone();
        Part { suite: "perl", name: file.display().to_string(), run: Box::new(move |cage| run(cage, &source, &file)) }
    };
    Ok(files.into_iter().map(part).collect())
}

/// The core's tests take a Perl and its modules from where a build puts them: there are those that are installed.
fn as_if_built(source: &Path) -> Result<(), String> {
    let (perl, done) = (source.join("t/perl"), source.join("lib.built"));
    if done.exists() {
        return Ok(());
    }
    let output = Command::new("perl")
        .args(["-e", "print join \"\\n\", $^X, $^V, grep { m{^/usr/(share|lib)/} && -d } @INC"])
        .output();
    let output = output.map_err(|e| format!("perl: {e}"))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = told.lines();
    let (Some(program), Some(version)) = (lines.next(), lines.next()) else {
        return Err("perl does not tell what it is".into());
    };
    let of = fs::read_to_string(source.join("patchlevel.h")).unwrap_or_default();
    let number = |name: &str| {
        of.lines()
            .find_map(|line| line.strip_prefix(&format!("#define {name}")))
            .and_then(|rest| rest.split_whitespace().next().map(str::to_owned))
    };
    let (Some(major), Some(minor)) = (number("PERL_VERSION"), number("PERL_SUBVERSION")) else {
        return Err("the source has no version".into());
    };
    if version != format!("v5.{major}.{minor}") {
        return Err(format!("perl is {version}, and Debian's source v5.{major}.{minor}"));
    }
    let (lib, own) = (source.join("lib"), source.join("lib.source"));
    if own.exists() {
        // An earlier run has come as far as this, and was ended.
        let _ = (fs::remove_dir_all(&lib), fs::remove_file(&perl));
    } else {
        fs::rename(&lib, &own).map_err(|e| format!("{}: {e}", lib.display()))?;
    }
    fs::create_dir(&lib).map_err(|e| format!("{}: {e}", lib.display()))?;
    for directory in lines {
        // What one directory has before another stays.
        let _ = Command::new("cp").args(["-rsn", &format!("{directory}/.")]).arg(&lib).status();
    }
    std::os::unix::fs::symlink(program, perl).map_err(|e| format!("t/perl: {e}"))?;
    fs::write(&done, "").map_err(|e| format!("{}: {e}", done.display()))
}

/// In a copy of what is around the test: tests write beside themselves.
fn run(cage: &Cage, source: &Path, file: &Path) -> Result<Outcomes, String> {
    let mut words = file.iter();
    let top: PathBuf = match words.next() {
        Some(first) if first == "t" => first.into(),
        Some(first) => Path::new(first).join(words.next().unwrap_or_default()),
        None => return Err("no name".into()),
    };
    let copy = cage.directory().join("perl");
    let to = copy.join(&top);
    fs::create_dir_all(to.parent().unwrap_or(&copy)).map_err(|e| format!("{}: {e}", copy.display()))?;
    let copied = Command::new("cp").arg("-a").arg(source.join(&top)).arg(&to).status();
    if !copied.is_ok_and(|status| status.success()) {
        return Err(format!("{} cannot be copied", top.display()));
    }
    for beside in ["lib", "t", "MANIFEST", "TestInit.pm"] {
        let _ = std::os::unix::fs::symlink(source.join(beside), copy.join(beside));
    }
    let test = file.strip_prefix(&top).map_err(|e| e.to_string())?;
    let program: &[&str] = if top == Path::new("t") { &["./perl"] } else { &["PERL_CORE=1", "perl"] };
    let run = cage.run_in(&to, program, &[test], SECONDS)?;
    let mut outcomes = read(&run.output);
    let end = match run.code {
        Some(code) => format!("status {code}"),
        None => "hung or died".into(),
    };
    outcomes.insert("the end".into(), end);
    Ok(outcomes)
}

/// What a file prints: a plan, and a line for each test.
fn read(output: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for line in output.lines() {
        let (word, rest) = match (line.strip_prefix("ok"), line.strip_prefix("not ok")) {
            (Some(rest), _) => ("ok", rest),
            (_, Some(rest)) => ("not ok", rest),
            _ => continue,
        };
        let number = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let note = rest.split_once(" # ").map(|(_, note)| note.to_ascii_lowercase()).unwrap_or_default();
        let word = if note.starts_with("skip") {
            "skipped"
        } else if note.starts_with("todo") {
            "to do"
        } else {
            word
        };
        outcomes.insert(number.to_string(), word.to_string());
    }
    outcomes
}

#[test]
fn lines_of_tests_are_read() {
    let outcomes =
        read("1..4\nok 1 - opens\nnot ok 2 - x\nok 3 # skip no such thing\nnot ok 4 - y # TODO later\nother\n");
    let expected = [("1", "ok"), ("2", "not ok"), ("3", "skipped"), ("4", "to do")]
        .map(|(test, it)| (test.to_string(), it.to_string()));
    assert_eq!(outcomes, Outcomes::from(expected));
}
