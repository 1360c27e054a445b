//! Who calls, and from where: what the kernel tells of the thread behind a request.
//!
//! Until its request is answered that thread sleeps in the kernel: it cannot end, and cannot change its credentials or
//! namespaces, so everything read from `/proc` here is what the request was made with.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use cuse_rs::{Caller, Errno};

use super::worker::enter::{Identity, Namespaces};

/// `PF_IO_WORKER` and `PF_KTHREAD`: threads that act for others. Their own credentials may be older than those they act
/// with, which nothing tells us.
const PROXIES: u64 = 0x10 | 0x20_0000;

/// A namespace's numbers. While somebody lives in it no other has them.
type Numbers = (u64, u64);

/// A thread's place and what it may there: what decides over a netlink message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    user: Numbers,
    pid: Numbers,
    net: Numbers,
    cgroup: Numbers,
    pub who: Identity,
}

/// A client, as it opened the node.
#[derive(Clone, Debug)]
pub struct Client {
    pub pid: u32,
    pub uid: u32,
    pub command: String,
    /// Capabilities it had then, and the user namespace they were in. No later request has more, whoever sends it: what the
    /// kernel asks of the opener of a socket, asked of the opener of the node.
    caps: u64,
    user: Numbers,
}

fn numbers(tid: &str, namespace: &str) -> io::Result<Numbers> {
    fs::metadata(format!("/proc/{tid}/ns/{namespace}")).map(|there| (there.dev(), there.ino()))
}

/// A kernel without control groups has no namespaces of them.
fn if_there(numbers: io::Result<Numbers>) -> io::Result<Numbers> {
    match numbers {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Numbers::default()),
        numbers => numbers,
    }
}

/// `/proc/TID/status`
struct Status(String);

impl Status {
    fn read(tid: u32) -> io::Result<Status> {
        fs::read_to_string(format!("/proc/{tid}/status")).map(Status)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    }

    /// Real, effective, saved and file system id.
    fn ids(&self, name: &str) -> Option<[u32; 4]> {
        let mut ids = self.field(name)?.split_ascii_whitespace().map(str::parse);
        let mut next = || ids.next()?.ok();
        Some([next()?, next()?, next()?, next()?])
    }

    fn caps(&self) -> Option<u64> {
        u64::from_str_radix(self.field("CapEff:")?, 16).ok()
    }

    fn groups(&self) -> Option<Vec<u32>> {
        self.field("Groups:")?.split_ascii_whitespace().map(|group| group.parse().ok()).collect()
    }
}

impl Client {
    /// Looks at whoever opens the node.
    ///
    /// # Errors
    /// Why it cannot be served, in words, and as the client gets it.
    pub fn new(caller: &Caller) -> Result<Client, (Errno, String)> {
        if caller.tid == 0 {
            return Err((Errno::EPERM, "its process is not visible in the daemon's pid namespace".into()));
        }
        let bad = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| {
                let errno = match error.raw_os_error() {
                    Some(ours @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => Errno::new(ours),
                    _ => Errno::EPERM,
                };
                (errno, format!("its {what} cannot be read: {error}"))
            }
        };
        let status = Status::read(caller.tid).map_err(bad("status"))?;
        let user = numbers(&caller.tid.to_string(), "user").map_err(bad("user namespace"))?;
        Ok(Client {
            pid: status.field("Tgid:").and_then(|pid| pid.parse().ok()).unwrap_or(caller.tid),
            uid: caller.uid,
            command: status.field("Name:").unwrap_or("?").to_owned(),
            caps: if is_proxy(caller.tid).map_err(bad("stat"))? { 0 } else { status.caps().unwrap_or(0) },
            user,
        })
    }

