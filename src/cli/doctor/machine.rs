//! The machine: kernel, memory, permissions, devices, limits.

use std::fs::{self, OpenOptions};
use std::path::Path;

use nix::errno::Errno;

use super::{Check, State};
use crate::sys;

/// What `uname` says.
pub struct System {
    pub release: String,
    pub machine: String,
    version: (u32, u32),
}

impl System {
    /// Asks the kernel.
    pub fn read() -> System {
        let (release, machine) = match nix::sys::utsname::uname() {
            Ok(names) => {
                (names.release().to_string_lossy().into_owned(), names.machine().to_string_lossy().into_owned())
            }
            Err(_) => Default::default(),
        };
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        System { release, machine, version }
    }
}

/// The oldest kernel that nlmmap is made for.
pub fn kernel(system: &System) -> Check {
    let new = system.version >= (5, 4);
    let text = format!("Linux {}", system.release);
    match new {
        true => Check::new("kernel", "version", State::Ok, text),
        false => Check::new(
            "kernel",
            "version",
            State::Maybe,
            format!("{text}: older than 5.4, the oldest that is supported"),
        ),
    }
}

/// Rings of the kernel itself: the reason why anybody needs nlmmap.
pub fn kernel_rings() -> Check {
    let check = |state, why: &str| Check::new("kernel", "own rings", state, why);
    match sys::kernel_ring() {
        Ok(()) => check(State::Ok, "the kernel has netlink rings itself: programs need no nlmmap here"),
        Err(Errno::ENOPROTOOPT) => {
            check(State::No, "the kernel refuses netlink rings (ENOPROTOOPT), as all do since 4.6")
                .cure("nlmmap run -- PROGRAM")
        }
        Err(Errno::EPERM) => check(State::Maybe, "the kernel has netlink rings itself, for CAP_NET_ADMIN only (EPERM)"),
        Err(error) => {
            check(State::No, &format!("the kernel refuses netlink rings: {error}")).cure("nlmmap run -- PROGRAM")
        }
    }
}

/// The memory that the rings are made of.
pub fn memory() -> Check {
    let check = |state, why: String| Check::new("preload", "ring memory", state, why).needed();
    match sys::memory_object() {
        Ok(()) => check(State::Ok, "a sealed memfd can be made and mapped".to_owned()),
        Err((call, error)) => check(State::No, format!("{call}: {error}"))
            .cure("allow memfd_create, mmap and mremap in the seccomp filter, or raise the memory limit"),
    }
}

/// What the caller may do.
pub fn permissions() -> Vec<Check> {
    const NET_ADMIN: u64 = 1 << 12;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = field(&status, "CapEff:").and_then(|v| u64::from_str_radix(v, 16).ok());
    let admin = match effective {
        Some(caps) if caps & NET_ADMIN != 0 => Check::new("permissions", "CAP_NET_ADMIN", State::Ok, "effective"),
        Some(_) => Check::new(
            "permissions",
            "CAP_NET_ADMIN",
            State::Maybe,
            "not effective: rings work without it, except with --strict; what a program configures may need it",
        )
        .cure("sudo nlmmap run -- PROGRAM, for programs that need it anyway"),
        None => Check::new("permissions", "CAP_NET_ADMIN", State::Maybe, "unknown").cure("mount /proc"),
    };
    // PROC_USER_INIT_INO of linux/proc_ns.h
    let initial = fs::read_link("/proc/self/ns/user").map(|l| l == Path::new("user:[4026531837]"));
    let space = match initial {
        Ok(true) => Check::new("permissions", "user namespace", State::Ok, "the initial one"),
        Ok(false) => Check::new(
            "permissions",
            "user namespace",
            State::Maybe,
            "not the initial one: capabilities count only for network namespaces made inside; --strict refuses rings",
        ),
        Err(e) => {
            Check::new("permissions", "user namespace", State::Maybe, format!("unknown: {e}")).cure("mount /proc")
        }
    };
    vec![admin, space]
}

/// What a device node stands on.
pub fn devices(system: &System) -> Vec<Check> {
    const GROUP: &str = "device node (nlmmap serve)";
    let node = |name, path: &str, module: &str| {
        let check = |state, why: String| Check::new(GROUP, name, state, why);
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(_) => check(State::Ok, format!("{path} can be opened")),
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => check(State::No, format!("{path}: {e}"))
                    .cure(format!("modprobe {module}, or a kernel with CONFIG_{}", module.to_uppercase())),
                _ => check(State::No, format!("{path}: {e}")).cure("run as root, or give access to the node"),
            },
        }
    };
    let mapped = match system.version >= (6, 9) {
        true => {
            Check::new(GROUP, "fuse ring file", State::Ok, "Linux 6.9 or newer: a node's mmap can be the ring memory")
        }
        false => Check::new(GROUP, "fuse ring file", State::No, "needs FUSE passthrough, new in Linux 6.9")
            .cure("a newer kernel; the cuse device needs none"),
    };
    vec![node("fuse", "/dev/fuse", "fuse"), mapped, node("cuse", "/dev/cuse", "cuse")]
}

/// Filters and policies that may stand between.
pub fn sandbox() -> Vec<Check> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let seccomp = match field(&status, "Seccomp:") {
        Some("0") => Check::new("sandbox", "seccomp", State::Ok, "no filter"),
        Some(_) => {
            Check::new("sandbox", "seccomp", State::Maybe, "a filter is active; the lines above were tried under it")
        }
        None => Check::new("sandbox", "seccomp", State::Ok, "not in this kernel"),
    };
    let yama = match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").as_deref().map(str::trim) {
        Err(_) => Check::new("sandbox", "yama", State::Ok, "not in this kernel"),
        Ok("0") => Check::new("sandbox", "yama", State::Ok, "ptrace_scope 0"),
        Ok(scope) => Check::new(
            "sandbox",
            "yama",
            State::Maybe,
            format!(
                "ptrace_scope {scope}: no matter to the library; without root a supervisor serves its program, and not what that starts"
            ),
        ),
    };
    let privileges = match field(&status, "NoNewPrivs:") {
        Some("1") => Check::new(
            "sandbox",
            "no_new_privs",
            State::Maybe,
            "set: set-user-id programs gain nothing, and can be entered",
        ),
        _ => Check::new("sandbox", "no_new_privs", State::Ok, "not set"),
    };
    vec![seccomp, yama, privileges]
}

fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
