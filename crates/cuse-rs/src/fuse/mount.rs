//! Mounting and unmounting without help from `fusermount`, and clearing what a dead daemon left.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};

use crate::Errno;
use crate::error::Error;

const TYPE: &str = "fuse.cuse-rs";
/// Of this thread, not of the process: threads can have mount namespaces of their own.
const TABLE: &str = "/proc/thread-self/mountinfo";
/// How long a mount that is in the way may take to show that it is alive.
const PROBE: Duration = Duration::from_secs(5);

pub(crate) struct Options<'a> {
    pub(crate) source: &'a str,
    pub(crate) max_read: u32,
}

/// A mount of ours. It is not unmounted by drop.
pub(crate) struct Mount {
    path: PathBuf,
    /// Device number of the mounted file system: no other has it while the mount lives.
    device: String,
    /// The mount table of the namespace it was made in.
    table: Option<File>,
}

impl Mount {
    pub(crate) fn new(directory: &Path, fd: &OwnedFd, options: Options<'_>) -> Result<Self, Error> {
        let bad = |source| Error::Mountpoint { path: directory.into(), source };
        clear_dead_mount(directory)?;
        let path = directory.canonicalize().map_err(bad)?;
        // Of a live ring file the answer is cached or given; a dead one has been cleared.
        if !fs::metadata(&path).map_err(bad)?.is_dir() {
            return Err(bad(Errno::ENOTDIR.into()));
        }
        let data = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,default_permissions,allow_other,max_read={}",
            fd.as_raw_fd(),
            options.max_read
        );
        let data = CString::new(data).map_err(|error| bad(error.into()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount(options.source, &path, TYPE, flags, data.as_c_str()).map_err(
            |error| match Errno::from(error) {
                Errno::EPERM | Errno::EACCES => Error::Denied { what: format!("mounting on {}", path.display()) },
                Errno::ENODEV => Error::NoDriver { device: "/dev/fuse".into(), module: "fuse" },
                errno => bad(errno.into()),
            },
        )?;
        // Before the look: what changes after it is a change of this table.
        let table = File::open(TABLE).ok();
        let device = match top_mount(&path) {
            Ok(Some(entry)) => entry.device,
            // Without /proc there is nothing to compare with: then the path alone must do.
            _ => String::new(),
        };
        Ok(Self { path, device, table })
    }

    /// What becomes ready (`POLLPRI`) when something is mounted or unmounted.
    pub(crate) fn table(&self) -> Option<&File> {
        self.table.as_ref()
    }

    /// Whether the mount is nowhere any more in the namespace it was made in. Unsure means no.
    pub(crate) fn is_gone(&self) -> bool {
        let Some(mut table) = self.table.as_ref().filter(|_| !self.device.is_empty()) else {
            return false;
        };
        let mut text = Vec::new();
        let read = table.rewind().and_then(|()| table.read_to_end(&mut text));
        read.is_ok_and(|_| !text.is_empty()) && !lists(&text, &self.device)
    }

    /// Takes the mount away, open files or not; what is open fails once the connection closes.
    pub(crate) fn unmount(self) -> Result<(), Error> {
        if !self.device.is_empty() {
            match top_mount(&self.path).map_err(Error::os("reading /proc/thread-self/mountinfo"))? {
                Some(entry) if entry.device == self.device => {}
                // Somebody has unmounted it, or mounted over it: not ours to touch.
                _ => return Ok(()),
            }
        }
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(&self.path, flags) {
            // EINVAL: no mount there any more.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::Os { what: "unmounting", source: error.into() }),
        }
    }
}

/// The path as the mount table has it. A dead mount cannot be looked at: then its parent is.
fn resolve(directory: &Path) -> io::Result<PathBuf> {
    directory.canonicalize().or_else(|error| match (directory.parent(), directory.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => Ok(Path::new(".").canonicalize()?.join(name)),
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Err(error),
    })
}

/// Unmounts FUSE mounts whose daemon is dead from a directory, as [`RingFile::mount`](crate::RingFile::mount) does
/// before it mounts.
///
/// # Errors
///
/// [`Error::Mounted`] when the daemon is alive.
pub fn clear_dead_mount(directory: &Path) -> Result<(), Error> {
    let path = match resolve(directory) {
        Ok(path) => path,
        // Nothing there, nothing mounted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Mountpoint { path: directory.into(), source }),
    };
    while let Ok(Some(entry)) = top_mount(&path) {
        if !entry.kind.starts_with("fuse") || entry.kind == "fusectl" {
            return Ok(());
        }
        if is_alive(&path) {
            let mount = format!("{} {}", entry.kind, entry.source);
            return Err(Error::Mounted { path, mount });
        }
        rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| Error::Os { what: "unmounting a dead mount", source: error.into() })?;
    }
    Ok(())
}

