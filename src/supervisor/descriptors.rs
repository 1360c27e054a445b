//! Which descriptors a process has, and which it keeps.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

/// The numbers that this process has, each with what it leads to.
pub fn all() -> Vec<(i32, String)> {
    let link = |number: i32| {
        let link = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        Some((number, link.to_string_lossy().into_owned()))
    };
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        // No number is left for the directory: each is asked for by itself.
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let end = limit.map_or(i32::MAX, |(limit, _)| i32::try_from(limit).unwrap_or(i32::MAX));
        return (0..end).filter_map(link).collect();
    };
    // The directory that is read is closed behind it.
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.filter_map(link).filter(|(_, link)| !link.ends_with("/fd")).collect()
}

fn close(number: i32) {
    // SAFETY: no value of this process that owns one of them is used again, or dropped.
    unsafe { libc::close(number) };
}

/// Closes all descriptors but these and the first three.
pub fn close_all_but(mut keep: Vec<i32>) {
    keep.sort_unstable();
    let (mut from, mut closed) = (3, true);
    for number in keep.iter().copied().chain([i32::MAX]) {
        if from < number {
            // SAFETY: as in `close`.
            closed &= unsafe { libc::syscall(libc::SYS_close_range, from, number - 1, 0) } == 0;
        }
        from = number.saturating_add(1);
    }
    if !closed {
        // A sandbox that does not know the call.
        let others = all().into_iter().map(|(number, _)| number).filter(|number| *number > 2 && !keep.contains(number));
        others.for_each(close);
    }
}

/// Closes all descriptors but the channel, and standard error if it is used: who reads the program's output waits for its end, not
/// for ours. Whether that could be done.
pub fn keep_only(channel: i32, with_stderr: bool) -> bool {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return false };
    let mut numbers = if with_stderr { 0..2 } else { 0..3 };
    // SAFETY: numbers only.
    let done = numbers.all(|number| unsafe { libc::dup2(null.as_raw_fd(), number) } == number);
    drop(null);
    close_all_but(vec![channel]);
    done
}
