//! The `nlmmap` command.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod cli;
mod policy;
mod preload;
mod program;
mod see;
mod serve;
mod sigpipe;
mod supervisor;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    sigpipe::restore();
    cli::main()
}
