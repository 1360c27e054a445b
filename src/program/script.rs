//! `#!` lines, read as the kernel reads them (`fs/binfmt_script.c`), and the `env` that so many of them name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// `BINPRM_BUF_SIZE`: what the kernel looks at of a script's first line.
pub const LINE_MAX: usize = 256;

/// The deepest chain of scripts that the kernel follows (`exec_binprm`).
pub const DEPTH_MAX: usize = 5;

/// The first line of a script.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The program that is run instead.
    pub interpreter: PathBuf,
    /// The rest of the line: one argument, whatever blanks it holds.
    pub argument: Option<OsString>,
}

/// Parses the first line of a file that begins with `head`; `None` when it is no script, or a line that the kernel refuses.
pub fn parse(head: &[u8]) -> Option<Line> {
    let head = head.get(..LINE_MAX).unwrap_or(head);
    let rest = head.strip_prefix(b"#!")?;
    let line = match rest.iter().position(|&b| b == b'\n' || b == 0) {
        Some(end) => rest.split_at(end).0,
        // A line that was cut off may still hold the whole interpreter's name, when a blank follows it.
        None if head.len() == LINE_MAX && !trim(rest).iter().any(|&b| is_blank(b)) => return None,
        None => rest,
    };
    let line = trim(line);
    let end = line.iter().position(|&b| is_blank(b)).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    let argument = trim(argument);
    if interpreter.is_empty() {
        return None;
    }
    Some(Line {
        interpreter: PathBuf::from(OsString::from_vec(interpreter.to_vec())),
        argument: (!argument.is_empty()).then(|| OsString::from_vec(argument.to_vec())),
    })
}

/// The name that `env`, when it is the interpreter, is asked to run.
pub fn env_target(line: &Line) -> Option<&OsStr> {
    if line.interpreter.file_name() != Some(OsStr::new("env")) {
        return None;
    }
    let words = line.argument.as_ref()?.as_bytes();
    let split = words.strip_prefix(b"-S").or_else(|| words.strip_prefix(b"--split-string="));
    match split {
        // Assignments and options may come before the name.
        Some(words) => words
            .split(|&b| is_blank(b))
            .find(|w| !w.is_empty() && !w.starts_with(b"-") && !w.contains(&b'='))
            .map(OsStr::from_bytes),
        None if words.starts_with(b"-") => None,
        None => Some(OsStr::from_bytes(words)),
    }
}

/// Whether a file that the kernel refused as a program would be run by a shell: text, as `execvp` assumes.
pub fn looks_like_text(head: &[u8]) -> bool {
    !head.contains(&0)
}

/// Where the shell is that `execvp` uses for a script without a `#!` line.
pub fn default_shell() -> &'static Path {
    Path::new("/bin/sh")
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(interpreter: &str, argument: Option<&str>) -> Option<Line> {
        Some(Line { interpreter: interpreter.into(), argument: argument.map(OsString::from) })
    }

    #[test]
    fn lines_are_read_as_the_kernel_reads_them() {
        assert_eq!(parse(b"#!/bin/sh\necho"), line("/bin/sh", None));
        assert_eq!(parse(b"#! \t/bin/sh -e  -u \n"), line("/bin/sh", Some("-e  -u")));
        assert_eq!(parse(b"#!/bin/sh"), line("/bin/sh", None));
        assert_eq!(parse(b"#!\n"), None);
        assert_eq!(parse(b"#!   \n/bin/sh"), None);
        assert_eq!(parse(b"echo\n"), None);
    }

    #[test]
    fn an_interpreter_that_does_not_fit_is_refused_but_a_cut_argument_is_not() {
        let long = [b"#!/".as_slice(), &[b'a'; 400]].concat();
        assert_eq!(parse(&long), None);
        let cut = [b"#!/bin/sh ".as_slice(), &[b'a'; 400]].concat();
        assert_eq!(parse(&cut).map(|l| l.interpreter), Some("/bin/sh".into()));
    }

    #[test]
    fn env_names_its_program() {
        let target = |text: &str| {
            let line = parse(text.as_bytes()).unwrap();
            env_target(&line).map(|t| t.to_str().unwrap().to_owned())
        };
        assert_eq!(target("#!/usr/bin/env python3\n").as_deref(), Some("python3"));
        assert_eq!(target("#!/usr/bin/env -S A=1 perl -w\n").as_deref(), Some("perl"));
        assert_eq!(target("#!/usr/bin/env -i\n"), None);
        assert_eq!(target("#!/usr/bin/env\n"), None);
        assert_eq!(target("#!/bin/sh env\n"), None);
    }
}
