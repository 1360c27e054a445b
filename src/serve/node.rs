//! Making the node, and everything beside it that has to vanish with it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cuse_rs::{Cuse, Error, NodeKind, RingFile, Session};
use nix::fcntl::{Flock, FlockArg};

use super::device::Netlink;
use super::{Failure, Kind, Settings};

/// Of a CUSE connection; the kernel may cut a page earlier (a buffer that begins inside a page).
const CUSE_WRITE: usize = 128 * 1024;
/// Of a FUSE connection: more than the engine's largest message, so that a read is never continued in a second request.
const FUSE_TRANSFER: usize = 1024 * 1024;
const PAGE: usize = 4096;

/// The longest message that `write` takes whole.
pub const fn max_write(kind: NodeKind) -> usize {
    match kind {
        NodeKind::Fuse => FUSE_TRANSFER - PAGE - 1,
        NodeKind::Cuse => CUSE_WRITE - PAGE - 1,
    }
}

/// The right to serve a name. The file goes with it.
pub struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock file at `path`.
    pub fn take(path: &Path, name: &str) -> Result<Lock, Failure> {
        let bad = |error: io::Error| Failure::new(1, format!("cannot lock {}: {error}", path.display()));
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(path).map_err(bad)?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                    let cause = format!("the name {name:?} is served already: {} is locked", path.display());
                    return Err(Failure::new(3, cause).cure("stop that daemon, or choose another --name"));
                }
                Err((_, error)) => return Err(bad(error.into())),
            };
            // A daemon that ended in between has removed the file that we opened.
            let ours = file.metadata().map_err(bad)?;
            match fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Lock { path: path.into(), _file: file });
                }
                _ => {}
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A directory that was made for the mount, and goes with it. One that was there stays.
struct MadeDirectory(PathBuf);

impl Drop for MadeDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A symbolic link to the ring file.
struct Link {
    path: PathBuf,
    target: PathBuf,
}

impl Link {
    fn make(path: &Path, target: &Path) -> Result<Link, Failure> {
        let bad = |error: io::Error| Failure::new(1, format!("cannot link {}: {error}", path.display()));
        match fs::symlink_metadata(path) {
            // A link is what a killed daemon leaves behind; its name is ours, by the lock.
            Ok(there) if there.is_symlink() => fs::remove_file(path).map_err(bad)?,
            Ok(_) => {
                let cause = format!("{} exists and is no symbolic link", path.display());
                return Err(Failure::new(3, cause).cure("remove it, or choose another --link"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(bad(error)),
        }
        symlink(target, path).map_err(bad)?;
        Ok(Link { path: path.into(), target: target.into() })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if fs::read_link(&self.path).is_ok_and(|target| target == self.target) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A node that exists. The fields go in order: first the link, then the directory.
pub struct Node {
    pub kind: NodeKind,
    /// Where clients open it.
    pub path: PathBuf,
    _link: Option<Link>,
    _directory: Option<MadeDirectory>,
}

fn failure(error: &Error) -> Failure {
    let code = match error {
        Error::NameInUse { .. } | Error::NumberInUse { .. } | Error::Mounted { .. } => 3,
        Error::NoDriver { .. } | Error::NoPassthrough | Error::Version { .. } => 4,
        Error::Denied { .. } => 5,
        _ => 1,
    };
    Failure::new(code, error.to_string())
}

/// Makes the node that the settings ask for.
pub fn make(
    settings: &Settings,
    device: impl Fn(NodeKind) -> Arc<Netlink>,
) -> Result<(Session<Netlink>, Node), Failure> {
    match settings.node {
        Kind::Fuse => fuse(settings, device(NodeKind::Fuse)),
        Kind::Cuse => cuse(settings, device(NodeKind::Cuse)),
        Kind::Auto => match fuse(settings, device(NodeKind::Fuse)) {
            Err(failure) if failure.code == 4 => {
                tracing::info!("no ring file here ({}), trying a character device", failure.cause);
                cuse(settings, device(NodeKind::Cuse))
            }
            made => made,
        },
    }
}

fn fuse(settings: &Settings, device: Arc<Netlink>) -> Result<(Session<Netlink>, Node), Failure> {
    let directory = &settings.path;
    let made = match fs::create_dir(directory) {
        Ok(()) => Some(MadeDirectory(directory.clone())),
        // Also a mount point whose daemon was killed: it cannot be looked at, and the mount clears it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
        Err(error) => return Err(Failure::new(1, format!("cannot make {}: {error}", directory.display()))),
    };
    let session = RingFile::new(directory, &settings.name)
        .mode(settings.mode)
        .owner(0, settings.group.unwrap_or(0))
        .max_read(FUSE_TRANSFER as u32)
        .max_write(FUSE_TRANSFER as u32)
        .mount(device)
        .map_err(|error| failure(&error))?;
    let path = directory.join(&settings.name);
    let link = settings.link.as_deref().map(|link| Link::make(link, &path)).transpose()?;
    let shown = settings.link.clone().unwrap_or(path);
    Ok((session, Node { kind: NodeKind::Fuse, path: shown, _link: link, _directory: made }))
}

fn cuse(settings: &Settings, device: Arc<Netlink>) -> Result<(Session<Netlink>, Node), Failure> {
    let session = Cuse::new(&settings.name)
        .mode(settings.mode)
        .owner(None, settings.group)
        .create(device)
        .map_err(|error| failure(&error))?;
    let path = Path::new("/dev").join(&settings.name);
    Ok((session, Node { kind: NodeKind::Cuse, path, _link: None, _directory: None }))
}

/// Raises the number of descriptors to the most allowed: each open file takes three.
pub fn allow_many_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "cannot raise the limit of open descriptors from {soft}");
    }
}
