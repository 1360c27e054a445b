//! Where metrics are served: a socket file, or a port that only this machine reaches.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::SockType;
use serde::Deserialize;
use toml::Value;

use crate::policy::config::{Accounts, System};
use crate::serve::{Failure, local};

/// The section `[metrics]`, as it is written.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    listen: Option<String>,
    group: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    File(PathBuf),
    Port(SocketAddr),
}

/// Where, and who beside root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    address: Address,
    group: Option<u32>,
}

const FORMS: &str = "use \"unix:/PATH\", \"127.0.0.1:PORT\" or \"[::1]:PORT\"";

fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match Path::new(path).is_absolute() && !path.ends_with('/') {
            true => Ok(Address::File(path.into())),
            false => Err(format!("{path:?} is no absolute path of a file: {FORMS}")),
        };
    }
    let Ok(port) = text.parse::<SocketAddr>() else {
        return Err(format!("this is no place to listen at: {FORMS}"));
    };
    if !port.ip().is_loopback() {
        return Err(format!(
            "{} is no loopback address, and others than this machine's users could read which programs run here: {FORMS}; \
             a proxy may offer it to those who shall have it",
            port.ip()
        ));
    }
    if port.port() == 0 {
        return Err(format!("port 0 is another one each time, which nobody would find: {FORMS}"));
    }
    Ok(Address::Port(port))
}

impl Wanted {
    /// What it means; none if nothing is to be served.
    ///
    /// # Errors
    /// What is wrong, with the key.
    pub fn settle(&self) -> Result<Option<Place>, String> {
        let Some(listen) = &self.listen else {
            return match self.group {
                Some(_) => Err("[metrics] group: without listen there is no socket file that it could be of".into()),
                None => Ok(None),
            };
        };
        let address = address(listen).map_err(|why| format!("[metrics] listen = {listen:?}: {why}"))?;
        let group = match (&self.group, &address) {
            (None, _) => None,
            (Some(_), Address::Port(_)) => {
                return Err("[metrics] group: a port has none, everybody here can read it: use \"unix:/PATH\"".into());
            }
            (Some(Value::Integer(number)), _) => Some(
                u32::try_from(*number).map_err(|_| format!("[metrics] group = {number}: this is no group's number"))?,
            ),
            (Some(Value::String(name)), _) => {
                let known = System.group(name);
                Some(known.ok_or_else(|| {
                    format!("[metrics] group: no group is called {name:?}; make it with `groupadd --system {name}`")
                })?)
            }
            (Some(other), _) => return Err(format!("[metrics] group = {other}: use a name or a number")),
        };
        Ok(Some(Place { address, group }))
    }
}

impl Place {
    /// The socket file, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.address {
            Address::File(path) => Some(path),
            Address::Port(_) => None,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.address {
            Address::File(path) => write!(f, "unix:{}", path.display()),
            Address::Port(port) => port.fmt(f),
        }
    }
}

enum Socket {
    File(UnixListener, PathBuf),
    Port(TcpListener),
}

/// A socket that listens. Dropped, its file is gone.
pub struct Listener {
    socket: Socket,
    at: String,
}

impl Listener {
    /// Listens. The caller may still make sockets and change owners.
    ///
    /// # Errors
    /// Why it cannot, and what helps.
    pub fn bind(place: &Place) -> Result<Listener, Failure> {
        let at = place.to_string();
        let done = match &place.address {
            Address::File(path) => file(path, place.group).map(|socket| Socket::File(socket, path.clone())),
            Address::Port(port) => {
                TcpListener::bind(port).and_then(|socket| socket.set_nonblocking(true).map(|()| Socket::Port(socket)))
            }
        };
        let socket = done.map_err(|error| failure(&at, &error))?;
        Ok(Listener { socket, at })
    }

