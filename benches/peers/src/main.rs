//! `nlmmap-peers [--rounds N] [--quick] [--write FILE]`: RingSocket beside the libraries that people use for netlink, on the same work.
//!
//! Runs every way in alternation, each in a process and a network namespace of its own, as root. Prints a table, or writes it
//! between the markers of FILE. `peers one WORK WAY COUNT` is one run.

mod events;
mod meter;
mod queue;
mod table;
mod wire;

use std::ffi::c_int;
use std::process::{Command, ExitCode};

pub type Failure = Box<dyn std::error::Error>;
pub type Outcome = Result<(), Failure>;

// src/peers.c
unsafe extern "C" {
    fn peer_libnetfilter_queue(count: u64, judged: *mut u64, ready: extern "C" fn()) -> c_int;
    fn peer_libmnl_queue(count: u64, judged: *mut u64, ready: extern "C" fn()) -> c_int;
    fn peer_libmnl_events(count: u64, taken: *mut u64, refill: extern "C" fn()) -> c_int;
    fn peer_libnetfilter_conntrack(count: u64, taken: *mut u64, refill: extern "C" fn()) -> c_int;
}

fn foreign(result: c_int) -> Outcome {
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

fn run(command: &str) -> Outcome {
    let status = Command::new("sh").args(["-ec", command]).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command}: {status}").into()) }
}

fn set_option(socket: &impl std::os::fd::AsRawFd, option: c_int, value: c_int) -> Outcome {
    // SAFETY: an int and its size.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), 4) };
    foreign(set)
}

/// One way on one work, alone in its namespace.
fn one(work: &str, way: &str, count: u64) -> Outcome {
    // SAFETY: numbers only. The priority is for a quieter measurement, where it is permitted.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, -15);
        foreign(libc::unshare(libc::CLONE_NEWNET))?;
    }
    match work {
        "nfqueue-64" => queue::measure(way, 64, count),
        "nfqueue-1400" => queue::measure(way, 1400, count),
        "conntrack" => events::measure(way, count),
        _ => Err("no such work".into()),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["one", work, way, count] => count.parse().map_err(Failure::from).and_then(|count| one(work, way, count)),
        _ => table::options(&words).and_then(|options| table::all(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
