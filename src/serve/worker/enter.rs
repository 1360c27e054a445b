//! Becoming a client: its namespaces, its ids, its capabilities, and nothing else.
//!
//! The order matters. Namespaces of network, processes and control groups first, as root; the ids by their numbers in the daemon's user
//! namespace, which need not be mapped in the client's; then that namespace, which gives every capability in it; then all of
//! them away but the client's.

use std::io;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns};

use crate::serve::abi::{self, Words};
use crate::serve::confine;

/// Who a worker is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Real, effective and saved ids, in the daemon's user namespace.
    pub uids: [u32; 3],
    pub gids: [u32; 3],
    pub groups: Vec<u32>,
    /// Effective capabilities, in the client's user namespace.
    pub caps: u64,
}

/// An identity on its way to the spawner.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Order {
    uids: [u32; 3],
    gids: [u32; 3],
    caps: u64,
    /// Which namespaces' descriptors come along: [`NET`], [`PID`], [`USER`], [`CGROUP`], in this order.
    namespaces: u32,
    groups: u32,
}

// SAFETY: integers without padding (6 of 4 bytes, one of 8, two of 4).
unsafe impl Words for Order {}

pub const NET: u32 = 1;
pub const PID: u32 = 2;
pub const USER: u32 = 4;
pub const CGROUP: u32 = 8;

impl Identity {
    /// Bytes for the spawner.
    pub fn order(&self, namespaces: u32) -> Vec<u8> {
        let Identity { uids, gids, caps, ref groups } = *self;
        let order = Order { uids, gids, caps, namespaces, groups: groups.len() as u32 };
        let mut bytes = abi::bytes(&order).to_vec();
        bytes.extend(groups.iter().flat_map(|group| group.to_ne_bytes()));
        bytes
    }

    /// The identity in those bytes, and which namespaces come along.
    pub fn ordered(bytes: &[u8]) -> Option<(Identity, u32)> {
        let (head, rest) = bytes.split_at_checked(size_of::<Order>())?;
        let Order { uids, gids, caps, namespaces, groups } = abi::read(head)?;
        let (groups_found, left) = rest.as_chunks::<4>();
        if groups_found.len() != groups as usize || !left.is_empty() {
            return None;
        }
        let groups = groups_found.iter().map(|group| u32::from_ne_bytes(*group)).collect();
        Some((Identity { uids, gids, groups, caps }, namespaces))
    }
}

/// The namespaces that are not the daemon's.
#[derive(Default)]
pub struct Namespaces {
    pub net: Option<OwnedFd>,
    pub pid: Option<OwnedFd>,
    pub user: Option<OwnedFd>,
    pub cgroup: Option<OwnedFd>,
}

const VERSION_3: u32 = 0x2008_0522;
/// `SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP`
const KEEP: libc::c_ulong = 1 << 4 | 1 << 2;
/// `SECBIT_NOROOT` and its lock beside them: no program is run, and if one were, it got nothing.
const NOROOT: libc::c_ulong = 0b11;

