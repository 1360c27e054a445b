//! Who calls: what the kernel tells of the thread behind a request.
//!
//! Until its request is answered that thread sleeps in the kernel: it cannot end, and cannot change its credentials or
//! namespaces, so everything read from `/proc` here is what the request was made with.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use cuse_rs::{Caller, Errno};

use super::rights::{self, Rights};

/// `PF_IO_WORKER` and `PF_KTHREAD`: threads that act for others. Their own credentials may be older than those they act
/// with, which nothing tells us.
const PROXIES: u64 = 0x10 | 0x20_0000;

/// A client, as it opened the node.
#[derive(Clone, Debug)]
pub struct Client {
    pub pid: u32,
    pub uid: u32,
    pub command: String,
    /// Capabilities it had then. No later request has more, whoever sends it: what the kernel asks of the opener of a
    /// socket, asked of the opener of the node.
    pub caps: u64,
}

impl Client {
    /// Looks at whoever opens the node.
    ///
    /// # Errors
    /// Why it cannot be served, in words, and as the client gets it.
    pub fn new(caller: &Caller) -> Result<Client, (Errno, String)> {
        let refuse = |why: &str| Err((Errno::EPERM, why.to_owned()));
        if caller.tid == 0 {
            return refuse("its process is not visible in the daemon's pid namespace");
        }
        match same_user_namespace(caller.tid) {
            Ok(true) => {}
            Ok(false) => return refuse("it is in another user namespace than the daemon"),
            Err(error) => {
                return Err((Errno::EPERM, format!("its user namespace cannot be read: {error}")));
            }
        }
        let status = fs::read_to_string(format!("/proc/{}/status", caller.tid)).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Ok(Client {
            pid: field("Tgid:").and_then(|pid| pid.parse().ok()).unwrap_or(caller.tid),
            uid: caller.uid,
            command: field("Name:").unwrap_or("?").to_owned(),
            caps: capabilities(caller.tid),
        })
    }

    /// The rights of a later request.
    pub fn rights(&self, caller: &Caller) -> Rights {
        // Nothing in common: no need to ask further.
        let caps = if self.caps == 0 || caller.tid == 0 { 0 } else { self.caps & capabilities(caller.tid) };
        Rights { uid: caller.uid, gid: caller.gid, caps }
    }
}

/// Capabilities of a thread, in the daemon's user namespace.
fn capabilities(tid: u32) -> u64 {
    match rights::effective(tid) {
        Ok(0) | Err(_) => 0,
        // In a user namespace of its own everybody has them all, and they mean nothing here.
        Ok(caps) if matches!(same_user_namespace(tid), Ok(true)) && !is_proxy(tid) => caps,
        Ok(_) => 0,
    }
}

fn same_user_namespace(tid: u32) -> io::Result<bool> {
    /// The daemon's own: while it lives there, no other has these numbers.
    static OURS: OnceLock<(u64, u64)> = OnceLock::new();
    let numbers = |path: &str| fs::metadata(path).map(|there| (there.dev(), there.ino()));
    let ours = match OURS.get() {
        Some(ours) => *ours,
        None => {
            let ours = numbers("/proc/self/ns/user")?;
            *OURS.get_or_init(|| ours)
        }
    };
    Ok(numbers(&format!("/proc/{tid}/ns/user"))? == ours)
}

/// Whether a thread acts for others; unsure means yes.
fn is_proxy(tid: u32) -> bool {
    let stat = fs::read(format!("/proc/{tid}/stat")).unwrap_or_default();
    flags(&stat).is_none_or(|flags| flags & PROXIES != 0)
}

/// The field `flags` of `/proc/PID/stat`: the seventh behind the name, which is in parentheses and may hold anything.
fn flags(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(6)?.parse().ok()
}

/// The caller's network namespace; `None` when it is the daemon's own.
pub fn network_namespace(tid: u32) -> io::Result<Option<File>> {
    let file = File::open(format!("/proc/{tid}/ns/net"))?;
    let (its, ours) = (file.metadata()?, fs::metadata("/proc/thread-self/ns/net")?);
    Ok(((its.dev(), its.ino()) != (ours.dev(), ours.ino())).then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_behind_any_name() {
        let line = b"7 (a) b) (c) S 1 7 7 0 -1 4194320 99 0 0 0";
        assert_eq!(flags(line), Some(4_194_320));
        assert_eq!(flags(b"7 (x S 1"), None);
        assert_eq!(flags(b""), None);
        assert!(flags(line).unwrap() & PROXIES != 0);
    }

    #[test]
    fn this_thread_is_itself() {
        let tid = nix::unistd::gettid().as_raw().cast_unsigned();
        assert!(same_user_namespace(tid).unwrap());
        assert!(!is_proxy(tid));
        assert!(network_namespace(tid).unwrap().is_none());
        assert!(is_proxy(u32::MAX));
    }
}
