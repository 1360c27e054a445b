//! What fixed dialogues cost inside the library, in instructions: a measure that no load of the machine changes.
//!
//! Each dialogue runs twice under callgrind, so many times and three times as often; the difference belongs to the messages.
//! Counted is what the library executes itself, its backing thread included, and the `memcpy` and its family that it calls;
//! not the kernel, and not the functions of the C library that it hands calls on to.
//!
//! A budget is what was measured and about a tenth. Whoever saves instructions lowers it; whoever must spend some says so here.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::{Mode, client, compile_file, preload, run, scratch};

const LIBRARY: &str = "libnlmmap_preload.so";

/// Instructions of the library in a callgrind profile.
///
/// Costs stand under the last `ob=` (object) and `fn=`; behind a `calls=` line comes what the call cost altogether, which is
/// the callee's and not counted, but for memory functions of other objects that the library calls.
fn spent(profile: &str) -> u64 {
    let mut names: HashMap<(bool, String), String> = HashMap::new();
    // "(3) name" defines, "(3)" refers.
    let mut name = |is_object: bool, text: &str| -> String {
        let (id, rest) = text.split_once(' ').unwrap_or((text, ""));
        if !rest.is_empty() {
            names.insert((is_object, id.to_string()), rest.to_string());
        }
        names.get(&(is_object, id.to_string())).cloned().unwrap_or_else(|| id.to_string())
    };
    let (mut object, mut callee_object, mut callee) = (String::new(), None, String::new());
    let (mut total, mut is_call) = (0, false);
    for line in profile.lines() {
        if let Some(text) = line.strip_prefix("ob=") {
            object = name(true, text);
        } else if let Some(text) = line.strip_prefix("cob=") {
            callee_object = Some(name(true, text));
        } else if let Some(text) = line.strip_prefix("cfn=") {
            callee = name(false, text);
        } else if let Some(text) = line.strip_prefix("fn=") {
            name(false, text);
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let cost: u64 = line.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
            let ours = object.ends_with(LIBRARY);
            let elsewhere = callee_object.as_ref().is_some_and(|o| *o != object);
            let is_memory = elsewhere && (callee.contains("mem") || callee.contains("bcmp"));
            if ours && (is_memory || !is_call) {
                total += cost;
            }
            if is_call {
                (is_call, callee_object) = (false, None);
            }
        }
    }
    total
}

/// Runs a command that writes a profile, and reads it.
fn count(profile: &Path, run: impl FnOnce(&str)) -> u64 {
    run(&format!("--callgrind-out-file={}", profile.display()));
    let text = fs::read_to_string(profile).expect("callgrind writes a profile");
    let _ = fs::remove_file(profile);
    spent(&text)
}

/// The first within its budget ends the tries.
const TRIES: u32 = 10;

/// Judges the best of several: the backing thread may look in more or less often, which only ever adds.
fn judge(what: &str, messages: u64, budget: u64, total: impl Fn(u64) -> u64) {
    let mut best = u64::MAX;
    for _ in 0..TRIES {
        let (few, many) = (total(1), total(3));
        assert!(few > 0 && many > few, "{what}: no instructions of the library were counted");
        best = best.min((many - few) / (2 * messages));
        if best <= budget {
            break;
        }
    }
    println!("{what}: {best} instructions a message");
    assert!(best <= budget, "{what}: {best} instructions a message, and {budget} are allowed");
}

/// A dialogue of `tests/clients/budget.c`, which is `messages` long.
fn dialogue(name: &str, messages: u64, times: u64, setup: &str, budget: u64) {
    let total = |factor: u64| {
        let times = times * factor;
        count(&scratch("callgrind"), |out| {
            let client = client("budget").arg(name).arg(times.to_string()).setup(setup);
            let outcome = client.under(&["valgrind", "--tool=callgrind", out]).run(Some(Mode::Default));
            assert!(outcome.success(), "budget {name} {times}: it {}", outcome.describe());
        })
    };
    judge(name, messages * times, budget, total);
}

const QUEUE: &str = "ip link set lo up; iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5";

#[test]
fn request_with_acknowledgement() {
    dialogue("request", 1, 500, "", 1000);
}

#[test]
fn sixty_four_verdicts_by_one_kick() {
    dialogue("verdicts", 64, 10, QUEUE, 500);
}

#[test]
fn a_kick_for_each_verdict() {
    dialogue("each", 64, 10, QUEUE, 930);
}

#[test]
fn a_hundred_events_by_one_poll() {
    dialogue("events", 100, 10, "ip link set lo up", 450);
}

#[test]
fn one_message_by_one_poll() {
    dialogue("wakeup", 1, 500, "", 1600);
}

#[test]
fn one_message_among_64_sockets() {
    dialogue("many", 1, 100, "", 10_000);
}

/// Calls on descriptors that are not ours: `benches/clients/hooks.c`.
fn foreign(call: &str, budget: u64) {
    const TIMES: u64 = 5000;
    let program = compile_file("benches/clients/hooks.c", &["-O2", "-ldl"]);
    let total = |factor: u64| {
        let times = TIMES * factor;
        count(&scratch("callgrind"), |out| {
            let mut valgrind = Command::new("valgrind");
            valgrind.args(["--tool=callgrind", out]).arg(&program).args([call, "0", &times.to_string()]);
            let outcome = run(valgrind.env("LD_PRELOAD", preload()), Duration::from_secs(60));
            assert!(outcome.success(), "hooks {call} {times}: it {}", outcome.describe());
        })
    };
    judge(call, TIMES, budget, total);
}

#[test]
fn foreign_read() {
    foreign("read", 22);
}

#[test]
fn foreign_close() {
    foreign("close", 22);
}

#[test]
fn foreign_poll() {
    foreign("poll", 33);
}

#[test]
fn foreign_send() {
    foreign("send", 23);
}

#[test]
fn profiles_are_read() {
    let profile = "\
ob=(1) /x/libnlmmap_preload.so
fn=(1) send
12 7
cob=(2) /lib/libc.so
cfn=(2) __memcpy_avx
calls=1 0
+3 20
cfn=(1)
calls=1 0
* 1000
cob=(2)
cfn=(3) __libc_send
calls=2 5
+1 500
-1 1
ob=(2)
fn=(3)
4 400
fn=(4) main
cob=(1)
cfn=(1)
calls=1 0
9 90
";
    assert_eq!(spent(profile), 7 + 20 + 1);
}
