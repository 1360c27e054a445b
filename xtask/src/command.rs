//! What a developer command is, and how it is called: the same for all of them.
//!
//! `--help` (or `-h`) before any `--` is answered here, on standard output. What is wrong with a call is said by the command that reads
//! it ([`Words`]), with where help is, and ends with status 2.

use std::io::Write as _;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::str::FromStr;

/// Why a command has come to nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub status: u8,
    pub why: String,
}

/// The status of a wrong call.
const WRONG: u8 = 2;

impl Fault {
    /// The call is wrong: nothing was done.
    pub fn wrong(why: impl Into<String>) -> Fault {
        Fault { status: WRONG, why: why.into() }
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Fault {
        Fault { status: 1, why }
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Fault {
        Fault::from(why.to_string())
    }
}

/// A command of `cargo xtask`.
pub struct Command {
    pub name: &'static str,
    pub arguments: &'static str,
    /// What it does, in a line or two.
    pub does: &'static str,
    /// What there is to know beside that: options, and what else one may need.
    pub more: &'static str,
    /// Gives the exit status.
    pub run: fn(&[String]) -> Result<u8, Fault>,
}

impl Command {
    /// Does what the words say.
    pub fn answer(&self, words: &[String]) -> ExitCode {
        let asked = words.iter().take_while(|word| *word != "--");
        if asked.into_iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
            print(&self.help());
            return ExitCode::SUCCESS;
        }
        match (self.run)(words) {
            Ok(status) => ExitCode::from(status),
            Err(Fault { status, why }) => {
                eprintln!("xtask {}: {why}", self.name);
                if status == WRONG {
                    eprintln!("{}\ncargo xtask {} --help says more", self.usage(), self.name);
                }
                ExitCode::from(status)
            }
        }
    }

    fn usage(&self) -> String {
        format!("usage: cargo xtask {} {}", self.name, self.arguments).trim_end().to_string()
    }

    fn help(&self) -> String {
        format!("{}\n\n{}\n\n{}", self.usage(), self.does, self.more).trim_end().to_string()
    }

    /// Its line in the list of all.
    pub fn line(&self) -> String {
        format!("  {:12} {}", self.name, self.does.replace('\n', "\n               "))
    }
}

/// The words behind a command, one after the other.
pub struct Words<'a>(std::slice::Iter<'a, String>);

impl<'a> Words<'a> {
    pub fn of(words: &'a [String]) -> Words<'a> {
        Words(words.iter())
    }

    /// There are to be none.
    pub fn none(words: &[String]) -> Result<(), Fault> {
        words.first().map_or(Ok(()), |word| Err(unknown(word)))
    }

    /// The value of an option.
    pub fn value(&mut self, option: &str) -> Result<&'a str, Fault> {
        self.next().ok_or_else(|| Fault::wrong(format!("{option} needs a value")))
    }

    /// The value of an option, a number in these bounds.
    pub fn number<N: FromStr + PartialOrd + std::fmt::Display>(
        &mut self,
        option: &str,
        bounds: RangeInclusive<N>,
    ) -> Result<N, Fault> {
        let number = self.next().and_then(|word| word.parse().ok()).filter(|number| bounds.contains(number));
        number
            .ok_or_else(|| Fault::wrong(format!("{option} takes a number from {} to {}", bounds.start(), bounds.end())))
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.next().map(String::as_str)
    }
}

/// A word that the command does not know.
pub fn unknown(word: &str) -> Fault {
    let what = if word.starts_with('-') { "option" } else { "argument" };
    Fault::wrong(format!("there is no {what} {word}"))
}

/// Help, which nobody may want to read to its end.
pub fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The status of what has held, or has not.
pub fn judged(held: bool) -> u8 {
    u8::from(!held)
}

#[test]
fn words_are_read() {
    let words = ["--n", "7", "--n", "9", "--n"].map(str::to_string);
    let mut words = Words::of(&words);
    assert_eq!((words.next(), words.number("--n", 1..=8u16)), (Some("--n"), Ok(7)));
    let wrong = words.next().map(|option| words.number(option, 1..=8u16));
    assert_eq!(wrong, Some(Err(Fault::wrong("--n takes a number from 1 to 8"))));
    assert_eq!(words.next(), Some("--n"));
    assert_eq!(words.value("--n"), Err(Fault::wrong("--n needs a value")));
    assert_eq!(unknown("-x").why, "there is no option -x");
    assert_eq!(Words::none(&["x".to_string()]), Err(Fault { status: 2, why: "there is no argument x".into() }));
}
