//! `nlmmap top`: the live table.

mod screen;
mod state;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{Signal, raise};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::SIGTERM;
use std::os::fd::AsFd;

use super::complain;
use crate::see::asked::Asked;
use crate::see::live::Live;
use state::{State, Step};

/// Watch sockets with rings: rates, occupancy, losses and their cure.
///
/// Shown are the endpoints of processes that have the library (a user's own, everybody's for root) and, for root, those of
/// a daemon. Looking costs the watched programs nothing.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Show only what this matches: a process id, a family (`route`), an endpoint (`812.1`), part of a command
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,

    /// Show only this process's endpoints
    #[arg(long, value_name = "PID", conflicts_with = "filter")]
    pid: Option<u32>,

    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,

    /// Name of the daemon's node
    #[arg(long, default_value = "nlmmap")]
    name: String,

    /// Directory of the daemon's control socket
    #[arg(long, value_name = "DIR", default_value = "/run/nlmmap")]
    runtime_dir: PathBuf,
}

const HELP: &str = "\
Keys:
  Up, Down, j, k   choose an endpoint        Enter  its details, and back
  s, S             sort by the next column, the one before
  r                turn the order round      /      filter by pid, family, endpoint or command
  Space, p         pause                     q      quit

Columns: RX/s, COPY/s and TX/s are messages a second; CALLS/s system calls on the real socket; OCC how much of the RX \
ring is filled, with ? when nobody has looked for a while; LOST all overruns, !! while they grow; LAG the age of the oldest message that was not released; CPU of \
the library's thread, or of the daemon's worker, which open files of one user in one place share.

NO_COLOR=1 leaves colours away. For scripts: nlmmap stat --json";

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("use a number from 0.1 to 60".into()),
    }
}

pub fn main(arguments: &Arguments) -> ExitCode {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let cures = ["for a file or a pipe: nlmmap stat, nlmmap stat --json".to_owned()];
        complain(&"top draws on a terminal, and this is none", &cures);
        return ExitCode::FAILURE;
    }
    let ended = Arc::new(AtomicBool::new(false));
    // Where that cannot be had, the signal leaves the terminal as it is. SIGHUP ends this as it ends any program: there is no
    // terminal to put in order.
    let _ = signal_hook::flag::register(SIGTERM, ended.clone());
    let filter = arguments.pid.map_or_else(|| arguments.filter.clone(), |pid| pid.to_string());
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => {
            complain(&format!("the terminal cannot be used: {error}"), &[]);
            return ExitCode::FAILURE;
        }
    };
    let socket = crate::serve::control_socket(&arguments.runtime_dir, &arguments.name);
    let daemon = Asked::start(socket, arguments.interval);
    let result = watch(&mut terminal, State::new(filter, arguments.pid.is_some()), arguments.interval, &daemon, &ended);
    ratatui::restore();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("the terminal cannot be used any more: {error}"), &[]);
            ExitCode::FAILURE
        }
    }
}

fn watch(
    terminal: &mut DefaultTerminal,
    mut state: State,
    interval: Duration,
    daemon: &Asked,
    ended: &AtomicBool,
) -> io::Result<()> {
    let mut live = Live::default();
    let mut next = Instant::now();
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    while !ended.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            if !state.paused {
                daemon.last(|daemon| live.look(now, daemon));
            }
            next = now + interval;
        }
        terminal.draw(|frame| screen::draw(frame, &mut state, &live, colour))?;
        // Until the next look, a key, a new size or the end, whichever is first; a signal interrupts nothing here.
        let wait = next.saturating_duration_since(Instant::now()).min(Duration::from_millis(500));
        wait_for_keys(wait)?;
        if !event::poll(Duration::ZERO)? {
            continue;
        }
        // All that has come: typing faster than this draws must not fall behind.
        loop {
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
            {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match (key.code, control) {
                    (KeyCode::Char('c'), true) => return Ok(()),
                    (KeyCode::Char('z'), true) => {
                        ratatui::restore();
                        let _ = raise(Signal::SIGTSTP);
                        *terminal = ratatui::try_init()?;
                    }
                    (KeyCode::Char('l'), true) => terminal.clear()?,
                    (code, _) => {
                        if state.key(code, &live) == Step::Quit {
                            return Ok(());
                        }
                    }
                }
            }
            wait_for_keys(Duration::ZERO)?;
            if !event::poll(Duration::ZERO)? {
                break;
            }
        }
    }
    Ok(())
}

/// Waits for keys or, interrupted, for a new size. An error when the terminal is gone, of which the library that reads it would read
/// nothing without end (SIGHUP may be ignored, by `nohup`).
fn wait_for_keys(limit: Duration) -> io::Result<()> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    match nix::poll::poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
        // A new size may have come without a key.
        Ok(0) | Err(Errno::EINTR) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    if fds.iter().any(|fd| fd.revents().is_some_and(|events| events.intersects(gone))) {
        return Err(io::Error::other("it is gone"));
    }
    Ok(())
}
