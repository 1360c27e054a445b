//! `nlmmap capture`: what passes through rings, for Wireshark.

mod packet;
mod source;

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
use nlmmap_ring::tap::kind;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::complain;
use crate::see::{missed, pcapng};
use packet::About;
use source::{New, Refusal, Source, Sources};

/// Capture what passes through the rings of programs, as pcapng: for Wireshark, tshark and tcpdump -r.
///
/// Both ways, from when the capture begins. A comment on each packet tells its ring position and status. A capture that is
/// too slow misses messages, which the programs get all the same; the file says how many (interface statistics, drop
/// counts). Only the owner of a process, and root, can capture it; a daemon's open files are for root.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Write to this file; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,

    /// Only the endpoints that this process made
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// Only this endpoint: PID.N of a process, NAME:HANDLE of a daemon, as `nlmmap top` names it
    #[arg(long, value_name = "ID", conflicts_with = "pid")]
    endpoint: Option<String>,

    /// Only the open files of a daemon (nlmmap serve), with --pid those of one client
    #[arg(long, conflicts_with = "endpoint")]
    device: bool,

    /// End after so many messages
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,

    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,

    /// Name of the daemon's node
    #[arg(long, default_value = "nlmmap")]
    name: String,

    /// Directory of the daemon's sockets
    #[arg(long, value_name = "DIR", default_value = "/run/nlmmap")]
    runtime_dir: PathBuf,
}

const HELP: &str = "\
Examples:
  nlmmap capture -w rings.pcapng                       all that you may see, until Ctrl-C
  nlmmap capture -w - --pid 812 | tshark -r -          one program, decoded at once
  nlmmap capture -w rings.pcapng --endpoint 812.1 -c 100
  sudo nlmmap capture -w rings.pcapng --device         all that passes through a daemon's open files
  sudo nlmmap capture -w rings.pcapng --endpoint nlmmap:7

Endpoints that are made while it runs are captured, too, from their next messages on. With --pid or --endpoint it ends \
when they do, with --device when the daemon does.";

/// Between two looks for messages, and for endpoints.
const TICK: Duration = Duration::from_millis(20);
const SEARCH: Duration = Duration::from_millis(250);

struct Endpoint {
    source: Source,
    /// Number of its interface, and family; none before it has a socket.
    place: Option<(u32, u16)>,
    received: u64,
    /// Drops that the file tells of.
    told: u64,
}

