//! What this machine, or the control group that the daemon is in, has to give: memory and descriptors.

use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory: of the machine, or the smallest limit of the daemon's control group and those above it.
    pub memory: u64,
    /// Open descriptors that the daemon may have.
    pub descriptors: u64,
}

impl Machine {
    /// Looks.
    pub fn read() -> Machine {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard);
        let total = meminfo("MemTotal:").unwrap_or(u64::MAX);
        let memory = groups().iter().filter_map(Group::limit).fold(total, u64::min);
        Machine { memory, descriptors }
    }
}

/// Bytes that the daemon can have at this moment without anybody being killed for them, and for so many that others were charged for
/// and that it may come to be charged for. Unknown is no limit.
pub fn room(elsewhere: u64) -> u64 {
    let machine = meminfo("MemAvailable:").unwrap_or(u64::MAX);
    groups().iter().filter_map(Group::room).fold(u64::MAX, u64::min).saturating_sub(elsewhere).min(machine)
}

/// Who is charged for what a thread allocates.
#[derive(Debug)]
pub enum Purse {
    /// The control group that the daemon is in.
    Ours,
    /// Another one: its directory, and the bytes that it has left.
    Theirs { directory: File, room: u64 },
    /// Nobody can tell, and why.
    Unknown(String),
}

/// Where this thread's memory is charged.
pub fn purse(tid: u32) -> Purse {
    let read = |path: String| fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"));
    let found = || -> Result<Purse, String> {
        let (its, mounts) = (read(format!("/proc/{tid}/cgroup"))?, read("/proc/self/mountinfo".into())?);
        if its == read("/proc/self/cgroup".into())? {
            return Ok(Purse::Ours);
        }
        let groups = find_visible(&its, &mounts);
        let group = groups.first().ok_or("its control group is not in sight")?;
        if !groups.iter().any(Group::accounts) {
            return Err("no control group accounts for memory".into());
        }
        let ours = find_visible(&read("/proc/self/cgroup".into())?, &mounts);
        if ours.first().is_some_and(|ours| ours.directory == group.directory) {
            return Ok(Purse::Ours);
        }
        let directory = File::open(&group.directory).map_err(|e| format!("{}: {e}", group.directory.display()))?;
        Ok(Purse::Theirs { directory, room: groups.iter().filter_map(Group::room).fold(u64::MAX, u64::min) })
    };
    found().unwrap_or_else(Purse::Unknown)
}

fn meminfo(name: &str) -> Option<u64> {
    value(&fs::read_to_string("/proc/meminfo").ok()?, name).map(|kib| kib.saturating_mul(1024))
}

/// The number behind a name, at the beginning of a line.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// A control group of memory.
struct Group {
    directory: PathBuf,
    files: &'static Files,
}

/// How a version of control groups calls things.
struct Files {
    limits: &'static [&'static str],
    used: &'static str,
    /// Lines of `memory.stat`: what the kernel takes back before it kills.
    reclaimable: &'static [&'static str],
}

static V1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    reclaimable: &["total_inactive_file ", "total_active_file "],
};
static V2: Files = Files {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    reclaimable: &["inactive_file ", "active_file ", "slab_reclaimable "],
};

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        // "max" is no number, and no limit.
        fs::read_to_string(self.directory.join(file)).ok()?.trim().parse().ok()
    }

    fn limit(&self) -> Option<u64> {
        self.files.limits.iter().filter_map(|file| self.number(file)).min()
    }

    /// Whether memory is accounted for here, or in a part of it.
    fn accounts(&self) -> bool {
        self.directory.join(self.files.used).exists()
            || fs::read_to_string(self.directory.join("cgroup.controllers"))
                .is_ok_and(|controllers| controllers.split_whitespace().any(|controller| controller == "memory"))
    }

    fn room(&self) -> Option<u64> {
        let (limit, used) = (self.limit()?, self.number(self.files.used)?);
        let stat = fs::read_to_string(self.directory.join("memory.stat")).unwrap_or_default();
        let reclaimable: u64 = self.files.reclaimable.iter().filter_map(|name| value(&stat, name)).sum();
        Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
    }
}

/// The daemon's control groups of memory, the innermost first.
fn groups() -> Vec<Group> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    find(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

/// Those that memory is charged to, and no guess: the innermost of them has to be within the mount.
fn find_visible(membership: &str, mounts: &str) -> Vec<Group> {
    // Version 2 has memory where version 1 has none.
    let v1 =
        membership.lines().find(|line| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == "memory")));
    let v2 = membership.lines().find(|line| line.starts_with("0::"));
    let inner = |line: &str| {
        let (path, files) = (line.splitn(3, ':').nth(2)?, if line.starts_with("0::") { &V2 } else { &V1 });
        let (root, _) = mounts.lines().find_map(|mount| mounted(mount, files))?;
        let below = Path::new(path).strip_prefix(root).ok()?;
        below.components().all(|part| matches!(part, Component::Normal(_))).then(|| find(line, mounts))
    };
    v1.or(v2).and_then(inner).unwrap_or_default()
}

