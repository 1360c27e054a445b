//! Developer commands: `cargo xtask COMMAND`.

mod bench;
mod cargo;
mod command;
mod coverage;
mod deb;
mod fuzz;
mod install;
mod miri;
mod model;
mod package;
mod rules;
mod selftests;
mod soak;
mod test;
mod tools;
mod vm;

use command::{Command, Fault, Words, judged};
use std::process::ExitCode;

const COMMANDS: [Command; 17] = [
    Command {
        name: "demo",
        arguments: "[ARGS]",
        does: "build everything and see a client of 2013 run: refused without nlmmap, served with it",
        more: "ARGS go to `nlmmap demo`. Its client is compiled with gcc, which apt installs if it is missing.",
        run: |words| demo(words).map(judged),
    },
    Command {
        name: "test",
        arguments: "[ARGS]",
        does: "install with apt what the tests need, then run all of them; ARGS go to `cargo test`",
        more: test::HELP,
        run: |words| test::all(words).map(judged),
    },
    Command {
        name: "conformance",
        arguments: "[--update]",
        does: "compare with the answers of Linux 3.10.108 and 4.5.0",
        more: "  --update  rewrite tests/conformance/differences.txt, the list of those that differ: each with its reason,\n            \
               which is kept",
        run: |words| test::conformance(words).map(judged),
    },
    Command {
        name: "bench",
        arguments: "[--quick] [--rounds N] [--write] [NAME...]",
        does: "measure the ring client beside plain socket loops",
        more: bench::HELP,
        run: |words| bench::main(words).map(judged),
    },
    Command {
        name: "fuzz",
        arguments: "[--seconds N | --minutes N] [--jobs N] [--grow] [TARGET...]",
        does: "look for inputs that something fails on",
        more: fuzz::HELP,
        run: |words| fuzz::main(words).map(judged),
    },
    Command {
        name: "coverage",
        arguments: "",
        does: "how much of engine and codec their tests run through, and that it has not fallen",
        more: "Fails below the floors that xtask/src/coverage.rs states. It needs llvm-cov: rustup component add llvm-tools",
        run: |words| Words::none(words).and_then(|()| Ok(judged(coverage::main()?))),
    },
    Command {
        name: "rules",
        arguments: "",
        does: "the oldest toolchain builds the workspace, and its dependencies are what deny.toml lets them be",
        more: "It needs that toolchain (rust-version in Cargo.toml) and cargo-deny, and says how to get what is missing.",
        run: |words| Words::none(words).and_then(|()| Ok(judged(rules::check(true)?))),
    },
    Command {
        name: "loom",
        arguments: "",
        does: "run the engine's models: every order of a few threads' steps (part of `test`)",
        more: "",
        run: |words| Words::none(words).and_then(|()| Ok(judged(model::loom(|_| {})?))),
    },
    Command {
        name: "miri",
        arguments: "[--seeds N] [--minutes N]",
        does: "run the tests of engine and codec in the interpreter (nightly toolchain)",
        more: miri::HELP,
        run: |words| miri::main(words).map(judged),
    },
    Command {
        name: "asan",
        arguments: "",
        does: "run the engine's tests under the address sanitizer (nightly toolchain)",
        more: "",
        run: |words| Words::none(words).and_then(|()| Ok(judged(model::asan()?))),
    },
    Command {
        name: "attack",
        arguments: "[--seconds N]",
        does: "every hostile client at once against one daemon, beside honest ones",
        more: "  --seconds N  for so long (1200)",
        run: |words| test::attack(words).map(judged),
    },
    Command {
        name: "install",
        arguments: "--prefix DIR [--libdir DIR] [--destdir DIR] [--profile PROFILE] [--only-c]",
        does: "build everything and put it there: command, libraries, header, pkg-config file, manual pages",
        more: install::HELP,
        run: |words| install::main(words).map(judged),
    },
    Command {
        name: "deb",
        arguments: "[--revision TEXT]",
        does: "make the Debian packages in target/deb",
        more: "  --revision TEXT  the part of their version behind the hyphen (1)",
        run: |words| deb::main(words).map(judged),
    },
    Command {
        name: "package",
        arguments: "",
        does: "pack the crates as for a registry, and build each from its package (part of `test`)",
        more: "",
        run: |words| Words::none(words).and_then(|()| Ok(judged(package::all()?))),
    },
    Command {
        name: "selftests",
        arguments: "[--brief] [--minutes N] [WORD...]",
        does: "Python's, Perl's, bash's and OpenSSH's own tests, unchanged: bare, with the library, and with rings\n\
               beside them; `test` runs the brief choice",
        more: selftests::HELP,
        run: |words| selftests::main(words).map(judged),
    },
    Command {
        name: "soak",
        arguments: "[--minutes N]",
        does: "clients of all kinds at once, under the library and through the daemon; nobody may lose, hang, or hold\n\
               more in the end",
        more: "  --minutes N  for so long (2)",
        run: |words| soak::main(words).map(judged),
    },
    Command {
        name: "vm",
        arguments: "fetch|run|cuse|device ...",
        does: "run tests in virtual machines with other kernels",
        more: vm::HELP,
        run: vm::main,
    },
];

fn overview() -> String {
    let lines: Vec<String> = COMMANDS.iter().map(Command::line).collect();
    format!(
        "usage: cargo xtask COMMAND [ARGUMENT...]\n\n{}\n\nCOMMAND --help says more of each. Exit status: 0 if all is well, 1 if something \
         is not, 2 for a wrong call.",
        lines.join("\n")
    )
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = words.split_first() else {
        eprintln!("{}", overview());
        return ExitCode::from(2);
    };
    let find = |name: &str| COMMANDS.iter().find(|command| command.name == name);
    match (name.as_str(), rest.first().and_then(|name| find(name))) {
        ("help", Some(command)) => command.answer(&["--help".to_string()]),
        ("help" | "--help" | "-h", _) => {
            command::print(&overview());
            ExitCode::SUCCESS
        }
        _ => match find(name) {
            Some(command) => command.answer(rest),
            None => {
                eprintln!("xtask: there is no command {name}\n\n{}", overview());
                ExitCode::from(2)
            }
        },
    }
}

/// Builds what a user runs, then runs the demonstration.
fn demo(words: &[String]) -> Result<bool, Fault> {
    tools::need(&["gcc"])?;
    if !cargo::run(&["build", "--release"])? {
        return Ok(false);
    }
    let program = cargo::target_dir()?.join("release/nlmmap");
    let status = std::process::Command::new(&program).arg("demo").args(words).status();
    Ok(status.map_err(|e| format!("{}: {e}", program.display()))?.success())
}

/// Nothing is built or fetched for a word that means nothing.
#[test]
fn each_command_refuses_what_it_does_not_know() {
    // What these do not know is for others to judge.
    for command in COMMANDS.iter().filter(|command| !["demo", "test"].contains(&command.name)) {
        let end = (command.run)(&["--no-such-option".to_string()]);
        assert_eq!(end.map_err(|fault| fault.status), Err(2), "{}", command.name);
    }
}
