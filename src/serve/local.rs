//! Socket files: each is nobody's to connect to before it has its mode and its group.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as begin, socket};

/// Takes a socket away that a daemon of this name has left, which the caller's lock tells to be dead.
pub fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::other(format!("{} is there and is no socket", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes a file away at the end. Where that fails, people are told: nobody else will do it before the next daemon of this name.
pub fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "cannot remove {}", path.display());
        }
        _ => {}
    }
}

/// A socket file that listens: root's, and that of a group if there is one. Does not wait.
pub fn listen(path: &Path, kind: SockType, group: Option<u32>) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, kind, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    let ready = fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .and_then(|()| group.map_or(Ok(()), |group| chown(path, None, Some(group))))
        .and_then(|()| Ok(begin(&fd, Backlog::new(64)?)?));
    match ready {
        Ok(()) => Ok(fd.into()),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}