fn find(membership: &str, mounts: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let files = match controllers {
            "" => &V2,
            v1 if v1.split(',').any(|controller| controller == "memory") => &V1,
            _ => continue,
        };
        let Some((root, mount)) = mounts.lines().find_map(|mount| mounted(mount, files)) else {
            continue;
        };
        // The mount shows the hierarchy from `root` on; inside a container the path may begin elsewhere.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let inner: PathBuf = Path::new(mount).components().chain(below.components()).collect();
        let up = inner.ancestors().take_while(|directory| directory.starts_with(mount));
        groups.extend(up.map(|directory| Group { directory: directory.into(), files }));
    }
    groups
}

/// Root and mount point of a line of the mount table, if it is a hierarchy with memory of this version.
fn mounted<'m>(line: &'m str, files: &Files) -> Option<(&'m str, &'m str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let mut fields = file_system.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
    let fits = match kind {
        "cgroup2" => std::ptr::eq(files, &V2),
        "cgroup" => std::ptr::eq(files, &V1) && options.split(',').any(|option| option == "memory"),
        _ => false,
    };
    fits.then_some((root, point))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 20 0:26 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw
31 20 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 20 0:28 /docker/x /sys/fs/cgroup/memory rw shared:2 master:1 - cgroup cgroup rw,memory
";

    fn paths(membership: &str) -> Vec<String> {
        find(membership, MOUNTS).iter().map(|group| group.directory.display().to_string()).collect()
    }

    #[test]
    fn groups_are_found_up_the_tree_in_both_versions() {
        assert_eq!(
            paths("9:memory:/docker/x/a/b\n8:cpu:/\n"),
            ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"]
        );
        assert_eq!(paths("9:memory:/\n"), ["/sys/fs/cgroup/memory"], "a namespace's own root");
        assert_eq!(
            paths("0::/system.slice/n.service\n"),
            [
                "/sys/fs/cgroup/unified/system.slice/n.service",
                "/sys/fs/cgroup/unified/system.slice",
                "/sys/fs/cgroup/unified"
            ]
        );
        assert!(paths("").is_empty() && find("0::/\n", "").is_empty());
    }

    #[test]
    fn a_clients_group_is_known_or_not_taken() {
        let paths = |membership: &str| -> Vec<String> {
            let found = find_visible(membership, MOUNTS);
            found.iter().map(|group| group.directory.display().to_string()).collect()
        };
        assert_eq!(paths("9:memory:/docker/x/a\n0::/b\n"), ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"]);
        assert_eq!(paths("8:cpu:/\n0::/a:b\n"), ["/sys/fs/cgroup/unified/a:b", "/sys/fs/cgroup/unified"]);
        assert_eq!(paths("0::/\n"), ["/sys/fs/cgroup/unified"]);
        // Outside of the daemon's control group namespace, or of the mount.
        assert!(paths("0::/../a\n").is_empty() && paths("0::/a/../../b\n").is_empty());
        assert!(paths("9:memory:/other\n0::/b\n").is_empty(), "version 2 is not asked for what version 1 has");
        assert!(paths("").is_empty() && find_visible("0::/\n", "").is_empty());
    }

    #[test]
    fn limits_and_room_are_those_of_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let group = |files| Group { directory: directory.path().into(), files };
        assert_eq!((group(&V2).limit(), group(&V1).room()), (None, None));
        write("memory.max", "1000\n");
        write("memory.high", "max\n");
        write("memory.current", "900\n");
        write("memory.stat", "anon 5\nfile 300\nshmem 100\ninactive_file 150\nactive_file 50\nslab_reclaimable 1\n");
        assert_eq!((group(&V2).limit(), group(&V2).room()), (Some(1000), Some(301)));
        write("memory.high", "700\n");
        assert_eq!((group(&V2).limit(), group(&V2).room()), (Some(700), Some(1)));
        write("memory.limit_in_bytes", "500\n");
        write("memory.usage_in_bytes", "600\n");
        assert_eq!((group(&V1).limit(), group(&V1).room()), (Some(500), Some(0)));
    }

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::read();
        assert!(machine.memory > 1 << 24 && machine.memory < u64::MAX, "{machine:?}");
        assert!(machine.descriptors > 16);
        assert!(room(0) > 0 && room(0) <= meminfo("MemTotal:").unwrap());
        assert!(matches!(purse(std::process::id()), Purse::Ours));
        assert!(matches!(purse(u32::MAX), Purse::Unknown(_)));
    }
}