    /// Where a later request comes from, and what it may there: no more than the opener, if that was in another user
    /// namespace, nothing that needs a capability. With it the process id, as the caller's own namespace has it.
    pub fn place(&self, caller: &Caller) -> io::Result<(Place, u32)> {
        let unreadable = || io::Error::from_raw_os_error(libc::EPERM);
        if caller.tid == 0 {
            return Err(unreadable());
        }
        let tid = caller.tid.to_string();
        let status = Status::read(caller.tid)?;
        let [user, pid, net, cgroup] = ["user", "pid", "net", "cgroup"].map(|namespace| numbers(&tid, namespace));
        let (user, pid, net, cgroup) = (user?, pid?, net?, if_there(cgroup)?);
        let [ruid, euid, suid, fsuid] = status.ids("Uid:").ok_or_else(unreadable)?;
        let [rgid, egid, sgid, fsgid] = status.ids("Gid:").ok_or_else(unreadable)?;
        let caps = if user == self.user { status.caps().unwrap_or(0) & self.caps } else { 0 };
        let who = if (fsuid, fsgid) != (caller.uid, caller.gid) || is_proxy(caller.tid)? {
            // It acts with credentials that are not its own: only their ids are known.
            Identity { uids: [caller.uid; 3], gids: [caller.gid; 3], groups: Vec::new(), caps: 0 }
        } else {
            let groups = status.groups().unwrap_or_default();
            Identity { uids: [ruid, euid, suid], gids: [rgid, egid, sgid], groups, caps }
        };
        let process = status.field("NStgid:").and_then(|ids| ids.split_ascii_whitespace().next_back()?.parse().ok());
        Ok((Place { user, pid, net, cgroup, who }, process.unwrap_or(0)))
    }
}

impl Place {
    /// The daemon's own place, as root with these capabilities.
    pub fn own(caps: u64) -> io::Result<Place> {
        let [user, pid, net, cgroup] = ["user", "pid", "net", "cgroup"].map(|namespace| numbers("self", namespace));
        let who = Identity { uids: [0; 3], gids: [0; 3], groups: Vec::new(), caps };
        Ok(Place { user: user?, pid: pid?, net: net?, cgroup: if_there(cgroup)?, who })
    }

    /// Descriptors of the namespaces that are not the daemon's. The caller waits for its answer.
    pub fn namespaces(&self, caller: &Caller) -> io::Result<Namespaces> {
        let tid = caller.tid.to_string();
        let open = |namespace: &str, its: Numbers| -> io::Result<Option<OwnedFd>> {
            if its == Numbers::default() || its == numbers("self", namespace)? {
                return Ok(None);
            }
            let file = File::open(format!("/proc/{tid}/ns/{namespace}"))?;
            let there = file.metadata()?;
            if (there.dev(), there.ino()) != its {
                return Err(io::Error::from_raw_os_error(libc::ESTALE));
            }
            Ok(Some(file.into()))
        };
        Ok(Namespaces {
            net: open("net", self.net)?,
            pid: open("pid", self.pid)?,
            user: open("user", self.user)?,
            cgroup: open("cgroup", self.cgroup)?,
        })
    }
}

/// Whether a thread acts for others; a line that says nothing of it means yes.
fn is_proxy(tid: u32) -> io::Result<bool> {
    let stat = fs::read(format!("/proc/{tid}/stat"))?;
    Ok(flags(&stat).is_none_or(|flags| flags & PROXIES != 0))
}

/// The field `flags` of `/proc/PID/stat`: the seventh behind the name, which is in parentheses and may hold anything.
fn flags(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(6)?.parse().ok()
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

    fn me() -> Caller {
        let tid = nix::unistd::gettid().as_raw().cast_unsigned();
        Caller { tid, uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    #[test]
    fn this_thread_is_itself() {
        let (client, me) = (Client::new(&me()).unwrap(), me());
        let (place, process) = client.place(&me).unwrap();
        assert_eq!(process, std::process::id());
        assert_eq!(place.who.uids, [me.uid; 3]);
        assert_eq!(place.who.caps, client.caps);
        assert_eq!(place, client.place(&me).unwrap().0);
        let namespaces = place.namespaces(&me).unwrap();
        assert!([namespaces.net, namespaces.pid, namespaces.user, namespaces.cgroup].iter().all(Option::is_none));
        assert!(!is_proxy(me.tid).unwrap());
        assert!(is_proxy(u32::MAX).is_err());
    }

    #[test]
    fn whoever_acts_with_other_ids_has_no_capabilities() {
        let (client, me) = (Client::new(&me()).unwrap(), me());
        let (place, _) = client.place(&Caller { uid: me.uid + 1, ..me }).unwrap();
        assert_eq!((place.who.uids, place.who.caps), ([me.uid + 1; 3], 0));
        let elsewhere = Client { user: (0, 0), ..client };
        assert_eq!(elsewhere.place(&me).unwrap().0.who.caps, 0);
    }
}
