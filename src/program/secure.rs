//! Secure execution: when the kernel sets `AT_SECURE`, the dynamic linker drops `LD_PRELOAD`.
//!
//! The rule is that of `cap_bprm_creds_from_file` (`security/commoncap.c`): the ids after the exec differ from the
//! real ids of the caller, or somebody who is not root is given capabilities by the file.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

/// Who runs the program.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Real and effective user id.
    pub uid: (u32, u32),
    /// Real and effective group id.
    pub gid: (u32, u32),
    /// `PR_SET_NO_NEW_PRIVS` is set: set-id bits do nothing.
    pub no_new_privs: bool,
    /// Ranges of ids that have a name in this user namespace (first, count); others cannot be taken on.
    pub uids: Vec<(u32, u32)>,
    /// The same for groups.
    pub gids: Vec<(u32, u32)>,
}

impl Caller {
    /// This process.
    pub fn current() -> io::Result<Caller> {
        let status = fs::read_to_string("/proc/self/status")?;
        let no_new_privs = status.lines().any(|l| l.split_whitespace().eq(["NoNewPrivs:", "1"]));
        let (u, g) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
        Ok(Caller {
            uid: (u.real.as_raw(), u.effective.as_raw()),
            gid: (g.real.as_raw(), g.effective.as_raw()),
            no_new_privs,
            uids: ranges(&fs::read_to_string("/proc/self/uid_map")?),
            gids: ranges(&fs::read_to_string("/proc/self/gid_map")?),
        })
    }
}

/// What a file's mode and attributes would give to the one who runs it.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Owner, when the set-user-id bit is on.
    pub setuid: Option<u32>,
    /// Group, when the set-group-id bit is on (and it does not mean mandatory locking).
    pub setgid: Option<u32>,
    /// File capabilities that are effective or permitted at once.
    pub capabilities: bool,
}

/// Why an exec is secure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The set-user-id bit gives this uid.
    Setuid(u32),
    /// The set-group-id bit gives this gid.
    Setgid(u32),
    /// The file has capabilities.
    Capabilities,
    /// The caller itself runs with ids that are not its real ones.
    Caller,
}

/// Reads the grants of the file at `path`; none on a file system mounted `nosuid`.
pub fn grants(path: &Path) -> io::Result<Grants> {
    let meta = fs::metadata(path)?;
    let mode = meta.mode();
    if statvfs(path)?.flags().contains(FsFlags::ST_NOSUID) {
        return Ok(Grants::default());
    }
    Ok(Grants {
        setuid: (mode & libc::S_ISUID != 0).then(|| meta.uid()),
        setgid: (mode & libc::S_ISGID != 0 && mode & libc::S_IXGRP != 0).then(|| meta.gid()),
        capabilities: gives_capabilities(&capability_attribute(path)?),
    })
}

/// Judges an exec of a file with `grants` by `caller`.
pub fn judge(caller: &Caller, grants: &Grants) -> Option<Reason> {
    let taken = |id: Option<u32>, map: &[(u32, u32)]| id.filter(|&id| !caller.no_new_privs && mapped(map, id));
    let setuid = taken(grants.setuid, &caller.uids);
    let setgid = taken(grants.setgid, &caller.gids);
    if let Some(uid) = setuid.filter(|&uid| uid != caller.uid.0) {
        return Some(Reason::Setuid(uid));
    }
    if let Some(gid) = setgid.filter(|&gid| gid != caller.gid.0) {
        return Some(Reason::Setgid(gid));
    }
    if setuid.unwrap_or(caller.uid.1) != caller.uid.0 || setgid.unwrap_or(caller.gid.1) != caller.gid.0 {
        return Some(Reason::Caller);
    }
    // Root has them all anyway; no_new_privs keeps the capabilities away and still counts as secure.
    (grants.capabilities && caller.uid.0 != 0).then_some(Reason::Capabilities)
}

