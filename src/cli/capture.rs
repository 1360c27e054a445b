//! `nlmmap capture`: what passes through rings, for Wireshark.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use nlmmap_ring::abi::status;
use nlmmap_ring::tap::{Record, kind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::complain;
use crate::see::pcapng::{self, Packet, Way};
use crate::see::place::{self, Found};
use crate::see::seen::family;
use crate::see::tapped::{Passed, Tapped};

/// Capture what passes through the rings of programs, as pcapng: for Wireshark, tshark and tcpdump -r.
///
/// Both ways, from when the capture begins. A comment on each packet tells its ring position and status. A capture that is
/// too slow misses messages, which the programs get all the same; the file says how many (interface statistics, drop
/// counts). Only the owner of a process, and root, can capture it.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Write to this file; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,

    /// Only the endpoints that this process made
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// Only this endpoint, as `nlmmap stat` names it
    #[arg(long, value_name = "PID.N")]
    endpoint: Option<String>,

    /// End after so many messages
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,

    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

const HELP: &str = "\
Examples:
  nlmmap capture -w rings.pcapng                       all that you may see, until Ctrl-C
  nlmmap capture -w - --pid 812 | tshark -r -          one program, decoded at once
  nlmmap capture -w rings.pcapng --endpoint 812.1 -c 100

Endpoints that are made while it runs are captured, too, from their next messages on. With --pid or --endpoint it ends \
when they do. Open files of a daemon (nlmmap serve) cannot be captured.";

/// Between two looks for messages, and for endpoints.
const TICK: Duration = Duration::from_millis(20);
const SEARCH: Duration = Duration::from_millis(250);

struct Endpoint {
    tapped: Tapped,
    found: Found,
    family: u16,
    /// Number of its interface.
    number: u32,
    received: u64,
    /// Drops that the file tells of.
    told: u64,
}

struct Capture<W: Write> {
    to: W,
    endpoints: HashMap<PathBuf, Endpoint>,
    interfaces: u32,
    messages: u64,
    dropped: u64,
}

pub fn main(arguments: &Arguments) -> ExitCode {
    let to: Box<dyn Write> = if arguments.write.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            complain(&"a capture is no text, and standard output is a terminal", &["-w FILE, or a pipe".to_owned()]);
            return ExitCode::FAILURE;
        }
        Box::new(io::stdout())
    } else {
        match File::create(&arguments.write) {
            Ok(file) => Box::new(file),
            Err(error) => {
                complain(&format!("{}: {error}", arguments.write.display()), &[]);
                return ExitCode::FAILURE;
            }
        }
    };
    // A reader that goes is an error to be told of, with the endpoints set free, and no sudden end.
    crate::sigpipe::ignore();
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, ended.clone()) {
            complain(&error, &[]);
            return ExitCode::FAILURE;
        }
    }
    let capture = Capture {
        to: BufWriter::with_capacity(1 << 16, to),
        endpoints: HashMap::new(),
        interfaces: 0,
        messages: 0,
        dropped: 0,
    };
    match capture.run(arguments, &ended) {
        Ok((messages, dropped)) => {
            eprintln!("nlmmap: {messages} messages captured, {dropped} missed");
            ExitCode::SUCCESS
        }
        Err(Ended::Nothing(cause, cures)) => {
            complain(&cause, &cures);
            ExitCode::FAILURE
        }
        // `tshark -c 10` and the like have what they wanted.
        Err(Ended::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Ended::Write(error)) => {
            complain(&format!("{}: {error}", arguments.write.display()), &[]);
            ExitCode::FAILURE
        }
    }
}

