//! Developer commands: `cargo xtask COMMAND`.

mod bench;
mod cargo;
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

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo                    build everything and see a client of 2013 run: refused without nlmmap, served with it
  test [ARGS]             install with apt what the tests need, then run all of them; ARGS go to `cargo test`
  conformance [--update]  compare with the answers of Linux 3.10.108 and 4.5.0; --update rewrites differences.txt
  bench ...               measure the ring client beside plain socket loops
  fuzz ...                look for inputs that something fails on: [--minutes N | --seconds N] [--jobs N] [--grow] [TARGET...]
  coverage                how much of engine and codec their tests run through, and that it has not fallen
  rules                   the oldest toolchain builds the workspace, and its dependencies are what deny.toml lets them be
  loom                    run the engine's models: every order of a few threads' steps (part of `test`)
  miri ...                run the tests of engine and codec in the interpreter (nightly toolchain): [--seeds N (4)], within
                          [--minutes N (20)]
  asan                    run the engine's tests under the address sanitizer (nightly toolchain)
  attack [--seconds N]    every hostile client at once against one daemon, beside honest ones, for N seconds (1200)
  install --prefix DIR    build everything and put it there: command, libraries, header, pkg-config file, manual page
  deb [--revision TEXT]   make the Debian packages in target/deb
  package                 pack the crates as for a registry, and build each from its package (part of `test`)
  selftests [--brief] [WORD...]
                          Python's, Perl's and bash's own tests, unchanged: bare, with the library, and with rings beside them;
                          `test` runs the brief choice, a word chooses by name
  soak [--minutes N]      clients of all kinds at once, under the library and through the daemon, for N minutes (2); nobody may
                          lose, hang, or hold more in the end
  vm ...                  run tests in virtual machines with other kernels";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = args.split_first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match (command.as_str(), rest) {
        ("bench", rest) => bench::main(rest),
        ("coverage", []) => coverage::main(),
        ("deb", rest) => deb::main(rest),
        ("demo", rest) => demo(rest),
        ("fuzz", rest) => fuzz::main(rest),
        ("install", rest) => install::main(rest),
        ("attack", []) => test::attack("1200"),
        ("attack", [flag, seconds]) if flag == "--seconds" => test::attack(seconds),
        ("test", rest) => test::all(rest),
        ("conformance", []) => test::conformance(false),
        ("conformance", [update]) if update == "--update" => test::conformance(true),
        ("loom", []) => model::loom(|_| {}),
        ("package", []) => package::all(),
        ("miri", rest) => miri::main(rest),
        ("asan", []) => model::asan(),
        ("rules", []) => rules::check(true),
        ("selftests", rest) => selftests::main(rest),
        ("soak", rest) => soak::main(rest),
        ("vm", rest) => return vm::main(rest),
        ("help" | "--help" | "-h", _) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Builds what a user runs, then runs the demonstration.
fn demo(args: &[String]) -> Result<bool, String> {
    tools::need(&["gcc"])?;
    if !cargo::run(&["build", "--release"])? {
        return Ok(false);
    }
    let program = cargo::target_dir()?.join("release/nlmmap");
    let status = std::process::Command::new(&program).arg("demo").args(args).status();
    Ok(status.map_err(|e| format!("{}: {e}", program.display()))?.success())
}
