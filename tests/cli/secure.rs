//! Secure execution: the judgement is compared with what kernel and dynamic linker really do.
//!
//! These need root, who alone can make set-user-id files of others and become somebody else.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{NLMMAP, clean, copy, directory, is_root, library, refused, shows_library, texts};

const NOBODY: u32 = 65534;
const MAIL: u32 = 8;

/// `nlmmap`, the library and `cat` where every user reaches them.
struct Place {
    dir: TempDir,
    cat: PathBuf,
}

impl Place {
    fn new() -> Option<Place> {
        if !is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let dir = directory();
        let put = |from: &Path, name: &str| {
            let to = dir.path().join(name);
            copy(from, &to, 0o755);
            to
        };
        put(Path::new(NLMMAP), "nlmmap");
        put(library(), "libnlmmap_preload.so");
        let cat = put(Path::new("/bin/cat"), "cat");
        Some(Place { dir, cat })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn mode(&self, owner: u32, group: u32, mode: u32) {
        chown(&self.cat, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&self.cat, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn run(&self, uid: u32, gid: u32) -> Command {
        let mut command = Command::new(self.path("nlmmap"));
        clean(&mut command).args(["run", "--"]).arg(&self.cat).arg("/proc/self/maps").uid(uid).gid(gid);
        command
    }

    /// Whether the dynamic linker takes the library when `cat` is simply started with it.
    fn really_entered(&self, command: &mut Command) -> bool {
        let lib = self.path("libnlmmap_preload.so");
        let (_, maps, _) = texts(&command.arg("/proc/self/maps").env("LD_PRELOAD", &lib).output().unwrap());
        shows_library(&maps, &lib)
    }

    fn bare(&self, uid: u32, gid: u32) -> Command {
        let mut command = Command::new(&self.cat);
        clean(&mut command).uid(uid).gid(gid);
        command
    }

    fn entered(&self, command: &mut Command) {
        let (status, maps, err) = texts(&command.output().unwrap());
        assert_eq!((status, err.as_str()), (Some(0), ""));
        assert!(shows_library(&maps, &self.path("libnlmmap_preload.so")), "{maps}");
    }
}

/// `setcap cap_net_raw+ep`, as bytes (`struct vfs_cap_data`, revision 2).
fn set_capabilities(path: &Path) {
    let value: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: both strings are terminated; the pointer and the length are those of `value`.
    let result = unsafe {
        libc::setxattr(path.as_ptr(), c"security.capability".as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn without_new_privileges(command: &mut Command) -> &mut Command {
    // SAFETY: one system call without pointers, between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    }
}

#[test]
fn a_set_user_id_program_is_refused_to_those_who_gain() {
    let Some(place) = Place::new() else { return };
    place.mode(0, 0, 0o4755);
    let cause = format!("{}: set-user-id (uid 0): the dynamic linker drops LD_PRELOAD for it", place.cat.display());
    refused(&mut place.run(NOBODY, NOBODY), 126, &cause, "sudo nlmmap run");
    assert!(!place.really_entered(&mut place.bare(NOBODY, NOBODY)));
    place.entered(&mut place.run(0, 0));
}

#[test]
fn a_set_user_id_program_of_another_is_refused_to_root() {
    let Some(place) = Place::new() else { return };
    place.mode(NOBODY, NOBODY, 0o4755);
    let cause =
        format!("{}: set-user-id (uid {NOBODY}): the dynamic linker drops LD_PRELOAD for it", place.cat.display());
    refused(&mut place.run(0, 0), 126, &cause, "sudo -u '#65534' nlmmap run");
    assert!(!place.really_entered(&mut place.bare(0, 0)));
    place.entered(&mut place.run(NOBODY, NOBODY));
}

#[test]
fn a_set_group_id_program_is_refused_to_those_who_gain() {
    let Some(place) = Place::new() else { return };
    place.mode(0, MAIL, 0o2755);
    let cause =
        format!("{}: set-group-id (gid {MAIL}): the dynamic linker drops LD_PRELOAD for it", place.cat.display());
    refused(&mut place.run(NOBODY, NOBODY), 126, &cause, "sudo -g '#8' nlmmap run");
    assert!(!place.really_entered(&mut place.bare(NOBODY, NOBODY)));
    place.entered(&mut place.run(NOBODY, MAIL));
    // Without the group's execute bit it means something else, and gives nothing.
    place.mode(0, MAIL, 0o2745);
    place.entered(&mut place.run(NOBODY, NOBODY));
}

#[test]
fn file_capabilities_are_refused_to_those_who_gain() {
    let Some(place) = Place::new() else { return };
    set_capabilities(&place.cat);
    let cause = format!("{}: has file capabilities: the dynamic linker drops LD_PRELOAD for it", place.cat.display());
    refused(&mut place.run(NOBODY, NOBODY), 126, &cause, "setpriv");
    assert!(!place.really_entered(&mut place.bare(NOBODY, NOBODY)));
    place.entered(&mut place.run(0, 0));
}

#[test]
fn without_new_privileges_set_ids_do_nothing_and_capabilities_still_count() {
    let Some(place) = Place::new() else { return };
    place.mode(0, 0, 0o6755);
    place.entered(without_new_privileges(&mut place.run(NOBODY, NOBODY)));
    place.mode(0, 0, 0o755);
    set_capabilities(&place.cat);
    let real = place.really_entered(without_new_privileges(&mut place.bare(NOBODY, NOBODY)));
    let judged = without_new_privileges(&mut place.run(NOBODY, NOBODY)).output().unwrap().status.success();
    assert_eq!(judged, real);
}
