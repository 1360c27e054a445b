//! Looks at a device node before a program is given it: what is wrong with it is better said here than by the program.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf, absolute};

use nix::errno::Errno;
use nlmmap_ring::device_abi::{ABI, F_SOCKET_CALLS, NODE_CUSE, VERSION, Version};

use super::Failure;

/// A node that programs can have their netlink sockets from.
pub struct Node {
    pub path: PathBuf,
    pub kind: &'static str,
}

fn failure(path: &Path, cause: &str, cures: &[&str]) -> Failure {
    Failure(format!("{}: {cause}", path.display()), cures.iter().map(ToString::to_string).collect(), 126)
}

/// Opens the node as the program will, and asks what it is.
pub fn check(path: &Path) -> Result<Node, Failure> {
    let fail = |cause: &str, cures: &[&str]| failure(path, cause, cures);
    // The program may go to another directory.
    let whole = absolute(path).map_err(|e| fail(&e.to_string(), &[]))?;
    let file = File::options().read(true).write(true).open(path).map_err(|e| not_opened(path, &e))?;
    let mut version = Version::default();
    // SAFETY: the number has the structure's size.
    let asked = unsafe { libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(VERSION), &raw mut version) };
    match Errno::result(asked) {
        Ok(_) if version.abi != ABI => {
            let cause =
                format!("the daemon behind it has version {} of the interface, this program {ABI}", version.abi);
            Err(fail(&cause, &["restart the daemon with the nlmmap that you run"]))
        }
        Ok(_) if version.features & F_SOCKET_CALLS == 0 => Err(fail(
            "the daemon behind it is older than run --device",
            &["restart the daemon with the nlmmap that you run"],
        )),
        Ok(_) => {
            Ok(Node { path: whole, kind: if version.node == NODE_CUSE { "character device" } else { "ring file" } })
        }
        Err(Errno::ENOTTY | Errno::EINVAL) => {
            Err(fail("not a node that nlmmap serves", &["give the path that nlmmap serve says it serves"]))
        }
        Err(error) => Err(fail(&format!("does not answer: {}", error.desc()), &["look at the daemon's log"])),
    }
}

fn not_opened(path: &Path, error: &io::Error) -> Failure {
    const START: &str = "start the daemon: sudo nlmmap serve, or systemctl start nlmmap";
    match error.kind() {
        ErrorKind::NotFound if fs::symlink_metadata(path).is_ok() => {
            failure(path, "a link that leads nowhere: no daemon serves it", &[START])
        }
        ErrorKind::NotFound => failure(path, "no such node", &[START, "or give the path of the node that it serves"]),
        ErrorKind::IsADirectory => failure(path, "a directory", &["name the node inside it"]),
        ErrorKind::PermissionDenied => match fs::metadata(path) {
            Ok(there) if there.mode() & 0o600 != 0 && may_open(&there) => {
                failure(path, "the daemon refuses this program", &["its log says why (journalctl -u nlmmap)"])
            }
            Ok(there) => {
                let cause = format!("permission denied (mode {:o}, group {})", there.mode() & 0o777, there.gid());
                failure(path, &cause, &["become a member of its group", "or serve it with --group or --mode"])
            }
            Err(_) => failure(path, "permission denied on the way to it", &["look at the modes of its directories"]),
        },
        _ => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ENOTCONN | Errno::ENXIO | Errno::ENODEV | Errno::ECONNABORTED => {
                failure(path, "the daemon behind this node is gone", &[START])
            }
            Errno::EMFILE | Errno::ENFILE => failure(
                path,
                "the daemon has as many open files as it permits",
                &["raise its limits: nlmmap serve --help"],
            ),
            _ => failure(path, &error.to_string(), &[]),
        },
    }
}

/// Whether the mode permits it: then it was not the mode that refused.
fn may_open(there: &fs::Metadata) -> bool {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let is_node = there.file_type().is_file() || there.file_type().is_char_device();
    let shift = if there.uid() == uid.as_raw() {
        6
    } else if there.gid() == gid.as_raw() || groups.iter().any(|group| group.as_raw() == there.gid()) {
        3
    } else {
        0
    };
    is_node && (uid.is_root() || there.mode() >> shift & 0o6 == 0o6)
}
