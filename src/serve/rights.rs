//! Whose rights a thread acts with: a client's, for the time of a few system calls on that client's socket.
//!
//! Credentials belong to threads in the kernel; the raw system calls here change those of the calling thread alone
//! (the C library's wrappers would change all). What `netlink_capable` looks at is the effective capability set of the
//! sender, and what `SCM_CREDENTIALS` may name is the sender's effective user and group id: those three become the
//! client's. The real and the saved ids stay the daemon's, so that no client may signal or trace the thread meanwhile
//! (`kill_ok_by_cred`, `__ptrace_may_access`), and so that there is a way back.

use std::io;
use std::sync::OnceLock;

/// The part of a client's credentials that netlink asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    pub uid: u32,
    pub gid: u32,
    /// Effective capabilities, one bit each.
    pub caps: u64,
}

/// What the daemon itself may: permitted capabilities and group.
static OWN: OnceLock<(u64, u32)> = OnceLock::new();

const VERSION_3: u32 = 0x2008_0522;
const KEEP: libc::c_long = -1;

/// Notes the daemon's own credentials. They must be root's, as the way back to them has to be open.
pub fn note_own() -> Result<(), String> {
    let ids = nix::unistd::getresuid().map_err(|e| format!("getresuid: {e}"))?;
    if [ids.real, ids.effective, ids.saved].iter().any(|id| !id.is_root()) {
        return Err("the daemon must be root, with real, effective and saved user id 0: start it as root".into());
    }
    let permitted = capget(0).map_err(|e| format!("capget: {e}"))?.permitted;
    let _ = OWN.set((permitted, nix::unistd::getegid().as_raw()));
    Ok(())
}

struct Sets {
    effective: u64,
    permitted: u64,
}

/// Capabilities of a thread, by its id; 0 is the caller.
fn capget(tid: u32) -> io::Result<Sets> {
    let mut header = [VERSION_3, tid];
    let mut data = [0u32; 6];
    // SAFETY: version 3 reads a header of two words and writes two times three.
    let done = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(Sets { effective: join(data[0], data[3]), permitted: join(data[1], data[4]) })
}

/// Effective capabilities of a thread, relative to its own user namespace.
pub fn effective(tid: u32) -> io::Result<u64> {
    capget(tid).map(|sets| sets.effective)
}

fn set_effective(effective: u64, permitted: u64) -> bool {
    let header = [VERSION_3, 0];
    let halves = |set: u64| [set as u32, (set >> 32) as u32];
    let ([e0, e1], [p0, p1]) = (halves(effective), halves(permitted));
    let data = [e0, p0, 0, e1, p1, 0];
    // SAFETY: version 3 reads a header of two words and two times three words of sets.
    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) == 0 }
}

fn set_euid(uid: u32) -> bool {
    // SAFETY: numbers only.
    unsafe { libc::syscall(libc::SYS_setresuid, KEEP, libc::c_long::from(uid), KEEP) == 0 }
}

fn set_egid(gid: u32) -> bool {
    // SAFETY: numbers only.
    unsafe { libc::syscall(libc::SYS_setresgid, KEEP, libc::c_long::from(gid), KEEP) == 0 }
}

/// Goes back on drop, however the closure ended.
struct Back {
    uid: bool,
    gid: bool,
}

impl Drop for Back {
    fn drop(&mut self) {
        let (permitted, gid) = OWN.get().copied().unwrap_or_default();
        let back = (!self.uid || set_euid(0)) && set_effective(permitted, permitted) && (!self.gid || set_egid(gid));
        if !back {
            // A thread that is stuck with a client's rights would serve others wrongly. The kernel never refuses this way
            // back while the saved user id is 0.
            std::process::abort();
        }
    }
}

impl Rights {
    /// Runs `f` with these rights. Everything that touches a client's socket goes through here.
    pub fn with<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        let (permitted, own_gid) = *OWN.get().ok_or_else(|| io::Error::other("own rights not noted"))?;
        let mut back = Back { uid: false, gid: false };
        if self.gid != own_gid {
            if !set_egid(self.gid) {
                return Err(io::Error::last_os_error());
            }
            back.gid = true;
        }
        if self.uid != 0 {
            if !set_euid(self.uid) {
                return Err(io::Error::last_os_error());
            }
            back.uid = true;
        }
        // Changing the user id may have cleared the effective set, or not (securebits): it is set in any case.
        if !set_effective(self.caps & permitted, permitted) {
            return Err(io::Error::last_os_error());
        }
        Ok(f())
    }

    /// Rights to receive with: capabilities only.
    pub fn receiver(caps: u64) -> Rights {
        Rights { uid: 0, gid: OWN.get().map_or(0, |own| own.1), caps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (u32, u32, u32, u32) {
        let (u, g) = (nix::unistd::getresuid().unwrap(), nix::unistd::getresgid().unwrap());
        (u.real.as_raw(), u.effective.as_raw(), u.saved.as_raw(), g.effective.as_raw())
    }

    #[test]
    fn rights_are_the_clients_inside_and_the_daemons_after() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        note_own().unwrap();
        let before = effective(0).unwrap();
        let rights = Rights { uid: 4242, gid: 4343, caps: 1 << 12 };
        let inside = rights.with(|| (ids(), effective(0).unwrap())).unwrap();
        assert_eq!(inside, ((0, 4242, 0, 4343), 1 << 12));
        assert_eq!((ids().1, effective(0).unwrap()), (0, before));
        let other = std::thread::spawn(|| effective(0).unwrap());
        let seen = rights.with(|| other.join().unwrap()).unwrap();
        assert_eq!(seen, before, "other threads keep theirs");
        assert_eq!(Rights::receiver(0).with(|| effective(0).unwrap()).unwrap(), 0);
        assert_eq!(effective(0).unwrap(), before);
    }
}
