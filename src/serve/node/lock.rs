//! The lock of a name, and in it a note of what its holder has made.
//!
//! The lock ends with its holder, however that ends; the file and the note do not. So whoever gets the lock reads there
//! what a killed daemon has left, and from then on that is its own.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::serve::{Failure, local};

/// A note longer than this is none of ours.
const LONGEST: u64 = 64 * 1024;

/// What a daemon makes beside the mount.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Made {
    /// The directory of the mount, if it was not there before.
    pub directory: Option<PathBuf>,
    /// The symbolic link to the ring file, and where it leads.
    pub link: Option<(PathBuf, PathBuf)>,
}

/// The right to serve a name. The file goes with it.
pub struct Lock {
    path: PathBuf,
    /// There, until it is dropped.
    file: Option<Flock<File>>,
    left: Made,
    made: Made,
}

impl Lock {
    /// Takes the lock file at `path`.
    pub fn take(path: &Path, name: &str) -> Result<Lock, Failure> {
        let bad =
            |error: io::Error| Failure::at_place(&format!("cannot lock {}", path.display()), &error, "--runtime-dir");
        loop {
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true).mode(0o600);
            // A link or a pipe in its place is not followed, and not waited for.
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            let file = options.open(path).map_err(bad)?;
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
                    let left = read(&file, &ours);
                    return Ok(Lock { path: path.into(), file: Some(file), made: left.clone(), left });
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(bad(error)),
                _ => {}
            }
        }
    }

    /// What a killed daemon of this name has left.
    pub fn left(&self) -> &Made {
        &self.left
    }

    /// Notes what is about to be made, or is gone, before it is.
    pub fn note(&mut self, change: impl FnOnce(&mut Made)) {
        change(&mut self.made);
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec(&self.made)
            .map_err(io::Error::from)
            .and_then(|text| file.set_len(0).and_then(|()| file.write_all_at(&text, 0)));
        if let Err(error) = written {
            let path = self.path.display();
            tracing::warn!(%error, "cannot write {path}: make room there, or after a kill the next daemon will not know what is left");
        }
    }
}

/// The note in a lock file. Nobody but the daemon's own user can have written one that counts.
fn read(file: &File, stat: &fs::Metadata) -> Made {
    let ours = stat.uid() == nix::unistd::geteuid().as_raw() && stat.mode() & 0o022 == 0;
    if !ours || stat.len() == 0 || stat.len() > LONGEST {
        return Made::default();
    }
    let mut text = vec![0; stat.len() as usize];
    let note = file.read_exact_at(&mut text, 0).ok().and_then(|()| serde_json::from_slice(&text).ok());
    note.unwrap_or_else(|| {
        tracing::warn!("the lock file holds no note that can be read: what a killed daemon left is not known");
        Made::default()
    })
}

impl Drop for Lock {
    fn drop(&mut self) {
        local::remove(&self.path);
        // Where it is refused (a file system of somebody else's), the lock ends with the process.
        if let Some(Err((held, _))) = self.file.take().map(Flock::unlock) {
            std::mem::forget(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_holder_reads_what_the_last_one_noted_and_only_that() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let mut first = Lock::take(&path, "x").unwrap();
        assert_eq!(first.left(), &Made::default());
        first.note(|made| made.directory = Some("/a".into()));
        first.note(|made| made.link = Some(("/l".into(), "/a/n".into())));
        assert_eq!(Lock::take(&path, "x").err().map(|failure| failure.code), Some(3));
        // As a kill leaves it: the lock is gone, the file is not.
        // SAFETY: a descriptor and a number.
        unsafe { libc::flock(std::os::fd::AsRawFd::as_raw_fd(&**first.file.as_ref().unwrap()), libc::LOCK_UN) };
        std::mem::forget(first);
        let second = Lock::take(&path, "x").unwrap();
        let both = Made { directory: Some("/a".into()), link: Some(("/l".into(), "/a/n".into())) };
        assert_eq!(second.left(), &both);
        drop(second);
        assert!(!path.exists());
        // Text that is no note, and a file that others may write.
        fs::write(&path, "rubbish").unwrap();
        assert_eq!(Lock::take(&path, "x").unwrap().left(), &Made::default());
        fs::write(&path, serde_json::to_vec(&both).unwrap()).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert_eq!(Lock::take(&path, "x").unwrap().left(), &Made::default());
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(Lock::take(&path, "x").err().map(|failure| failure.code), Some(1));
    }
}