type Failure = (&'static str, io::Error);

fn done(result: libc::c_long, what: &'static str) -> Result<(), Failure> {
    if result < 0 { Err((what, io::Error::last_os_error())) } else { Ok(()) }
}

fn prctl(option: libc::c_int, value: libc::c_ulong, what: &'static str) -> Result<(), Failure> {
    // SAFETY: options that take numbers only.
    done(unsafe { libc::c_long::from(libc::prctl(option, value, 0, 0, 0)) }, what)
}

/// Permitted capabilities of this thread.
pub fn permitted() -> io::Result<u64> {
    capget().map(|sets| u64::from(sets[1]) | u64::from(sets[4]) << 32)
}

/// `effective, permitted, inheritable`, low halves and then high ones.
fn capget() -> io::Result<[u32; 6]> {
    let mut header = [VERSION_3, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 reads a header of two words and writes two times three.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    if result == 0 { Ok(data) } else { Err(io::Error::last_os_error()) }
}

/// Takes all but these out of the bounding set.
fn drop_bounding(kept: u64) -> Result<(), Failure> {
    for cap in (0..64).filter(|cap| kept >> cap & 1 == 0) {
        match prctl(libc::PR_CAPBSET_DROP, cap, "bounding set") {
            // Behind the last one this kernel has.
            Err((_, error)) if error.raw_os_error() == Some(libc::EINVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

/// Sets the effective and permitted set, and empties the others. What there is afterwards, and what was asked for.
fn set_capabilities(caps: u64) -> Result<([u32; 6], [u32; 6]), Failure> {
    // SAFETY: numbers only.
    done(unsafe { libc::c_long::from(libc::prctl(libc::PR_CAP_AMBIENT, 4, 0, 0, 0)) }, "ambient set")?;
    let [low, high] = [caps as u32, (caps >> 32) as u32];
    let (header, data) = ([VERSION_3, 0], [low, low, 0, high, high, 0]);
    // SAFETY: version 3 reads a header of two words and two times three words of sets.
    done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }, "capset")?;
    Ok((capget().map_err(|error| ("capget", error))?, data))
}

/// Leaves this thread, and those that it starts, no more than these of its capabilities.
pub fn keep_capabilities(kept: u64) -> io::Result<()> {
    let kept = kept & permitted()?;
    let (left, wanted) = drop_bounding(kept).and_then(|()| set_capabilities(kept)).map_err(|(_, error)| error)?;
    if left == wanted { Ok(()) } else { Err(io::Error::other("the capabilities are not as they were set")) }
}

/// The part that precedes the fork: a process id namespace is entered by children only.
pub fn before_fork(namespaces: &Namespaces) -> Result<(), Failure> {
    let enter = |fd: &Option<OwnedFd>, kind, what| match fd {
        Some(fd) => setns(fd, kind).map_err(|error| (what, error.into())),
        None => Ok(()),
    };
    enter(&namespaces.cgroup, CloneFlags::CLONE_NEWCGROUP, "entering its cgroup namespace")?;
    enter(&namespaces.net, CloneFlags::CLONE_NEWNET, "entering its network namespace")?;
    enter(&namespaces.pid, CloneFlags::CLONE_NEWPID, "entering its pid namespace")
}

/// The part behind it. Afterwards this process is the client, with less.
pub fn after_fork(who: &Identity, user: Option<&OwnedFd>) -> Result<(), Failure> {
    let ours = permitted().map_err(|error| ("capget", error))?;
    // SAFETY: the list is readable for its length.
    done(unsafe { libc::c_long::from(libc::setgroups(who.groups.len(), who.groups.as_ptr())) }, "setgroups")?;
    prctl(libc::PR_SET_SECUREBITS, KEEP, "securebits")?;
    let ([r, e, s], [rg, eg, sg]) = (who.uids, who.gids);
    // SAFETY: numbers only.
    done(unsafe { libc::c_long::from(libc::setresgid(rg, eg, sg)) }, "setresgid")?;
    // SAFETY: as above.
    done(unsafe { libc::c_long::from(libc::setresuid(r, e, s)) }, "setresuid")?;
    let mut caps = who.caps & ours;
    if let Some(user) = user {
        setns(user, CloneFlags::CLONE_NEWUSER).map_err(|error| ("entering its user namespace", error.into()))?;
        caps = who.caps & permitted().map_err(|error| ("capget", error))?;
    }
    drop_bounding(0)?;
    prctl(libc::PR_SET_SECUREBITS, KEEP | NOROOT, "securebits")?;
    // What is left is looked at, not believed.
    let (left, data) = set_capabilities(caps)?;
    let (uids, gids) = (nix::unistd::getresuid(), nix::unistd::getresgid());
    let is = |ok: bool, what| if ok { Ok(()) } else { Err((what, io::Error::other("not as it was set"))) };
    is(left == data, "capabilities")?;
    if user.is_none() {
        // Elsewhere the numbers are that namespace's.
        is(uids.is_ok_and(|ids| [ids.real, ids.effective, ids.saved].map(|id| id.as_raw()) == who.uids), "user ids")?;
        is(gids.is_ok_and(|ids| [ids.real, ids.effective, ids.saved].map(|id| id.as_raw()) == who.gids), "group ids")?;
    }
    // Cleared by every change of credentials, so last.
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, "parent death signal")?;
    prctl(libc::PR_SET_DUMPABLE, 0, "dumpable")?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")?;
    confine::worker().map_err(|error| ("seccomp", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive() {
        let who = Identity { uids: [1, 2, 3], gids: [4, 5, 6], groups: vec![7, 8], caps: 1 << 40 | 1 };
        let bytes = who.order(NET | USER);
        assert_eq!(Identity::ordered(&bytes), Some((who, NET | USER)));
        assert_eq!(Identity::ordered(&bytes[1..]), None);
        assert_eq!(Identity::ordered(&bytes[..bytes.len() - 4]), None);
    }
}
