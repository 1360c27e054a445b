//! Arguments, dispatch, and the one way in which failures are shown.

mod capture;
mod demo;
mod doctor;
mod manual;
mod policy;
mod run;
mod serve;
mod stat;
mod top;

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run programs that were written for memory-mapped netlink (NETLINK_RX_RING, NETLINK_TX_RING).
///
/// Linux had these rings from 3.10 to 4.5. On later kernels such a program stops with "Protocol not available"
/// (ENOPROTOOPT). nlmmap gives it its rings back, from userspace: no kernel module, no change to the program.
#[derive(Parser)]
#[command(name = "nlmmap", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nlmmap doctor                     what works on this machine, and why not
  nlmmap demo                       see it work: a client of 2013, real links, routes and packets
  nlmmap run -- ./collector -i eth0 run a program with its rings
  nlmmap run --check -- ./collector only say whether it can be run so
  nlmmap top                        watch what goes on in programs that have rings
  nlmmap stat                       the same once, also for scripts
  nlmmap capture -w FILE            what passes through their rings, for Wireshark
  sudo nlmmap serve                 a device node, for programs that open one

Each command explains itself: nlmmap run --help";

#[derive(Subcommand)]
enum Command {
    Run(run::Arguments),
    Doctor(doctor::Arguments),
    Demo(demo::Arguments),
    Serve(serve::Arguments),
    Stat(stat::Arguments),
    Top(top::Arguments),
    Capture(capture::Arguments),
    Policy(policy::Arguments),
    #[command(hide = true)]
    Manual(manual::Arguments),
}

/// Runs the command that the arguments ask for.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::main(arguments),
        Command::Doctor(arguments) => doctor::main(&arguments),
        Command::Demo(arguments) => demo::main(&arguments),
        Command::Serve(arguments) => serve::main(arguments),
        Command::Stat(arguments) => stat::main(&arguments),
        Command::Capture(arguments) => capture::main(&arguments),
        Command::Top(arguments) => top::main(&arguments),
        Command::Policy(arguments) => policy::main(arguments),
        Command::Manual(arguments) => manual::main(&arguments),
    }
}

/// Says on stderr what went wrong and what helps.
fn complain(cause: &dyn Display, cures: &[String]) {
    eprintln!("nlmmap: {cause}");
    for cure in cures {
        eprintln!("  cure: {cure}");
    }
}