struct Capture<W: Write> {
    to: W,
    sources: Sources,
    endpoints: HashMap<String, Endpoint>,
    interfaces: u32,
    messages: u64,
    dropped: u64,
    /// As many messages as shall be written.
    count: u64,
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
    let sources = match Sources::new(arguments) {
        Ok(sources) => sources,
        Err((cause, cures)) => {
            complain(&cause, &cures);
            return ExitCode::FAILURE;
        }
    };
    let capture = Capture {
        to: BufWriter::with_capacity(1 << 16, to),
        sources,
        endpoints: HashMap::new(),
        interfaces: 0,
        messages: 0,
        dropped: 0,
        count: arguments.count.unwrap_or(u64::MAX),
    };
    let done = capture.run(arguments.seconds.map(Duration::from_secs), &ended);
    missed::tell();
    match done {
        Ok(Done { messages, dropped, left_out }) => {
            eprintln!("nlmmap: {messages} messages captured, {dropped} missed");
            if left_out > 0 {
                eprintln!("nlmmap: {left_out} open files of the daemon were too many at a time, or captured already");
            }
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

struct Done {
    messages: u64,
    dropped: u64,
    left_out: usize,
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

impl From<Refusal> for Ended {
    fn from((cause, cures): Refusal) -> Ended {
        Ended::Nothing(cause, cures)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

impl<W: Write> Capture<W> {
    fn run(mut self, limit: Option<Duration>, ended: &AtomicBool) -> Result<Done, Ended> {
        let is_some = self.sources.wish().is_some();
        let (began, mut search) = (Instant::now(), Instant::now());
        pcapng::section(&mut self.to)?;
        self.find()?;
        if is_some && self.endpoints.is_empty() {
            let cure = "nlmmap stat names those that can be captured; root sees everybody's".to_owned();
            return Err(Ended::Nothing("no such endpoint".to_owned(), vec![cure]));
        }
        self.to.flush()?;
        let is_late = || limit.is_some_and(|limit| began.elapsed() >= limit);
        while !ended.load(Ordering::Relaxed) && self.messages < self.count && !is_late() {
            let more = self.read()?;
            self.to.flush()?;
            if search.elapsed() >= SEARCH {
                search = Instant::now();
                self.sources.leave_ended();
                self.leave_dead()?;
                if is_some && self.endpoints.is_empty() || !self.sources.may_go_on() {
                    break;
                }
                self.find()?;
            }
            if !more {
                thread::sleep(TICK);
            }
        }
        for endpoint in std::mem::take(&mut self.endpoints).into_values() {
            self.end(endpoint)?;
        }
        self.to.flush()?;
        Ok(Done { messages: self.messages, dropped: self.dropped, left_out: self.sources.left_out() })
    }

    /// Begins with endpoints that are new.
    fn find(&mut self) -> Result<(), Ended> {
        let endpoints = &self.endpoints;
        for New { id, about, source } in self.sources.find(&|id| endpoints.contains_key(id))? {
            let place = about.map(|about| self.announce(&id, &about)).transpose()?;
            self.endpoints.insert(id, Endpoint { source, place, received: 0, told: 0 });
        }
        let unknown: Vec<String> =
            self.endpoints.iter().filter(|(_, e)| e.place.is_none()).map(|(id, _)| id.clone()).collect();
        for id in unknown {
            if let Some(about) = self.sources.about(&id) {
                let place = Some(self.announce(&id, &about)?);
                self.endpoints.entry(id).and_modify(|endpoint| endpoint.place = place);
            }
        }
        Ok(())
    }

    /// An interface of the file.
    fn announce(&mut self, id: &str, (what, family): &(String, u16)) -> io::Result<(u32, u16)> {
        pcapng::interface(&mut self.to, id, what)?;
        let number = self.interfaces;
        self.interfaces += 1;
        Ok((number, *family))
    }

    /// Writes what has come. Whether there is more.
    fn read(&mut self) -> Result<bool, Ended> {
        let (mut more, to, messages) = (false, &mut self.to, &mut self.messages);
        for endpoint in self.endpoints.values_mut() {
            more |= read_one(endpoint, to, messages, self.count)?;
        }
        Ok(more)
    }

    fn leave_dead(&mut self) -> Result<(), Ended> {
        let over = self.endpoints.iter().filter(|(_, endpoint)| self.sources.is_over(&endpoint.source));
        let over: Vec<String> = over.map(|(id, _)| id.clone()).collect();
        for id in over {
            if let Some(mut endpoint) = self.endpoints.remove(&id) {
                while read_one(&mut endpoint, &mut self.to, &mut self.messages, self.count)? {}
                self.end(endpoint)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, mut endpoint: Endpoint) -> Result<(), Ended> {
        let dropped = endpoint.source.copies().dropped();
        self.dropped = self.dropped.saturating_add(dropped);
        self.sources.end(&endpoint.source);
        if let Some((number, _)) = endpoint.place {
            pcapng::statistics(&mut self.to, number, now(), endpoint.received, dropped)?;
        }
        Ok(())
    }
}

fn read_one(endpoint: &mut Endpoint, to: &mut impl Write, messages: &mut u64, count: u64) -> Result<bool, Ended> {
    let Endpoint { source, place, received, told } = endpoint;
    let Some((interface, family)) = *place else { return Ok(false) };
    let mut failed = None;
    let result = source.copies().each(|passed| {
        if *messages >= count {
            return Ok(());
        }
        let record = &passed.record;
        if record.kind != kind::LOSS {
            *messages += 1;
            *received += 1;
        }
        let dropped = record.dropped.saturating_sub(*told);
        *told = record.dropped.max(*told);
        packet::write(to, &passed, About { interface, family, dropped }).map_err(|error| {
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
