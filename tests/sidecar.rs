//! The sidecar, rehearsed with the pieces that a container engine puts together: a daemon with rights, and beside it a
//! workload of another user with none, in a user, mount and pid namespace of its own. They share a network namespace, and
//! a directory with the node, which the workload sees bound below its own `/run` and cannot write to.

#[allow(dead_code, reason = "shared with device.rs, which uses the rest")]
#[path = "device/daemon.rs"]
mod daemon;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use daemon::{Daemon, NLMMAP, Place, output};
use support::{Build, compile, copy, preload};

/// The workload's user.
const USER: &str = "1001";
const LACKING: i32 = 77;

const POLICY: &str = "\
[[policy.rule]]
name = \"the workload's queue\"
users = [1001]
family = \"netfilter\"
send = [\"queue/*\"]
queues = [5]
";

/// As root, in the network namespace that both are in: packets to judge, the queue's own account of them as descriptor 3. Then it is the workload's user, without anything.
const OUTSIDE: &str = "\
ip link set lo up
q=/proc/self/net/netfilter/nfnetlink_queue && test -e $q || exit 77
exec 3<$q
iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num $QUEUE || exit 77
(while test -d \"$LISTENS\" && ! test -e \"$LISTENS/yes\"; do sleep 0.05; done; ip link set lo down; ip link set lo up) </dev/null >/dev/null 2>&1 &
exec setpriv --reuid=$USER_ID --regid=$USER_ID --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs -- \
    unshare --user --map-current-user --mount --pid --fork --kill-child --keep-caps -- sh -ec \"$INSIDE\" sh \"$@\"";

/// The same workload as it runs today: root's, with every right, beside the daemon.
const AS_ROOT: &str = "\
ip link set lo up
test -e /proc/self/net/netfilter/nfnetlink_queue || exit 77
exec 3</proc/self/net/netfilter/nfnetlink_queue
iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num $QUEUE || exit 77
exec \"$@\"";

/// The container's own view: the directory read-only, the node's mount in it as it is (a ring file is opened for writing).
/// Then no capability there either.
const INSIDE: &str = "\
mount --rbind \"$SHARED\" /mnt && mount --make-rslave /mnt && mount -o remount,bind,ro /mnt
exec setpriv --inh-caps=-all --ambient-caps=-all --bounding-set=-all -- \"$@\"";

/// What the workload's image holds: the command, the library, the client, where its user can read them.
fn image(place: &Place, name: &str) -> [String; 3] {
    let put = |from: &Path| {
        let to = place.path(from.file_name().and_then(|name| name.to_str()).expect("a name"));
        copy(from, &to, 0o755);
        to.display().to_string()
    };
    [put(Path::new(NLMMAP)), put(preload()), put(&compile(name, Build::Plain))]
}

/// A workload that runs a client of the socket interface through the sidecar's node.
fn workload(place: &Place, queue: u16, client: &str, args: &[&str]) -> Output {
    let [nlmmap, library, client] = image(place, client);
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-ec", OUTSIDE, "sh", &nlmmap, "run", "--device"]);
    command.arg(format!("/mnt/node/{}", place.name)).args(["--", &client]).args(args);
    command
        .env("INSIDE", INSIDE)
        .env("SHARED", place.directory.path())
        .env("USER_ID", USER)
        .env("NLMMAP_PRELOAD", library);
    let listens = place.path("listens");
    fs::create_dir(&listens)
        .and_then(|()| fs::set_permissions(&listens, fs::Permissions::from_mode(0o777)))
        .expect("a place");
    let result = output(command.env("QUEUE", queue.to_string()).env("LISTENS", &listens));
    // Whoever waits for a monitor that never listened.
    fs::write(listens.join("yes"), "").expect("a file");
    result
}

#[track_caller]
fn holds(result: &Output, daemon: &Daemon<'_>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if result.status.code() == Some(LACKING) {
        return eprintln!("skipped: this kernel lacks something: {}", text(&result.stderr));
    }
    let (out, err) = (text(&result.stdout), text(&result.stderr));
    assert!(result.status.success(), "{}\n{out}{err}\nthe daemon:\n{}", result.status, daemon.tail());
}

fn with_policy(f: impl FnOnce(&Place, &Daemon<'_>)) {
    let place = Place::with_config(POLICY);
    let daemon = place.start();
    f(&place, &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_workload_without_rights_judges_the_queue_that_policy_names() {
    with_policy(|place, daemon| holds(&workload(place, 5, "nfqueue", &["accept", "2000"]), daemon));
}

#[test]
fn a_workload_without_rights_monitors_links() {
    with_policy(|place, daemon| {
        let file = place.path("listens").join("yes").display().to_string();
        holds(&workload(place, 5, "link_monitor", &[&file]), daemon);
    });
}

/// Links and addresses are anybody's to read; to change them it is refused by the kernel, in the client's own words.
#[test]
fn a_workload_without_rights_reads_links_and_changes_none() {
    with_policy(|place, daemon| holds(&workload(place, 5, "unprivileged", &[]), daemon));
}

/// The same client where the policy names another queue: its first request is answered by EPERM.
#[test]
fn a_workload_is_refused_what_the_policy_does_not_name() {
    let place = Place::with_config(&POLICY.replace("queues = [5]", "queues = [6]"));
    let daemon = place.start();
    let result = workload(&place, 5, "nfqueue", &["accept", "2000"]);
    let text = String::from_utf8_lossy(&result.stderr).into_owned();
    if result.status.code() != Some(LACKING) {
        assert!(!result.status.success() && text.contains("ack of request 2 says -1"), "{text}\n{}", daemon.tail());
    }
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// An operator's way to a policy: the workload as it runs today under `--audit`, and then under what comes of that, with nothing.
#[test]
fn what_an_audit_suggests_is_what_the_workload_needs() {
    let mut place = Place::new();
    place.args.push("--audit".into());
    let daemon = place.start();
    let [nlmmap, library, client] = image(&place, "nfqueue");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-ec", AS_ROOT, "sh", &nlmmap, "run", "--device"]).arg(place.node());
    command.args(["--", &client, "accept", "2000"]).env("QUEUE", "5").env("NLMMAP_PRELOAD", library);
    let result = output(&mut command);
    if result.status.code() == Some(LACKING) {
        return eprintln!("skipped: this kernel lacks something");
    }
    holds(&result, &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
    let mut suggest = Command::new(NLMMAP);
    let suggested = output(suggest.args(["policy", "suggest"]).arg(place.path("log")));
    let text = String::from_utf8(suggested.stdout).expect("text");
    for line in ["[policy]\nunmatched = \"deny\"", "queues = [5]", "receive = [\"queue/packet\"]"] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    // It will be another user's.
    assert!(text.contains("users = [\"root\"]"), "{text}");
    let place = Place::with_config(&text.replace("users = [\"root\"]", &format!("users = [{USER}]")));
    let daemon = place.start();
    holds(&workload(&place, 5, "nfqueue", &["accept", "2000"]), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}
