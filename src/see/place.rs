//! The directories in which pages lie, and which of their files are to be believed.
//!
//! A program writes its endpoints' pages into a directory of its user's, `nlmmap` in `$XDG_RUNTIME_DIR` or the like; those of a
//! command that is summed up lie one below. Root looks into everybody's. What belongs to somebody else than its directory,
//! hangs, or leads elsewhere is passed over.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nlmmap_ring::card::Page;
use nlmmap_ring::sys::PAGE;

use super::missed;
use super::seen::{self, Seen};

/// Files that are looked at in one directory, and directories in all: more is not meant well.
const MOST: usize = 4096;

/// An endpoint whose page was found.
#[derive(Debug)]
pub struct Found {
    /// Name of its file: process and number.
    pub id: String,
    pub path: PathBuf,
    pub seen: Seen,
    /// Processes that use it, as far as they are told apart.
    pub users: Vec<u32>,
    /// Whether anybody does: the maker, or one that it has forked.
    pub alive: bool,
    /// Whether it is counted in the totals of its command.
    pub counted: bool,
    file: File,
}

impl Found {
    /// Looks again; `None`: it is over, or not what it was. A killed process's file stays.
    pub fn again(&self) -> Option<Seen> {
        if self.file.metadata().ok()?.nlink() == 0 {
            return None;
        }
        match read(&self.file) {
            Ok(page) => seen::read(&page),
            Err(error) => {
                missed::note(&self.path.display(), &error);
                Some(self.seen.clone())
            }
        }
    }
}

/// The user whose pages may be seen, and all their directories for root.
pub fn directories() -> Vec<PathBuf> {
    let uid = nix::unistd::geteuid();
    let mut all = Vec::new();
    if uid.is_root() {
        all.extend(entries(Path::new("/run/user")).map(|dir| dir.join("nlmmap")));
        for parent in ["/run", "/tmp"] {
            all.extend(entries(Path::new(parent)).filter(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                name.strip_prefix("nlmmap-").is_some_and(|uid| uid.parse::<u32>().is_ok())
            }));
        }
    } else {
        if let Some(dir) = env::var_os("XDG_RUNTIME_DIR") {
            all.push(Path::new(&dir).join("nlmmap"));
        }
        all.push(format!("/run/user/{uid}/nlmmap").into());
        all.push(format!("/run/nlmmap-{uid}").into());
        all.push(format!("/tmp/nlmmap-{uid}").into());
    }
    if let Some(wish) = env::var_os("NLMMAP_VIEW")
        && Path::new(&wish).is_absolute()
    {
        all.push(wish.into());
    }
    all.sort();
    all.dedup();
    all
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let seen = move |entry: io::Result<fs::DirEntry>| missed::seen(&"a directory", entry);
    missed::seen(&dir.display(), fs::read_dir(dir)).into_iter().flatten().filter_map(seen).map(|e| e.path()).take(MOST)
}

/// Whether it is a directory that only its owner can write to, and the owner is us or we are root; its owner.
fn owner(dir: &Path) -> Option<u32> {
    let about = missed::seen(&dir.display(), fs::symlink_metadata(dir))?;
    let me = nix::unistd::geteuid();
    let mine = about.uid() == me.as_raw() || me.is_root();
    (about.is_dir() && about.mode() & 0o077 == 0 && mine).then_some(about.uid())
}

/// A file that holds nothing up and leads nowhere else.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read(file: &File) -> io::Result<Page> {
    let mut page = Page::default();
    file.read_exact_at(page.bytes_mut(), 0)?;
    Ok(page)
}

/// The process and the number in a file's name.
fn endpoint(path: &Path) -> Option<(u32, u32)> {
    let (pid, number) = path.file_name()?.to_str()?.split_once('.')?;
    Some((pid.parse().ok()?, number.parse().ok()?))
}

/// A file of `/proc`; none of a process that is gone, or another's.
fn proc(path: String) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if missed::is_hidden(&error) => Ok(None),
        text => text.map(Some),
    }
}

/// Fields 22 and 28 of `/proc/PID/stat`: when the process began, and where its stack does, which is 0 for those who may not
/// know.
fn began(pid: u32) -> io::Result<Option<(u64, u64)>> {
    Ok(proc(format!("/proc/{pid}/stat"))?.as_deref().and_then(beginning))
}

fn beginning(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    let start = fields.nth(22 - 3)?.parse().ok()?;
    let stack = fields.nth(28 - 22 - 1)?.parse().ok()?;
    Some((start, stack))
}

/// Whether a process has a file mapped: it may have become another program since it noted that.
fn has_mapped(pid: u32, file: &fs::Metadata) -> io::Result<bool> {
    let inode = file.ino().to_string();
    let maps = proc(format!("/proc/{pid}/maps"))?.unwrap_or_default();
    Ok(maps.lines().any(|line| line.split_ascii_whitespace().nth(4) == Some(inode.as_str())))
}

/// Looks at one file of a directory that belongs to `uid`.
fn find(path: PathBuf, uid: u32) -> Option<Found> {
    endpoint(&path)?;
    missed::seen(&path.display(), find_as(&path, uid)).flatten()
}

