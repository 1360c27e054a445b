//! For whom rules are, and how often, through a daemon: members of a group, programs in a control group, so many a second.

use std::path::Path;
use std::process::Command;

use crate::cage::MemoryCage;
use crate::daemon::{Daemon, Place, client, output};

const INSIDE: &str = "ip link set lo up && q=/proc/self/net/netfilter/nfnetlink_queue && test -e $q || exit 77
exec 3<$q && exec \"$@\"";

fn policy(whom: &str) -> String {
    format!(
        "[[policy.rule]]\nname = \"queue 7\"\n{whom}\nfamily = \"netfilter\"\nsend = [\"queue/*\"]\nqueues = [7]\n\
         join = [\"conntrack_new\"]\n"
    )
}

/// The client that has what is granted, and nothing else, as a user without rights.
fn workload(place: &Place, groups: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", INSIDE, "sh", "setpriv", "--reuid=1001", "--regid=1001"]).args(groups);
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
    command.arg(client("device_policy").get_program()).arg(place.node()).args(args);
    command
}

/// Whether it had the grants; none where the kernel has no queues.
#[track_caller]
fn is_granted(command: &mut Command, daemon: &Daemon<'_>) -> Option<bool> {
    let result = output(command);
    let text = String::from_utf8_lossy(&result.stderr).into_owned();
    match result.status.code() {
        Some(77) => None,
        Some(0) => Some(true),
        _ => {
            assert!(text.contains("queue 7 was not bound"), "{text}\n{}", daemon.tail());
            Some(false)
        }
    }
}

#[test]
fn a_rule_for_a_group_is_for_its_members_by_either_way() {
    let place = Place::with_config(&policy("groups = [4242]"));
    let daemon = place.start();
    let ask = |groups: &[&str]| is_granted(&mut workload(&place, groups, &["granted"]), &daemon);
    let Some(without) = ask(&["--clear-groups"]) else { return eprintln!("skipped: no queues") };
    assert!(!without);
    assert_eq!(ask(&["--groups=77,4242"]), Some(true), "supplementary");
    assert_eq!(ask(&["--groups=77,4243"]), Some(false));
    let mut primary = workload(&place, &["--clear-groups"], &["granted"]);
    let args: Vec<_> = primary.get_args().map(|arg| arg.to_owned()).collect();
    let args: Vec<_> =
        args.iter().map(|arg| if arg == "--regid=1001" { "--regid=4242".as_ref() } else { arg.as_os_str() }).collect();
    primary = Command::new("unshare");
    primary.args(args);
    assert_eq!(is_granted(&mut primary, &daemon), Some(true), "the primary one");
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// Its path in the hierarchy where it was made, as `/proc/PID/cgroup` has it.
fn path_in(cage: &MemoryCage) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let below = cage.path().strip_prefix(root.join("memory")).or_else(|_| cage.path().strip_prefix(root));
    let name = format!("/{}", below.expect("a control group").display());
    // Beside the test's own, where the mount shows only what is below that.
    let mut cat = Command::new("cat");
    cat.arg("/proc/self/cgroup");
    cage.put(&mut cat);
    let text = String::from_utf8(output(&mut cat).stdout).expect("text");
    let line = text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find(|path| path.ends_with(&name));
    line.unwrap_or_else(|| panic!("{name}:\n{text}")).to_owned()
}

#[test]
fn a_rule_for_a_control_group_is_for_programs_in_it() {
    let Some(cage) = MemoryCage::new(1 << 30) else { return };
    let place = Place::with_config(&policy(&format!("cgroups = [{:?}]", path_in(&cage))));
    let daemon = place.start();
    let mut inside = workload(&place, &["--clear-groups"], &["granted"]);
    cage.put(&mut inside);
    let Some(granted) = is_granted(&mut inside, &daemon) else { return eprintln!("skipped: no queues") };
    assert!(granted, "in the control group:\n{}", daemon.tail());
    assert_eq!(is_granted(&mut workload(&place, &["--clear-groups"], &["granted"]), &daemon), Some(false));
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// As many as a second's at once, and then refusals, until there is time for more.
#[test]
fn a_rate_holds_for_all_sockets_of_a_user_together() {
    let place = Place::with_config(&format!("{}rate = 20\n", policy("users = [1001]")));
    let daemon = place.start();
    let result = output(&mut workload(&place, &["--clear-groups"], &["rate", "20"]));
    let text = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(matches!(result.status.code(), Some(0 | 77)), "{text}\n{}", daemon.tail());
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// In the order in which they were judged: two users who both send without end go one after the other, however many open files
/// and threads the one has. First come, first served, it were eight of his for one of the other's.
#[test]
fn users_with_grants_go_one_after_the_other() {
    let place = Place::with_config(&policy("users = [1001, 1002]"));
    let daemon = place.start();
    let flood = |uid: u32, threads: &str, seconds: &str| {
        let command = workload(&place, &["--clear-groups"], &["flood", threads, seconds]);
        let args = command.get_args().map(|arg| match arg.to_str() {
            Some("--reuid=1001") => format!("--reuid={uid}").into(),
            _ => arg.to_owned(),
        });
        let mut other = Command::new("unshare");
        other.args(args);
        other
    };
    let mut much = flood(1001, "64", "8").spawn().expect("a client");
    let granted = |log: &str| -> Vec<u32> {
        let lines = log.lines().filter(|line| line.contains(" granted ") && line.contains("queue 7"));
        lines.filter_map(|line| [1001, 1002].into_iter().find(|uid| line.contains(&format!("uid={uid} ")))).collect()
    };
    let started = || granted(&daemon.log()).len() > 100 || much.try_wait().expect("a child").is_some();
    crate::lifecycle::wait_for(started, || daemon.log());
    let result = output(&mut flood(1002, "8", "3"));
    let status = much.wait().expect("a child");
    if status.code() == Some(77) {
        return eprintln!("skipped: no queues");
    }
    assert!(status.success() && result.status.success(), "{status} {result:?}\n{}", daemon.tail());
    let log = daemon.log();
    assert!(!log.contains("log lines were lost"), "{}", daemon.tail());
    let order = granted(&log);
    let of_few = |uid: &u32| *uid == 1002;
    let (first, last) =
        (order.iter().position(of_few).expect("judged"), order.iter().rposition(of_few).expect("judged"));
    let both = &order[first..=last];
    let few = both.iter().filter(|uid| of_few(uid)).count();
    let ratio = (both.len() - few) as f64 / few as f64;
    assert!(few > 50 && ratio < 2.5, "{} of one user's messages were judged for each of {few} of the other's", ratio);
    daemon.wait_for_opens(0);
    daemon.stop();
}
