//! What policy grants, and what it does not: a client without any capability beside a daemon that has them.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::daemon::{Daemon, NLMMAP, Place, client, output, passes};
use crate::lifecycle::wait_for;

/// Who has the grants of `POLICY`.
const US: u32 = 1001;
const NOBODY: u32 = 65534;

const POLICY: &str = "\
[[policy.rule]]
name = \"queue 7\"
users = [1001]
family = \"netfilter\"
send = [\"queue/*\"]
queues = [7]
join = [\"conntrack_new\"]
";

/// In a network namespace: descriptor 3 lists its queues, which only root may open. 77 when the kernel has none.
const INSIDE: &str = "ip link set lo up && q=/proc/self/net/netfilter/nfnetlink_queue && test -e $q || exit 77
exec 3<$q && exec \"$@\"";

fn configured(text: &str, more: &[&str]) -> Place {
    let mut place = Place::with_config(text);
    place.args.extend(more.iter().map(|s| (*s).to_owned()));
    place
}

/// The client in a network namespace of its own, as this user, without any capability.
fn sidecar(place: &Place, uid: u32, args: &[&str]) -> Command {
    let program = client("device_policy").get_program().to_owned();
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", INSIDE, "sh", "setpriv"]);
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
    command.arg(program).arg(place.node()).args(args);
    command
}

/// Runs it; a kernel without queues is no failure.
#[track_caller]
fn holds(command: &mut Command, daemon: &Daemon<'_>) {
    let result = output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if result.status.code() == Some(77) {
        eprintln!("skipped: this kernel has no queues");
        return;
    }
    let (out, err) = (text(&result.stdout), text(&result.stderr));
    assert!(result.status.success(), "{command:?}: {}\n{out}{err}\nthe daemon:\n{}", result.status, daemon.tail());
}

#[test]
fn a_sidecars_client_has_what_is_granted_and_nothing_else() {
    let place = configured(POLICY, &[]);
    let daemon = place.start();
    holds(&mut sidecar(&place, US, &["granted"]), &daemon);
    // Another user has nothing: his own rights are none.
    let other = output(&mut sidecar(&place, NOBODY, &["granted"]));
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && text.contains("queue 7 was not bound"), "{text}");
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// As above, where what is not granted is not even tried.
#[test]
fn with_deny_the_same_is_refused_by_the_daemon() {
    let place = configured(&format!("[policy]\nunmatched = \"deny\"\n{POLICY}"), &[]);
    let daemon = place.start();
    holds(&mut sidecar(&place, US, &["granted"]), &daemon);
    daemon.says("a message is not sent: no rule grants family=netfilter send=queue/config queue=8");
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_message_that_changes_while_it_is_judged_is_sent_as_it_was_judged() {
    let place = configured(POLICY, &[]);
    let daemon = place.start();
    holds(&mut sidecar(&place, US, &["race"]), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn what_is_denied_has_its_error_with_a_ring_and_without() {
    let rule = "[[policy.rule]]\nusers = [\"*\"]\nfamily = \"route\"\nsend = [\"getaddr\"]\n";
    let place = configured(&format!("[policy]\nunmatched = \"deny\"\n{rule}"), &[]);
    let daemon = place.start();
    // Also to root, who has every right.
    passes(client("device_policy").arg(place.node()).arg("denied"), &daemon);
    holds(&mut sidecar(&place, NOBODY, &["denied"]), &daemon);
    daemon.says("a message is not sent: no rule grants family=route send=getlink");
    daemon.says("a group is not joined: no rule grants family=route join=link");
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn grants_go_neither_with_an_open_file_nor_to_it() {
    let place = configured(POLICY, &[]);
    let daemon = place.start();
    let mut command = Command::new("unshare");
    // Root opens and hands on: no rule is for root.
    command.arg("-n").arg(client("device_policy").get_program()).arg(place.node()).args(["pass", "65534"]);
    holds(&mut command, &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_broken_policy_never_starts_or_replaces_one() {
    let broken = POLICY.replace("queue/*", "queue/confg");
    let place = configured(&broken, &[]);
    let refused = output(&mut place.serve());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    let config = place.path("config.toml");
    let wrong = format!(
        "{}:5: rule \"queue 7\": the family netfilter has no message \"queue/confg\" that is known here; did you mean \
         \"queue/config\"?",
        config.display()
    );
    assert!(text.contains(&wrong), "{text}");

    fs::write(&config, POLICY).expect("a configuration");
    let daemon = place.start();
    fs::write(&config, &broken).expect("a configuration");
    daemon.signal(Signal::SIGHUP);
    wait_for(|| daemon.log().contains("configuration kept as it was"), || daemon.log());
    daemon.says(&wrong);
    holds(&mut sidecar(&place, US, &["granted"]), &daemon);
    // One without the grant is in force for the next message.
    fs::write(&config, POLICY.replace("1001", "1002")).expect("a configuration");
    daemon.signal(Signal::SIGHUP);
    wait_for(|| daemon.log().contains("configuration read"), || daemon.log());
    let gone = output(&mut sidecar(&place, US, &["granted"]));
    assert!(!gone.status.success());
    holds(&mut sidecar(&place, 1002, &["granted"]), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn an_audit_that_nobody_would_read_does_not_start() {
    let place = configured("log = \"warn\"\n", &["--audit"]);
    let mut command = Command::new(NLMMAP);
    command.args(["serve", "--node", "fuse", "--name", &place.name]).args(&place.args);
    let refused = output(command.arg("--runtime-dir").arg(place.path("run")));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("--audit logs at the level info") && text.contains("cure: use --log info"), "{text}");
}

/// A reload is whole or not at all: the level of a configuration that cannot be in force is not in force either.
#[test]
fn a_reload_never_makes_an_audit_deaf() {
    let mut place = configured("log = \"info\"\n", &["--audit"]);
    place.args.extend(["--path".into(), place.path("node").display().to_string()]);
    let daemon = place.start_as(|command| {
        // Without --log, which comes before the configuration's.
        let mut plain = Command::new(NLMMAP);
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = args.iter().position(|arg| arg == "--log").expect("a level");
        plain.args(&args[..at]).args(&args[at + 2..]).env("NOTIFY_SOCKET", place.path("notify"));
        let log = fs::File::options().append(true).open(place.path("log")).expect("a log file");
        plain.stderr(log);
        *command = plain;
    });
    place.configure("log = \"error\"\n[limits]\nopens = 1\n");
    daemon.signal(Signal::SIGHUP);
    daemon.says("configuration kept as it was: --audit logs at the level info");
    place.configure("[limits]\nopens = 4096\n");
    daemon.signal(Signal::SIGHUP);
    daemon.says("configuration read");
    daemon.stop();
}

/// What a workload did under `--audit`, as root, is a policy under which it runs without any right.
#[test]
fn an_audit_becomes_a_policy() {
    let place = configured("", &["--audit"]);
    let daemon = place.start();
    let program = client("device_policy").get_program().to_owned();
    let mut as_root = Command::new("unshare");
    as_root.args(["-n", "sh", "-c", INSIDE, "sh"]).arg(program).arg(place.node()).arg("granted");
    // It stops at the first message that it expects to be refused: nothing is.
    let result = output(&mut as_root);
    assert!(String::from_utf8_lossy(&result.stderr).contains("queue 8 was bound"), "{result:?}");
    daemon.says("policy audit: uid=0 cgroup=");
    daemon.stop();
    let mut suggest = Command::new(NLMMAP);
    suggest.args(["policy", "suggest"]).arg(place.path("log"));
    let suggested = output(&mut suggest);
    let text = String::from_utf8_lossy(&suggested.stdout).into_owned();
    assert!(suggested.status.success(), "{suggested:?}");
    assert!(text.contains("family = \"netfilter\"") && text.contains("queues = [8]"), "{text}");
    let file = place.path("suggested");
    fs::write(&file, &text).expect("written");
    let mut check = Command::new(NLMMAP);
    check.args(["policy", "check"]).arg(&file);
    check.args(["--uid", "0", "--family", "netfilter", "--type", "queue/config", "--queue", "8"]);
    let answer = output(&mut check);
    assert_eq!((answer.status.code(), answer.stdout.as_slice()), (Some(0), &b"yes, by rule \"root: netfilter\"\n"[..]));
}

#[test]
fn check_says_what_is_granted_and_what_that_amounts_to() {
    let place = Place::new();
    let file = place.path("config");
    let text =
        format!("{POLICY}[[policy.rule]]\nname = \"all\"\nusers = [\"*\"]\nfamily = \"route\"\nsend = [\"*\"]\n");
    fs::write(&file, text).expect("a configuration");
    let run = |args: &[&str]| {
        let mut command = Command::new(NLMMAP);
        command.args(["policy", "check"]).arg(&file).args(args);
        let result = output(&mut command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (result.status.code(), text(&result.stdout), text(&result.stderr))
    };
    let (code, out, err) = run(&[]);
    assert_eq!(code, Some(0));
    assert!(out.contains("use queues 7, by: queue/config, queue/verdict, queue/verdict_batch\n"), "{out}");
    assert!(err.contains("warning: rule \"all\": amounts to CAP_NET_ADMIN over where traffic goes\n"), "{err}");
    let (code, out, _) = run(&["--uid", "1001", "--family", "netfilter", "--type", "NFQNL_MSG_CONFIG", "--queue", "9"]);
    assert_eq!(code, Some(1));
    assert!(out.starts_with("no: rule \"queue 7\" grants that for other numbers"), "{out}");
    let (code, _, err) = run(&["--uid", "1001", "--family", "netfiltr", "--type", "queue/config"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("did you mean \"netfilter\"?"), "{err}");
    let queue = ["--uid", "1001", "--family", "netfilter", "--receive", "NFQNL_MSG_PACKET", "--queue"];
    let (code, out, _) = run(&[&queue[..], &["7"]].concat());
    let answer =
        "yes, by rule \"queue 7\", which lets the client send queue/config for queue 7 and withholds nothing of that\n";
    assert_eq!((code, out.as_str()), (Some(0), answer));
    let (code, out, _) = run(&[&queue[..], &["8"]].concat());
    assert_eq!(code, Some(1));
    assert!(out.starts_with("no: rule \"queue 7\" grants that for other numbers; "), "{out}");
    let (code, out, _) = run(&["--uid", "5", "--family", "route", "--receive", "newlink"]);
    assert!(code == Some(0) && out.starts_with("yes, by rule \"all\" (send newlink"), "{out}");
    // Questions that are none, and what was meant.
    for (args, why) in [
        (&["--uid", "5", "--family", "route", "--receive", "newlnk"][..], "did you mean \"newlink\"?"),
        (&["--uid", "5", "--family", "route", "--receive", "getroute"], "is sent no message \"getroute\""),
        (&["--uid", "5", "--family", "route", "--type", "getlnk", "--receive", "newlink"], "did you mean \"getlink\"?"),
        (&["--uid", "5", "--family", "route", "--group", "lnk", "--receive", "newlink"], "did you mean \"link\"?"),
        (&["--uid", "5", "--family", "generic", "--group", "notify"], "use FAMILY/GROUP"),
        (&["--uid", "5", "--family", "route", "--queue", "3"], "a number goes with a message"),
        (&["--uid", "5", "--family", "route", "--type", "getlink", "--queue", "3"], "getlink is not for a number"),
        (&["--uid", "5", "--family", "netfilter", "--type", "queue/config"], "say which queue: --queue"),
        (&["--uid", "5", "--family", "netfilter", "--type", "log/config"], "say which group: --log-group"),
        (&["--uid", "5", "--family", "route"], "--type, --group or --receive"),
        (&["--uid", "rooot", "--family", "route"], "no such user; did you mean \"root\"?"),
        (&["--uid", "5", "--gid", "rooot", "--family", "route"], "no such group; did you mean \"root\"?"),
    ] {
        let (code, out, err) = run(args);
        assert!(code == Some(2) && out.is_empty() && err.contains(why), "{args:?}: {out}{err}");
    }
    let (code, out, _) = run(&["--uid", "5", "--family", "route", "--type", "getlink"]);
    assert_eq!((code, out.as_str()), (Some(0), "yes, by rule \"all\"\n"));
}

#[test]
fn messages_lists_what_can_be_named() {
    let mut command = Command::new(NLMMAP);
    command.args(["policy", "messages", "netfilter"]).uid(NOBODY);
    let out = String::from_utf8(output(&mut command).stdout).expect("text");
    assert!(
        out.starts_with("netfilter\n") && out.contains("NFQNL_MSG_CONFIG\n") && out.contains("  join nftables\n"),
        "{out}"
    );
}
