//! Rules of all families through a daemon, one at a time: what it names happens, and nothing else does.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::daemon::{Daemon, Place, client, output};
use crate::lifecycle::wait_for;

/// What the client tries, and the rule for it.
const RULES: [(&str, &str); 16] = [
    ("setlink", "family = \"route\"\nsend = [\"setlink\"]"),
    ("getroute", "family = \"route\"\nsend = [\"RTM_GETROUTE\"]"),
    ("queue", "family = \"netfilter\"\nsend = [\"queue/config\"]\nqueues = [\"6-7\"]"),
    ("log", "family = \"netfilter\"\nsend = [\"log/config\"]\nlog_groups = [3]"),
    ("conntrack", "family = \"netfilter\"\nsend = [\"conntrack/get_stats\"]"),
    ("generation", "family = \"netfilter\"\nsend = [\"nftables/getgen\"]"),
    ("table", "family = \"netfilter\"\nsend = [\"nftables/newtable\"]"),
    ("controller", "family = \"generic\"\nsend = [\"nlctrl/getfamily\"]"),
    ("inet", "family = \"sock_diag\"\nsend = [\"inet\"]"),
    ("unix", "family = \"sock_diag\"\nsend = [\"unix\"]"),
    ("destroy", "family = \"sock_diag\"\nsend = [\"destroy\"]"),
    ("associations", "family = \"xfrm\"\nsend = [\"getsadinfo\"]"),
    ("link", "family = \"route\"\njoin = [\"link\"]"),
    ("nftables", "family = \"netfilter\"\njoin = [\"nftables\"]"),
    ("acquire", "family = \"xfrm\"\njoin = [\"acquire\"]"),
    ("events", "family = \"kobject_uevent\"\njoin = [\"kernel\"]"),
];

fn policy(rules: &[(&str, &str)], user: u32) -> String {
    let rules =
        rules.iter().map(|(name, rule)| format!("[[policy.rule]]\nname = {name:?}\nusers = [{user}]\n{rule}\n"));
    format!("[policy]\nunmatched = \"deny\"\n{}", rules.collect::<String>())
}

/// What happened, by name, when an unprivileged user tried everything.
fn try_all(place: &Place, daemon: &Daemon<'_>, way: &str) -> Vec<(String, i32)> {
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
    command.args([
        "setpriv",
        "--reuid=1001",
        "--regid=1001",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
    ]);
    command.args(["--no-new-privs", "--"]).arg(client("device_grants").get_program()).arg(place.node()).arg(way);
    let result = output(&mut command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(result.status.success(), "{way}: {}\n{}", text(&result.stderr), daemon.tail());
    let line = |line: &str| {
        let (name, errno) = line.split_once(' ').expect("a name and a number");
        (name.to_owned(), errno.parse().expect("an errno"))
    };
    text(&result.stdout).lines().map(line).collect()
}

#[test]
fn a_rule_grants_what_it_names_and_nothing_else() {
    let place = Place::with_config(&policy(&[], 1001));
    let daemon = place.start();
    let mut reloads = 0;
    let mut denied = |rules: &[(&str, &str)], user, way: &str| -> Vec<String> {
        place.configure(&policy(rules, user));
        daemon.signal(Signal::SIGHUP);
        reloads += 1;
        wait_for(|| daemon.log().matches("configuration read").count() == reloads, || daemon.log());
        let tried = try_all(&place, &daemon, way);
        assert_eq!(tried.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), RULES.map(|(name, _)| name));
        tried.into_iter().filter(|(_, errno)| *errno == libc::EPERM).map(|(name, _)| name).collect()
    };
    let all: Vec<String> = RULES.iter().map(|(name, _)| (*name).to_owned()).collect();
    for way in ["ring", "write"] {
        assert_eq!(denied(&[], 1001, way), all, "{way}: by no rule");
        assert_eq!(denied(&RULES, 1002, way), all, "{way}: by another's rules");
        assert_eq!(denied(&RULES, 1001, way), Vec::<String>::new(), "{way}: by all rules");
    }
    for (at, (name, rule)) in RULES.iter().enumerate() {
        let others: Vec<&String> = all.iter().filter(|other| other != name).collect();
        let way = ["ring", "write"][at % 2];
        assert_eq!(denied(&[(name, rule)], 1001, way).iter().collect::<Vec<_>>(), others, "{way}: by the rule {name}");
    }
    daemon.wait_for_opens(0);
    daemon.stop();
}