/// `statfs` is never answered from a cache. A daemon that is stopped answers never, so the question
/// is asked by a thread of its own, which ends when the daemon goes on or dies.
fn is_alive(path: &Path) -> bool {
    let (tell, told) = mpsc::channel();
    let path = path.to_path_buf();
    let probe = thread::Builder::new().name("cuse-probe".into()).spawn(move || {
        let dead =
            matches!(rustix::fs::statfs(&path), Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED));
        let _ = tell.send(dead);
    });
    probe.is_err() || !told.recv_timeout(PROBE).unwrap_or(false)
}

/// A line of `/proc/thread-self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    device: String,
    kind: String,
    source: String,
}

/// The mount that a path shows, when the path is a mount point: the last that was mounted there.
fn top_mount(path: &Path) -> io::Result<Option<Entry>> {
    let table = fs::read(TABLE)?;
    Ok(find(&table, path.as_os_str().as_bytes()))
}

/// Whether a mount of this device number is in the table.
fn lists(table: &[u8], device: &str) -> bool {
    table.split(|&byte| byte == b'\n').any(|line| line.split(|&byte| byte == b' ').nth(2) == Some(device.as_bytes()))
}

fn find(table: &[u8], path: &[u8]) -> Option<Entry> {
    table.split(|&byte| byte == b'\n').rev().find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let device = fields.nth(2)?;
        let mountpoint = fields.nth(1)?;
        if unescape(mountpoint) != path {
            return None;
        }
        let mut after = fields.skip_while(|&field| field != b"-").skip(1);
        let text = |field: &[u8]| std::ffi::OsString::from_vec(unescape(field)).to_string_lossy().into_owned();
        let (kind, source) = (after.next()?, after.next().unwrap_or_default());
        Some(Entry { device: text(device), kind: text(kind), source: text(source) })
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |digit: &u8| (b'0'..=b'7').contains(digit);
        match after.get(..3) {
            Some(digits) if byte == b'\\' && digits.iter().all(octal) => {
                let value = digits.iter().fold(0u32, |value, d| value * 8 + u32::from(d - b'0'));
                out.push(value as u8);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /run/a\\040b rw,nosuid - fuse.cuse-rs old rw,user_id=0
31 30 0:26 / /run/a\\040b rw,nosuid shared:3 master:1 - fuse.cuse-rs new\\134x rw,user_id=0
broken line
";

    #[test]
    fn the_last_mount_on_a_path_counts() {
        let entry = find(TABLE, b"/run/a b").unwrap();
        let [device, kind, source] = ["0:26", "fuse.cuse-rs", "new\\x"].map(String::from);
        assert_eq!(entry, Entry { device, kind, source });
        assert_eq!(find(TABLE, b"/").unwrap().kind, "ext4");
        assert_eq!(find(TABLE, b"/run"), None);
        assert_eq!(find(b"", b"/"), None);
        assert!(lists(TABLE, "0:26") && lists(TABLE, "254:0"));
        assert!(!lists(TABLE, "0:2") && !lists(TABLE, "line") && !lists(b"", "0:26"));
    }

    #[test]
    fn escapes_of_the_mount_table() {
        assert_eq!(unescape(b"a\\040b\\134"), b"a b\\");
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\999"), b"\\999");
        assert_eq!(unescape(b"\\777"), b"\xff");
    }
}
