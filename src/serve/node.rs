//! Making the node, and everything beside it that has to vanish with it.
//!
//! | module | promise |
//! | --- | --- |
//! | [`lock`] | one daemon a name, and a note of what it has made, for the next one if it is killed |
//! | [`place`] | the directory and the link: taken only when they are nobody's, or a dead daemon's |

mod lock;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cuse_rs::{Cuse, Error, NodeKind, RingFile, Session};

pub use lock::Lock;
pub use place::make_runtime;
use place::{Directory, Link};

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

/// A node that exists. The fields go in order: first the link, then the directory.
pub struct Node {
    pub kind: NodeKind,
    /// Where clients open it.
    pub path: PathBuf,
    _link: Option<Link>,
    _directory: Option<Directory>,
}

fn failure(error: &Error) -> Failure {
    let code = match error {
        Error::NameInUse { .. } | Error::NumberInUse { .. } | Error::Mounted { .. } => 3,
        Error::NoDriver { .. } | Error::NoPassthrough | Error::Version { .. } => 4,
        Error::Denied { .. } => 5,
        _ => 1,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        Error::NoPassthrough => {
            failure.cure("serve a character device: --node cuse, or auto, which takes what there is")
        }
        _ => failure,
    }
}

/// Makes the node that the settings ask for.
pub fn make(
    settings: &Settings,
    lock: &mut Lock,
    device: impl Fn(NodeKind) -> Arc<Netlink>,
) -> Result<(Node, Session<Netlink>), Failure> {
    match settings.node {
        Kind::Fuse => fuse(settings, lock, device(NodeKind::Fuse)),
        Kind::Cuse => cuse(settings, lock, device(NodeKind::Cuse)),
        Kind::Auto => match fuse(settings, lock, device(NodeKind::Fuse)) {
            Err(failure) if failure.code == 4 => {
                tracing::info!("no ring file here ({}), trying a character device", failure.cause);
                cuse(settings, lock, device(NodeKind::Cuse))
            }
            made => made,
        },
    }
}

fn fuse(settings: &Settings, lock: &mut Lock, device: Arc<Netlink>) -> Result<(Node, Session<Netlink>), Failure> {
    let path = settings.path.join(&settings.name);
    place::clear_left(lock, Some(&settings.path), settings.link.as_deref());
    // Looked at before anything is made, and made last.
    let link = settings.link.as_deref().map(|link| Link::check(link, &path, lock.left())).transpose()?;
    let directory = Directory::make(&settings.path, lock)?;
    let session = RingFile::new(&settings.path, &settings.name)
        .mode(settings.mode)
        .owner(0, settings.group.unwrap_or(0))
        .max_read(FUSE_TRANSFER as u32)
        .max_write(FUSE_TRANSFER as u32)
        .mount(device)
        .map_err(|error| failure(&error))?;
    let link = link.map(|link| link.make(lock)).transpose()?;
    let shown = settings.link.clone().unwrap_or(path);
    Ok((Node { kind: NodeKind::Fuse, path: shown, _link: link, _directory: directory }, session))
}

fn cuse(settings: &Settings, lock: &mut Lock, device: Arc<Netlink>) -> Result<(Node, Session<Netlink>), Failure> {
    place::clear_left(lock, None, None);
    let session = Cuse::new(&settings.name)
        .mode(settings.mode)
        .owner(None, settings.group)
        .create(device)
        .map_err(|error| failure(&error))?;
    let path = Path::new("/dev").join(&settings.name);
    Ok((Node { kind: NodeKind::Cuse, path, _link: None, _directory: None }, session))
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
