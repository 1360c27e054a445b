//! Can a program be served from beside it (`nlmmap run --via supervisor`)? Each of the means is tried, then all of it.

use super::{Check, State};
use crate::supervisor::Grip;
use crate::supervisor::trial::{self, Told};

const GROUP: &str = "supervisor (static programs, go)";

fn check(name: &'static str, result: Result<(), Told>, works: &str) -> Check {
    match result {
        Ok(()) => Check::new(GROUP, name, State::Ok, works),
        Err((cause, cures)) => {
            let cure = if cures.is_empty() { "report it".to_owned() } else { cures.join("; ") };
            Check::new(GROUP, name, State::No, cause).cure(cure)
        }
    }
}

/// The means, and a program with rings.
pub fn checks() -> Vec<Check> {
    let mut checks = vec![check(
        "notification",
        trial::notification(),
        "calls stop for another process (seccomp), which puts descriptors at numbers of its choice",
    )];
    checks.push(match trial::grip() {
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
    checks.push(Check::new(
        GROUP,
        "ring file",
        State::Maybe,
        "a FUSE file in the socket's place is not built: rings are mapped by the means above, and waits stop (docs/supervisor.md)",
    ));
    checks.push(check("a program", trial::whole(), "one was supervised, and had a request acknowledged in its rings"));
    checks
}
