//! Links and routes: refused by the kernel, served by the library.

use std::process::Command;

use anyhow::bail;

use super::summary::Summary;
use super::{Stage, clients, quote, say};
use crate::program::search;

/// The client on the bare kernel. Its exit status 3 means `ENOPROTOOPT`.
pub fn refused(stage: &Stage) -> anyhow::Result<()> {
    say("\n1. on the bare kernel");
    say("   $ ./dump");
    let output = clients::bare(stage, "dump")?;
    quote(&String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(3) => say("   refused: this kernel has no netlink rings (ENOPROTOOPT)"),
        Some(0) => say("   not refused: this kernel has netlink rings itself, and needs no nlmmap"),
        _ => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            // Kernels up to 4.5 have the rings for CAP_NET_ADMIN only.
            if !text.contains("not permitted") {
                bail!("the client failed on the bare kernel in another way than expected: {}", output.status);
            }
            say("   refused: this kernel has netlink rings for CAP_NET_ADMIN only");
        }
    }
    Ok(())
}

/// The same program under `nlmmap run`.
pub fn served(stage: &Stage) -> anyhow::Result<()> {
    say("\n2. the same program under nlmmap: this machine's links and routes");
    say("   $ nlmmap run -- ./dump");
    let output = clients::served(stage, "dump").output()?;
    let (summary, rest) = Summary::take(&String::from_utf8_lossy(&output.stderr));
    quote(&String::from_utf8_lossy(&output.stdout));
    quote(&rest);
    if !output.status.success() {
        bail!("the client failed under nlmmap: {}", output.status);
    }
    let Some(summary) = summary else { bail!("the library did not say what went through the rings") };
    summary.show();
    // Two dumps are two requests; each has at least one frame of answers.
    summary.check(2, 2)?;
    count_calls(stage);
    Ok(())
}

/// The same once more, counted from outside. An extra: whatever is missing for it is no failure.
fn count_calls(stage: &Stage) {
    let Some(strace) = search::find("strace".as_ref()).ok() else {
        return;
    };
    let table = stage.dir.join("calls");
    let status = Command::new(strace)
        .args(["-f", "-c", "-o"])
        .arg(&table)
        .arg("-E")
        .arg(format!("LD_PRELOAD={}", stage.library.path.display()))
        .arg(stage.dir.join("dump"))
        .env_remove("LD_PRELOAD")
        .output();
    let text = std::fs::read_to_string(&table).unwrap_or_default();
    if !status.is_ok_and(|o| o.status.success()) || text.is_empty() {
        say("   strace could not trace here, so nothing is counted from outside");
        return;
    }
    const NETWORK: [&str; 8] = ["sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg", "poll", "ppoll"];
    let counts: Vec<_> = table_counts(&text)
        .into_iter()
        .filter(|(name, _)| NETWORK.contains(&name.as_str()))
        .map(|(name, calls)| format!("{calls} {name}"))
        .collect();
    say(format_args!("   strace counts, for the program and the library together: {}", counts.join(", ")));
}

/// Reads strace's table: percentage, seconds, microseconds a call, calls, perhaps errors, name.
fn table_counts(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let calls = words.get(3)?.parse().ok()?;
            Some(((*words.get(4..)?.last()?).to_owned(), calls))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_read() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    \x20 0.00    0.000000           0         3         1 recvmmsg\n\
                    \x20 0.00    0.000000           0         2           poll\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.000000           0        56         2 total\n";
        let counts = table_counts(text);
        assert_eq!(counts[0], ("recvmmsg".to_owned(), 3));
        assert_eq!(counts[1], ("poll".to_owned(), 2));
    }
}
