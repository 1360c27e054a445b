//! Where a ring file is reached: the directory of its mount, and a link. What was there before is somebody's, unless a
//! killed daemon of this name has noted it as its own.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::lock::{Lock, Made};
use crate::serve::{Failure, local};

/// The directory of lock and control socket, in which the mount's may lie. Both files have modes of their own.
pub fn make_runtime(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// A directory that was made for the mount, and goes with it. One that was there stays.
pub struct Directory(PathBuf);

impl Directory {
    /// Makes it. `None` when it is not ours to remove.
    pub fn make(path: &Path, lock: &mut Lock) -> Result<Option<Directory>, Failure> {
        let ours = lock.left().directory.as_deref() == Some(path);
        if !ours && matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            lock.note(|made| made.directory = Some(path.into()));
        }
        // Whoever is to reach the ring file goes through it, whatever the daemon's file creation mask.
        let bad = |error| Failure::at_place(&format!("cannot make {}", path.display()), &error, "--path");
        match fs::create_dir(path) {
            Ok(()) => {
                let made = Directory(path.into());
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(bad)?;
                Ok(Some(made))
            }
            // Also a mount point whose daemon was killed: it cannot be looked at, and the mount clears it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(ours.then(|| Directory(path.into()))),
            Err(error) => Err(bad(error)),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        match fs::remove_dir(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot remove the directory {}", self.0.display());
            }
            _ => {}
        }
    }
}

/// A symbolic link to the ring file.
pub struct Link {
    path: PathBuf,
    target: PathBuf,
}

/// A link that may be made.
pub struct FreeLink(Link);

impl Link {
    /// Looks whether the link may be made: nothing is there, or a link of a dead daemon of this name.
    pub fn check(path: &Path, target: &Path, left: &Made) -> Result<FreeLink, Failure> {
        let bad = |error| Failure::at_place(&format!("cannot look at {}", path.display()), &error, "--link");
        let taken = |what: String| {
            let cause = format!("{} exists and is {what}", path.display());
            Err(Failure::new(3, cause).cure("remove it, or choose another --link"))
        };
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_symlink() => {
                let leads = fs::read_link(path).map_err(bad)?;
                // One to our own ring file leads to no other: the mount there will be ours.
                let dead = left.link.as_ref().is_some_and(|(link, old)| (&**link, old) == (path, &leads));
                if leads != target && !dead {
                    return taken(format!("a symbolic link to {}, which is not this daemon's", leads.display()));
                }
            }
            Ok(_) => return taken("no symbolic link".into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(bad(error)),
        }
        Ok(FreeLink(Link { path: path.into(), target: target.into() }))
    }

    fn remove(&self) {
        if fs::read_link(&self.path).is_ok_and(|leads| leads == self.target) {
            local::remove(&self.path);
        }
    }
}

impl FreeLink {
    /// Makes it, in the place of one that [`Link::check`] found to be a dead daemon's.
    pub fn make(self, lock: &mut Lock) -> Result<Link, Failure> {
        let FreeLink(link) = self;
        let bad = |error| Failure::at_place(&format!("cannot link {}", link.path.display()), &error, "--link");
        // Looked at again: time has passed.
        Link::check(&link.path, &link.target, lock.left())?;
        match fs::remove_file(&link.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(bad(error)),
            _ => {}
        }
        lock.note(|made| made.link = Some((link.path.clone(), link.target.clone())));
        symlink(&link.target, &link.path).map_err(bad)?;
        Ok(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes what a killed daemon of this name has left elsewhere than `directory` and `link`, which will be used again.
pub fn clear_left(lock: &mut Lock, directory: Option<&Path>, link: Option<&Path>) {
    let left = lock.left().clone();
    if let Some((path, target)) = left.link
        && link != Some(&path)
    {
        drop(Link { path, target });
        lock.note(|made| made.link = None);
    }
    if let Some(path) = left.directory
        && directory != Some(&path)
    {
        if let Err(error) = cuse_rs::clear_dead_mount(&path) {
            tracing::warn!(%error, "a killed daemon has left {}", path.display());
            return;
        }
        drop(Directory(path));
        lock.note(|made| made.directory = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_of_our_own_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (link, target) = (at("link"), at("node/n"));
        let none = Made::default();
        let code = |left: &Made| Link::check(&link, &target, left).err().map(|failure| failure.code);
        assert_eq!(code(&none), None, "nothing is there");
        fs::write(&link, "").unwrap();
        assert_eq!(code(&none), Some(3), "a file");
        fs::remove_file(&link).unwrap();
        symlink(at("other"), &link).unwrap();
        assert_eq!(code(&none), Some(3), "somebody's link");
        let dead = Made { link: Some((link.clone(), at("other"))), directory: None };
        assert_eq!(code(&dead), None, "a dead daemon's link to another directory");
        let elsewhere = Made { link: Some((at("elsewhere"), at("other"))), directory: None };
        assert_eq!(code(&elsewhere), Some(3), "a link where a dead daemon had none");
        fs::remove_file(&link).unwrap();
        symlink(&target, &link).unwrap();
        assert_eq!(code(&none), None, "a link to where our ring file will be");
    }
}
