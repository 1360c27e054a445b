//! What a daemon under attack is put into: limits of memory and descriptors that are the test's own.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group with a limit of memory. Processes that are still in it when it goes end.
pub struct MemoryCage(PathBuf);

impl MemoryCage {
    /// `None` where this process may not make one.
    pub fn new(bytes: u64) -> Option<MemoryCage> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nlmmap-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let v1 = (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes");
        let v2 = (Path::new("/sys/fs/cgroup"), "memory.max");
        for (root, limit) in [v1, v2] {
            let cage = MemoryCage(root.join(&name));
            if root.join("cgroup.procs").exists()
                && fs::create_dir(&cage.0).is_ok()
                && fs::write(cage.0.join(limit), bytes.to_string()).is_ok()
            {
                return Some(cage);
            }
        }
        eprintln!("skipped: no control group of memory can be made here");
        None
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Bytes that it is charged for.
    pub fn used(&self) -> u64 {
        let files = ["memory.usage_in_bytes", "memory.current"].map(|name| self.0.join(name));
        let text = files.iter().find_map(|path| fs::read_to_string(path).ok()).expect("what it uses");
        text.trim().parse().expect("a number")
    }

    /// The command's process will be in the cage, and what it starts; and then this user.
    pub fn put_as(&self, command: &mut Command, uid: u32) {
        self.put(command);
        // SAFETY: two system calls between fork and exec. Not by `Command::uid`, which comes first.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setgid(uid.into())?;
                Ok(nix::unistd::setuid(uid.into())?)
            });
        }
    }

    /// The command's process will be in the cage, and what it starts.
    pub fn put(&self, command: &mut Command) {
        let procs = self.0.join("cgroup.procs");
        // SAFETY: between fork and exec only files are opened and written; the child has one thread.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
    }
}

impl Drop for MemoryCage {
    fn drop(&mut self) {
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}

/// The command's process will have this hard limit of open descriptors.
pub fn limit_descriptors(command: &mut Command, hard: u64) {
    use nix::sys::resource::{Resource, setrlimit};
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)) };
}
