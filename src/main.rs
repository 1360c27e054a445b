//! The `nlmmap` command.

mod cli;
mod policy;
mod preload;
mod program;
mod see;
mod serve;
mod sigpipe;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    sigpipe::restore();
    cli::main()
}