/// Reads `struct vfs_cap_data` (`linux/capability.h`): revision and flags, then permitted and inheritable words.
fn gives_capabilities(attribute: &[u8]) -> bool {
    const REVISION: u32 = 0xff00_0000;
    const REVISION_3: u32 = 0x0300_0000;
    const EFFECTIVE: u32 = 1;
    let word = |i: usize| attribute.as_chunks().0.get(i).map_or(0, |b| u32::from_le_bytes(*b));
    // The kernel shows revision 3 only for a root that is not ours; ours looks like revision 2.
    if attribute.is_empty() || word(0) & REVISION == REVISION_3 {
        return false;
    }
    word(0) & EFFECTIVE != 0 || word(1) != 0 || word(3) != 0
}

fn capability_attribute(path: &Path) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut value = vec![0u8; 64];
    // SAFETY: both strings are terminated and live over the call, and the buffer's true length is given.
    let got = unsafe {
        libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    match usize::try_from(got) {
        Ok(len) => {
            value.truncate(len);
            Ok(value)
        }
        Err(_) => match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::ENOTSUP)) => Ok(Vec::new()),
            e => Err(e),
        },
    }
}

fn mapped(ranges: &[(u32, u32)], id: u32) -> bool {
    ranges.iter().any(|&(first, count)| id.checked_sub(first).is_some_and(|off| off < count))
}

/// Reads `/proc/PID/uid_map`: first id inside, first outside, count.
fn ranges(map: &str) -> Vec<(u32, u32)> {
    map.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::parse);
            Some((words.next()?.ok()?, words.nth(1)?.ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32) -> Caller {
        let all = ranges("         0          0 4294967295\n");
        Caller { uid: (uid, uid), gid: (uid, uid), no_new_privs: false, uids: all.clone(), gids: all }
    }

    #[test]
    fn set_id_bits_matter_only_when_they_change_the_caller() {
        let root = Grants { setuid: Some(0), ..Grants::default() };
        assert_eq!(judge(&caller(1000), &root), Some(Reason::Setuid(0)));
        assert_eq!(judge(&caller(0), &root), None);
        let mail = Grants { setgid: Some(8), ..Grants::default() };
        assert_eq!(judge(&caller(0), &mail), Some(Reason::Setgid(8)));
        assert_eq!(judge(&caller(8), &mail), None);
    }

    #[test]
    fn set_id_bits_do_nothing_without_new_privileges_or_a_mapping() {
        let root = Grants { setuid: Some(0), ..Grants::default() };
        assert_eq!(judge(&Caller { no_new_privs: true, ..caller(1000) }, &root), None);
        let inside = Caller { uids: ranges("1000 1000 1\n"), ..caller(1000) };
        assert_eq!(judge(&inside, &root), None);
    }

    #[test]
    fn a_caller_with_foreign_effective_ids_is_secure_for_every_program() {
        let borrowed = Caller { uid: (1000, 0), ..caller(1000) };
        assert_eq!(judge(&borrowed, &Grants::default()), Some(Reason::Caller));
    }

    #[test]
    fn file_capabilities_matter_to_all_but_root() {
        let caps = Grants { capabilities: true, ..Grants::default() };
        assert_eq!(judge(&caller(1000), &caps), Some(Reason::Capabilities));
        assert_eq!(judge(&caller(0), &caps), None);
    }

    #[test]
    fn capability_attributes_are_parsed() {
        // setcap cap_net_raw+ep: revision 2, effective, permitted bit 13
        let ep = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(gives_capabilities(&ep));
        // inheritable only: nothing is given by the exec itself
        let i = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(!gives_capabilities(&i));
        assert!(!gives_capabilities(&[]));
        let foreign = [&[1, 0, 0, 3, 0, 0x20, 0, 0][..], &[0; 12], &1000u32.to_le_bytes()].concat();
        assert!(!gives_capabilities(&foreign));
    }
}
