//! `nlmmap manual`: the manual pages, made of the same words as `--help`. For those who package it; not listed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::complain;

/// Write the manual pages of all commands, in section 1.
#[derive(Args)]
pub struct Arguments {
    /// Directory for them
    directory: PathBuf,
}

/// Those beside which a page is to be read.
const ALSO: &[(&str, &str)] = &[("nlmmap", "1"), ("nlmmap.toml", "5"), ("nlmmap", "3")];

pub fn main(arguments: &Arguments) -> ExitCode {
    let mut command = super::Arguments::command();
    command.build();
    match fs::create_dir_all(&arguments.directory).and_then(|()| write_all(&command, &arguments.directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("{}: {error}", arguments.directory.display()), &[]);
            ExitCode::FAILURE
        }
    }
}

fn write_all(command: &Command, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    fs::write(directory.join(format!("{name}.1")), page(command)?)?;
    let below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    below.into_iter().try_for_each(|below| write_all(below, directory))
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let version = concat!("nlmmap ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone());
    // Without a date: the version says more, and the same source makes the same page.
    let title = format!(".TH \"{}\" 1 \"\" \"{version}\" \"User Commands\"\n", escaped(&name.to_uppercase()));
    let mut out = format!(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n{title}").into_bytes();
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.get_subcommands().any(|below| !below.is_hide_set() && below.get_name() != "help") {
        man.render_subcommands_section(&mut out)?;
    }
    let rest = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    out.extend_from_slice(sections(&rest).as_bytes());
    out.extend_from_slice(see_also(command, &name).as_bytes());
    Ok(out)
}

/// What stands below the options in `--help`: paragraphs, some with a heading, and tables that keep their lines.
fn sections(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        let is_table = (!rest.is_empty() || first.starts_with(' ')) && rest.lines().all(|line| line.starts_with(' '));
        let (first, rest) = if first.starts_with(' ') { ("", paragraph) } else { (first, rest) };
        if is_table {
            out += &match first.strip_suffix(':') {
                Some(words) => heading(words),
                None if first.is_empty() => ".PP\n".to_owned(),
                None => format!("{}{}\n", heading("output"), escaped(first)),
            };
            let lines: String =
                rest.lines().map(|line| escaped(line.strip_prefix("  ").unwrap_or(line)) + "\n").collect();
            out += &format!(".nf\n{lines}.fi\n");
            continue;
        }
        match first.split_once(": ").filter(|(words, _)| words.split(' ').count() <= 2) {
            Some((words, _)) => {
                let body = capital(paragraph.get(words.len() + 2..).unwrap_or_default());
                out += &format!("{}{}\n", heading(words), escaped(&body));
            }
            None if out.is_empty() => out += &format!("{}{}\n", heading("notes"), escaped(paragraph)),
            None => out += &format!(".PP\n{}\n", escaped(paragraph)),
        }
    }
    out
}

fn heading(words: &str) -> String {
    format!(".SH \"{}\"\n", escaped(&words.to_uppercase()))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Text that roff shows as it is.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq").replace('\'', "\\(aq");
    text.lines()
        .map(|line| if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\n")
}

fn see_also(command: &Command, name: &str) -> String {
    let mut pages: Vec<String> = ALSO
        .iter()
        .filter(|(page, section)| (*page, *section) != (name, "1"))
        .map(|(page, section)| format!(".BR {page} ({section})"))
        .collect();
    let below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    pages.extend(below.map(|below| format!(".BR {} (1)", below.get_display_name().unwrap_or(below.get_name()))));
    format!(".SH \"SEE ALSO\"\n{}\n", pages.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_help_says_below_the_options_becomes_sections() {
        let text = "Examples:\n  nlmmap a -- b    does\n\nExit status: that of b;\n.it is-so.\n\nMore words.";
        let wanted = ".SH \"EXAMPLES\"\n.nf\nnlmmap a \\-\\- b    does\n.fi\n.SH \"EXIT STATUS\"\nThat of b;\n\\&.it is\\-so.\n.PP\nMore words.\n";
        assert_eq!(sections(text), wanted);
    }

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = super::super::Arguments::command();
        command.build();
        write_all(&command, directory.path()).unwrap();
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let all = [
            "-capture",
            "-demo",
            "-doctor",
            "-policy-check",
            "-policy-messages",
            "-policy-suggest",
            "-policy",
            "-run",
            "-serve",
            "-stat",
            "-top",
            "",
        ];
        assert_eq!(names, all.map(|name| format!("nlmmap{name}.1")));
        let serve = fs::read_to_string(directory.path().join("nlmmap-serve.1")).unwrap();
        for part in [
            ".SH NAME",
            ".SH SYNOPSIS",
            ".SH OPTIONS",
            ".SH \"CONFIGURATION\"",
            ".SH \"EXIT STATUS\"",
            ".BR nlmmap.toml (5)",
        ] {
            assert!(serve.contains(part), "{part}:\n{serve}");
        }
    }
}