enum Ended {
    /// Cause and cures.
    Nothing(String, Vec<String>),
    Write(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Write(error)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

impl<W: Write> Capture<W> {
    fn run(mut self, arguments: &Arguments, ended: &AtomicBool) -> Result<(u64, u64), Ended> {
        let is_some = arguments.pid.is_some() || arguments.endpoint.is_some();
        let (began, mut search) = (Instant::now(), Instant::now());
        pcapng::section(&mut self.to)?;
        self.find(arguments)?;
        if is_some && self.endpoints.is_empty() {
            let cure = "nlmmap stat names those that can be captured; root sees everybody's".to_owned();
            return Err(Ended::Nothing("no such endpoint".to_owned(), vec![cure]));
        }
        self.to.flush()?;
        let is_enough = |messages: u64| arguments.count.is_some_and(|count| messages >= count);
        let is_late = || arguments.seconds.is_some_and(|seconds| began.elapsed() >= Duration::from_secs(seconds));
        while !ended.load(Ordering::Relaxed) && !is_enough(self.messages) && !is_late() {
            let more = self.read(arguments.count)?;
            self.to.flush()?;
            if search.elapsed() >= SEARCH {
                search = Instant::now();
                self.leave_dead(arguments.count)?;
                if is_some && self.endpoints.is_empty() {
                    break;
                }
                self.find(arguments)?;
            }
            if !more {
                thread::sleep(TICK);
            }
        }
        for endpoint in std::mem::take(&mut self.endpoints).into_values() {
            self.end(endpoint)?;
        }
        self.to.flush()?;
        Ok((self.messages, self.dropped))
    }

    /// Begins with endpoints that are new.
    fn find(&mut self, arguments: &Arguments) -> Result<(), Ended> {
        let found = place::look_beside(&|path| self.endpoints.contains_key(path));
        let wanted = found.into_iter().filter(|found| {
            arguments.pid.is_none_or(|pid| found.seen.pid == pid)
                && arguments.endpoint.as_ref().is_none_or(|id| found.id == *id)
        });
        for found in wanted {
            let tapped = match Tapped::start(&found) {
                Ok(tapped) => tapped,
                Err(cause) if arguments.pid.is_some() || arguments.endpoint.is_some() => {
                    return Err(Ended::Nothing(cause, Vec::new()));
                }
                // Others can be captured; this one is tried again.
                Err(_) => continue,
            };
            let seen = &found.seen;
            let what = format!("{}[{}] fd {} ({})", seen.command, seen.pid, seen.fd, family(seen.family));
            pcapng::interface(&mut self.to, &found.id, &what)?;
            let (number, family) = (self.interfaces, seen.family as u16);
            self.interfaces += 1;
            let endpoint = Endpoint { tapped, family, number, received: 0, told: 0, found };
            self.endpoints.insert(endpoint.found.path.clone(), endpoint);
        }
        Ok(())
    }

    /// Writes what has come. Whether there is more.
    fn read(&mut self, count: Option<u64>) -> Result<bool, Ended> {
        let (mut more, to, messages) = (false, &mut self.to, &mut self.messages);
        for endpoint in self.endpoints.values_mut() {
            more |= read_one(endpoint, to, messages, count)?;
        }
        Ok(more)
    }

    fn leave_dead(&mut self, count: Option<u64>) -> Result<(), Ended> {
        let is_over = |endpoint: &Endpoint| {
            endpoint.found.again().is_none() || !endpoint.found.users.iter().any(|pid| crate::see::live::is_alive(*pid))
        };
        let over: Vec<PathBuf> =
            self.endpoints.iter().filter(|(_, endpoint)| is_over(endpoint)).map(|(path, _)| path.clone()).collect();
        for path in over {
            if let Some(mut endpoint) = self.endpoints.remove(&path) {
                while read_one(&mut endpoint, &mut self.to, &mut self.messages, count)? {}
                self.end(endpoint)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, endpoint: Endpoint) -> Result<(), Ended> {
        let dropped = endpoint.tapped.dropped();
        self.dropped = self.dropped.saturating_add(dropped);
        pcapng::statistics(&mut self.to, endpoint.number, now(), endpoint.received, dropped)?;
        Ok(())
    }
}

fn read_one(
    endpoint: &mut Endpoint,
    to: &mut impl Write,
    messages: &mut u64,
    count: Option<u64>,
) -> Result<bool, Ended> {
    let Endpoint { tapped, family, number, received, told, .. } = endpoint;
    let mut failed = None;
    let result = tapped.each(|Passed { record, bytes }| {
        if count.is_some_and(|count| *messages >= count) {
            return Ok(());
        }
        if record.kind != kind::LOSS {
            *messages += 1;
            *received += 1;
        }
        let comment = comment(&record, bytes.len());
        let packet = Packet {
            interface: *number,
            time: record.time,
            way: if record.kind == kind::TX { Way::Out } else { Way::In },
            family: *family,
            bytes,
            whole: if record.kind == kind::LOSS { 0 } else { record.whole.max(bytes.len() as u32) },
            comment: &comment,
            dropped: record.dropped.saturating_sub(*told),
        };
        *told = record.dropped.max(*told);
        pcapng::packet(to, &packet).map_err(|error| {
            failed = Some(error);
            io::Error::from(io::ErrorKind::Interrupted)
        })
    });
    match (result, failed) {
        (_, Some(error)) => Err(error.into()),
        // What the process has spoilt is the end of its capture, and of none else's.
        (Err(_), None) => Ok(false),
        (Ok(more), None) => Ok(more),
    }
}

/// What the file says beside a message.
fn comment(record: &Record, kept: usize) -> String {
    let words = |error: u32| io::Error::from_raw_os_error(error.cast_signed()).to_string();
    let Record { position, whole, group, pid, .. } = record;
    match record.kind {
        kind::LOSS => format!("{whole} losses before this ({})", words(record.error)),
        kind::TX if record.error != 0 => format!("tx frame {position}: not sent: {}", words(record.error)),
        kind::TX => format!("tx frame {position}: sent, {whole} bytes"),
        _ => {
            let status = match record.status {
                status::VALID => "VALID",
                status::COPY if kept == 0 && *whole > 0 => "COPY, read before it was captured",
                status::COPY => "COPY",
                status::UNUSED => "VALID, released already",
                _ => "in a state that it was given by the program",
            };
            format!("rx frame {position}: {status}, {whole} bytes, group {group}, sender {pid}")
        }
    }
}
