//! Can a program be served from beside it (`nlmmap run --via supervisor`)? Each of the means is tried, then all of it.

use super::{Check, State};
use crate::supervisor::Grip;
use crate::supervisor::trial::{self, Told};

const GROUP: &str = "supervisor (static programs, go)";
/// `CAP_SYS_ADMIN`
const SYS_ADMIN: u64 = 1 << 21;

fn check(name: &'static str, result: Result<(), Told>, works: &str) -> Check {
    match result {
        Ok(()) => Check::new(GROUP, name, State::Ok, works),
        Err((cause, cures)) => {
            let cure = if cures.is_empty() { "report it".to_owned() } else { cures.join("; ") };
            Check::new(GROUP, name, State::No, cause).cure(cure)
        }
    }
}

/// The way to the rings that is taken everywhere.
const MEMORY: &str = "a memory file, mapped by the means above: `poll` and `select` stop, `epoll` waits in the kernel";

/// What a FUSE file in the socket's place would need and is not here.
fn lacking() -> Vec<String> {
    let mut lacking = Vec::new();
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        lacking.push(format!("/dev/fuse ({error})"));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    if effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_none_or(|set| set & SYS_ADMIN == 0) {
        lacking.push("CAP_SYS_ADMIN".to_owned());
    }
    if !crate::supervisor::is_at_least(6, 9) {
        lacking.push("Linux 6.9".to_owned());
    }
    lacking
}

fn why_no_ring_file(lacking: &[String]) -> String {
    let here = match lacking {
        [] => "could be had here".to_owned(),
        _ => format!("cannot be had here for want of {}", lacking.join(", ")),
    };
    format!(
        "a FUSE file in the socket's place {here}, and is not used: each look at it asks a server, which takes longer than a stopped call (docs/supervisor.md)"
    )
}

/// The means, and a program with rings.
pub fn checks() -> Vec<Check> {
    let mut checks = vec![check(
        "notification",
        trial::notification(),
        "calls stop for another process (seccomp), which puts descriptors at numbers of its choice",
    )];
    checks.push(match Grip::here() {
        Grip::Loose => Check::new(
            GROUP,
            "signals",
            State::Maybe,
            "a signal that comes in the same microsecond as the answer to a call may lose a message, or have it sent twice",
        )
        .cure("run a program that catches many signals on Linux 5.19 or later (docs/supervisor.md, \"Interrupted calls\")"),
        Grip::Slipping | Grip::Firm => {
            Check::new(GROUP, "signals", State::Ok, "calls are held against signals until they are answered")
        }
    });
    checks.extend(trial::means().into_iter().map(|(means, result)| {
        let why = match means {
            "pidfd_getfd" => "takes descriptors of a program",
            "process_vm_readv" => "reads a program's memory",
            _ => "maps rings into a program",
        };
        match result {
            Ok(()) => Check::new(GROUP, means, State::Ok, why),
            Err(error) => Check::new(GROUP, means, State::No, format!("{why}: {error}"))
                .cure("allow it in the sandbox (docker run --cap-add SYS_PTRACE)"),
        }
    }));
    checks.push(Check::new(GROUP, "ring memory", State::Ok, format!("{MEMORY}; {}", why_no_ring_file(&lacking()))));
    checks.push(check("a program", trial::whole(), "one was supervised, and had a request acknowledged in its rings"));
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_which_way_is_taken_and_what_the_other_lacks() {
        assert!(why_no_ring_file(&[]).contains("could be had here, and is not used"));
        let text = why_no_ring_file(&["CAP_SYS_ADMIN".to_owned(), "Linux 6.9".to_owned()]);
        assert!(text.contains("cannot be had here for want of CAP_SYS_ADMIN, Linux 6.9, and"), "{text}");
    }
}