    /// As it was configured.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// Readable when somebody has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::File(socket, _) => socket.as_fd(),
            Socket::Port(socket) => socket.as_fd(),
        }
    }

    /// Whoever has come. Does not wait.
    pub fn accept(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Socket::File(socket, _) => socket.accept().map(|(stream, _)| stream.into()),
            Socket::Port(socket) => socket.accept().map(|(stream, _)| stream.into()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::File(_, path) = &self.socket {
            local::remove(path);
        }
    }
}

fn failure(at: &str, error: &io::Error) -> Failure {
    let failure = |code| Failure::new(code, format!("cannot serve metrics at {at}: {error}"));
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => failure(3).cure("another program is there: choose another place ([metrics] listen)"),
        Some(libc::EAFNOSUPPORT | libc::EPERM) => failure(1).cure(
            "the service may have local sockets only (RestrictAddressFamilies=): use \"unix:/PATH\", or see \
             nlmmap.toml(5), METRICS, for a drop-in",
        ),
        Some(libc::ENOENT) => failure(1).cure("make its directory, or use one that is there: unix:/run/nlmmap/metrics"),
        _ => failure(1),
    }
}

/// A socket file that nobody can connect to before it has its mode and group.
fn file(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(io::Error::other("it is there and is no socket")),
        // One that answers, or has too much to do to answer, is somebody's; another has been left by somebody.
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            _ => return Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    local::listen(path, SockType::Stream, group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    fn settled(text: &str) -> Result<Option<Place>, String> {
        toml::from_str::<Wanted>(text).expect("a section").settle()
    }

    #[test]
    fn only_places_of_this_machine_are_taken() {
        let taken = |listen: &str| settled(&format!("listen = {listen:?}")).map(|place| place.unwrap().to_string());
        for place in ["unix:/run/nlmmap/metrics", "127.0.0.1:9765", "[::1]:1", "127.9.9.9:80"] {
            assert_eq!(taken(place), Ok(place.to_owned()));
        }
        for (place, why) in [
            ("0.0.0.0:9765", "no loopback address"),
            ("[::]:9765", "no loopback address"),
            ("192.0.2.1:9765", "no loopback address"),
            ("[::ffff:127.0.0.1]:80", "no loopback address"),
            ("localhost:80", "no place"),
            ("127.0.0.1", "no place"),
            ("127.0.0.1:0", "port 0"),
            ("unix:metrics", "no absolute path"),
            ("unix:/run/", "no absolute path"),
            ("", "no place"),
        ] {
            let said = taken(place).expect_err(place);
            assert!(said.starts_with("[metrics] listen = ") && said.contains(why) && said.contains(FORMS), "{said}");
        }
    }

    #[test]
    fn a_group_is_for_a_file_alone() {
        assert_eq!(settled(""), Ok(None));
        let group = |text: &str| settled(text).map(|place| place.and_then(|place| place.group));
        assert_eq!(group("listen = \"unix:/x\"\ngroup = \"root\""), Ok(Some(0)));
        assert_eq!(group("listen = \"unix:/x\"\ngroup = 7"), Ok(Some(7)));
        for wrong in [
            "group = 7",
            "listen = \"127.0.0.1:80\"\ngroup = 7",
            "listen = \"unix:/x\"\ngroup = \"nobody-of-this-name\"",
            "listen = \"unix:/x\"\ngroup = -1",
            "listen = \"unix:/x\"\ngroup = true",
        ] {
            assert!(group(wrong).unwrap_err().starts_with("[metrics] group"), "{wrong}");
        }
    }

    #[test]
    fn a_socket_file_is_taken_from_the_dead_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics");
        let place = Place { address: Address::File(path.clone()), group: None };
        let listener = Listener::bind(&place).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Listener::bind(&place).err().map(|failure| failure.code), Some(3));
        drop(listener);
        assert!(!path.exists());
        // What a killed one has left.
        let killed = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // A child that another test has forked meanwhile may have it too.
        nix::sys::socket::shutdown(killed.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        drop(Listener::bind(&place).unwrap());
        fs::write(&path, "mine").unwrap();
        assert_eq!(Listener::bind(&place).err().map(|failure| failure.code), Some(1));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
