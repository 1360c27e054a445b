//! Asking a daemon, which may be dead, stopped, or busy for longer than anybody wants to wait.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket};
use nix::sys::time::TimeVal;

use super::Snapshot;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug)]
pub enum Silence {
    /// The daemon of this process id is stopped by a signal.
    Stopped(i32),
    /// It runs (the process id, where that is known) and has not answered in time.
    Busy(Option<i32>),
    /// It has ended the connection without a word.
    Mute,
    /// Anything else.
    Error(io::Error),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Silence::Stopped(pid) => write!(f, "the daemon (pid {pid}) is stopped"),
            Silence::Busy(Some(pid)) => write!(f, "the daemon (pid {pid}) has not answered within {PATIENCE:?}"),
            Silence::Busy(None) => write!(f, "the daemon has not answered within {PATIENCE:?}"),
            Silence::Mute => f.write_str("the daemon has ended the connection without an answer"),
            Silence::Error(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Silence {
    fn from(error: io::Error) -> Silence {
        Silence::Error(error)
    }
}

/// Asks the daemon behind a control socket.
///
/// # Errors
/// Why it does not answer.
pub fn ask(path: &Path) -> Result<Snapshot, Silence> {
    let until = Instant::now() + PATIENCE;
    let mut stream = reach(path)?;
    let mut text = Vec::new();
    let mut part = vec![0; 1 << 16];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(silent(&stream));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(len) => text.extend_from_slice(part.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(silent(&stream)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if text.is_empty() {
        return Err(Silence::Mute);
    }
    Ok(serde_json::from_slice(&text).map_err(io::Error::from)?)
}

/// Connects: for a daemon that has not taken the last ones in, that waits too.
fn reach(path: &Path) -> Result<UnixStream, Silence> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(io::Error::from)?;
    let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&fd, SendTimeout, &patience).map_err(io::Error::from)?;
    let address = UnixAddr::new(path).map_err(io::Error::from)?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) => Ok(UnixStream::from(fd)),
        Err(nix::errno::Errno::EAGAIN) => Err(Silence::Busy(None)),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// Who does not answer, and what he does instead.
fn silent(stream: &UnixStream) -> Silence {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else {
        return Silence::Busy(None);
    };
    let stat = fs::read_to_string(format!("/proc/{}/stat", peer.pid())).unwrap_or_default();
    match stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next()) {
        Some("T" | "t") => Silence::Stopped(peer.pid()),
        _ => Silence::Busy(Some(peer.pid())),
    }
}