/// An error: who uses it cannot be said.
fn find_as(path: &Path, uid: u32) -> io::Result<Option<Found>> {
    let file = open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != uid || about.len() != PAGE as u64 {
        return Ok(None);
    }
    let page = read(&file)?;
    let Some(seen) = seen::read(&page) else { return Ok(None) };
    let load = |word: &std::sync::atomic::AtomicU64| word.load(std::sync::atomic::Ordering::Relaxed);
    let small = |word: &std::sync::atomic::AtomicU32| word.load(std::sync::atomic::Ordering::Relaxed);
    let (start, stack) = (load(&page.card.start), load(&page.card.stack));
    let is_maker = small(&page.card.left) == 0
        && began(seen.pid)?.is_some_and(|(s, k)| start == 0 || s == start && (k <= 1 || stack <= 1 || k == stack));
    let mut users = if is_maker { vec![seen.pid] } else { Vec::new() };
    for pid in page.control.mappers.iter().filter(|m| small(&m.maps) > 0).map(|m| small(&m.pid)) {
        if pid != 0 && pid != seen.pid && has_mapped(pid, &about)? {
            users.push(pid);
        }
    }
    let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (alive, counted) = (!users.is_empty(), small(&page.card.counted) != 0);
    Ok(Some(Found { id, path: path.to_owned(), alive, seen, users, counted, file }))
}

/// Whether a file is one that a process has begun and, killed, not filled in.
fn is_unfinished(path: &Path, uid: u32) -> bool {
    let (Some((pid, _)), Ok(file)) = (endpoint(path), open(path)) else { return false };
    let is_his = file.metadata().is_ok_and(|about| about.is_file() && about.uid() == uid && about.len() <= PAGE as u64);
    let is_empty = read(&file).map_or(true, |page| page.card.version.load(std::sync::atomic::Ordering::Relaxed) == 0);
    is_his && is_empty && Path::new(&format!("/proc/{pid}")).try_exists().is_ok_and(|exists| !exists)
}

/// The endpoints that a directory shows, dead ones too.
pub fn inside(dir: &Path) -> Vec<Found> {
    inside_but(dir, &|_| false)
}

/// As [`inside`], but for files that are `known`.
fn inside_but(dir: &Path, known: &dyn Fn(&Path) -> bool) -> Vec<Found> {
    let Some(uid) = owner(dir) else { return Vec::new() };
    entries(dir).filter(|path| !known(path)).filter_map(|path| find(path, uid)).collect()
}

/// All living endpoints that the caller may see, by process and number. Files of the dead are taken away, except where a command
/// has yet to be summed up.
pub fn look() -> Vec<Found> {
    look_beside(&|_| false)
}

/// As [`look`], but for files that are `known`.
pub fn look_beside(known: &dyn Fn(&Path) -> bool) -> Vec<Found> {
    let mut all = Vec::new();
    for dir in directories() {
        let Some(uid) = owner(&dir) else { continue };
        let (living, dead): (Vec<_>, Vec<_>) = inside_but(&dir, known).into_iter().partition(|found| found.alive);
        for path in dead.into_iter().map(|found| found.path) {
            let _ = fs::remove_file(path);
        }
        for path in entries(&dir).filter(|path| !known(path) && is_unfinished(path, uid)) {
            let _ = fs::remove_file(path);
        }
        all.extend(living);
        for below in entries(&dir).filter(|path| is_run(path)) {
            all.extend(inside_but(&below, known).into_iter().filter(|found| found.alive));
        }
    }
    all.sort_by_key(|found| endpoint(&found.path));
    all
}

/// Prefix of the directory of a command that is summed up.
pub const RUN: &str = "run-";

fn is_run(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(RUN))
}

/// The caller's own directory, made if it is not there: the first that can be had of those that programs use.
pub fn own() -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let uid = nix::unistd::geteuid();
    let mut all = Vec::new();
    if !uid.is_root() {
        all.extend(env::var_os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("nlmmap")));
        all.push(format!("/run/user/{uid}/nlmmap").into());
    }
    all.push(format!("/run/nlmmap-{uid}").into());
    all.push(format!("/tmp/nlmmap-{uid}").into());
    let mut why = io::Error::from(io::ErrorKind::NotFound);
    for dir in all {
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                why = error;
                continue;
            }
        }
        if owner(&dir) == Some(uid.as_raw()) {
            return Ok(dir);
        }
        why = io::Error::other(format!("{} belongs to somebody else, or others may write to it", dir.display()));
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!(endpoint(Path::new("/x/12.3")), Some((12, 3)));
        for bad in ["totals", "1", "1.2.3", "-1.2", ".1", "99999999999.1"] {
            assert_eq!(endpoint(Path::new(bad)), None, "{bad}");
        }
    }

    #[test]
    fn this_process_began() {
        let (start, _) = began(std::process::id()).expect("/proc").expect("this process");
        assert!(began(u32::MAX).expect("/proc").is_none());
        assert!(start > 0);
    }
}
