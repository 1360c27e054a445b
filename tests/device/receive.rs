//! Rules with `receive`: of what arrives by a grant, what they name, in a ring and by `read`.

use std::process::Command;

use serde_json::Value;

use crate::daemon::{Daemon, NLMMAP, Place, client, output};

const POLICY: &str = r#"
[[policy.rule]]
name = "links"
users = [1001]
family = "route"
send = ["getlink", "getaddr"]
join = ["link", "ipv4_ifaddr", "brvlan"]
receive = ["newlink", "newvlan"]

[[policy.rule]]
name = "the generation"
users = [1001]
family = "netfilter"
send = ["conntrack/get_stats", "nftables/getgen"]
receive = ["NFT_MSG_NEWGEN"]

[[policy.rule]]
name = "features"
users = [1001]
family = "generic"
send = ["nlctrl/getfamily"]
join = ["ethtool/monitor"]
receive = ["ethtool/features_ntf"]

[[policy.rule]]
name = "rings"
users = [1002]
family = "generic"
join = ["ethtool/monitor"]
receive = ["ethtool/rings_ntf"]

[[policy.rule]]
name = "local sockets"
users = [1001]
family = "sock_diag"
send = ["inet", "unix"]
receive = ["unix"]

[[policy.rule]]
name = "associations"
users = [1001]
family = "xfrm"
send = ["getsadinfo", "getspdinfo"]
receive = ["newsadinfo"]

[[policy.rule]]
name = "what is gone"
users = [1001]
family = "kobject_uevent"
join = ["kernel"]
receive = ["remove"]
"#;

/// As root, in the network namespace of the client: stirs until the client is gone.
const INSIDE: &str = "ip link set lo up
me=$$
(while kill -0 $me; do eval \"$STIR\"; sleep 0.02; done) >/dev/null 2>&1 </dev/null &
exec \"$@\"";

const LINKS: &str =
    "ip addr add 10.9.9.9/32 dev lo; ip link set lo down; ip addr del 10.9.9.9/32 dev lo; ip link set lo up";
/// By ioctl, since not every machine has ethtool.
const FEATURES: &str = r#"python3 -c '
import ctypes, fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for on in (0, 1):
    value = ctypes.create_string_buffer(struct.pack("II", 0x2c, on))
    fcntl.ioctl(s, 0x8946, struct.pack("16sP16x", b"lo", ctypes.addressof(value)))
'"#;
const VLANS: &str = "ip link show br9 || ip link add br9 type bridge vlan_filtering 1
bridge vlan add dev br9 vid 5 self; bridge vlan del dev br9 vid 5 self";
const EVENTS: &str = "ip link add v9 type veth peer name v8; ip link del v9";

fn run(place: &Place, daemon: &Daemon<'_>, uid: u32, stir: &str, args: &[&str]) {
    for way in ["ring", "read"] {
        let program = client("device_receive").get_program().to_owned();
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", INSIDE, "sh", "setpriv"]).env("STIR", stir);
        command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
        command.arg(program).arg(place.node()).arg(way).args(args);
        let result = output(&mut command);
        if result.status.code() == Some(77) {
            eprintln!("skipped: this kernel lacks something");
            continue;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&result.stdout), text(&result.stderr));
        assert!(
            result.status.success(),
            "{way} {args:?}: {}\n{out}{err}\nthe daemon:\n{}",
            result.status,
            daemon.tail()
        );
    }
}

fn with_policy(f: impl FnOnce(&Place, &Daemon<'_>)) {
    let place = Place::with_config(POLICY);
    let daemon = place.start();
    f(&place, &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn answers_to_what_was_granted_are_those_that_the_rule_names() {
    with_policy(|place, daemon| run(place, daemon, 1001, "true", &["answers"]));
}

#[test]
fn messages_to_lent_groups_are_those_that_the_rule_names() {
    with_policy(|place, daemon| {
        run(place, daemon, 1001, LINKS, &["links"]);
        run(place, daemon, 1001, EVENTS, &["events"]);
    });
}

#[test]
fn messages_of_generic_families_are_known_by_name() {
    with_policy(|place, daemon| {
        run(place, daemon, 1001, FEATURES, &["monitor", "1"]);
        run(place, daemon, 1002, FEATURES, &["monitor", "0"]);
    });
}

/// Only ancillary data tells a group above 32.
#[test]
fn groups_that_no_address_tells_are_known_all_the_same() {
    with_policy(|place, daemon| run(place, daemon, 1001, VLANS, &["vlans"]));
}

/// What does not arrive is counted, for people.
#[test]
fn stat_counts_what_does_not_arrive() {
    with_policy(|place, daemon| {
        let program = client("device_receive").get_program().to_owned();
        let mut command = Command::new("unshare");
        let stir = "ip addr add 10.9.9.9/32 dev lo; ip addr del 10.9.9.9/32 dev lo";
        command.args(["--net", "--", "sh", "-c", INSIDE, "sh", "setpriv", "--reuid=1001", "--regid=1001"]);
        command.args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--"]).arg(program);
        // It waits for links, of which there are none.
        let mut child = command.arg(place.node()).args(["ring", "links"]).env("STIR", stir).spawn().expect("a client");
        let drops = |stat: &Value| stat["endpoints"][0]["policy_drops"].as_u64();
        crate::lifecycle::wait_for(|| drops(&daemon.stat()).is_some_and(|drops| drops > 3), || daemon.log());
        let stat = daemon.stat();
        assert_eq!(
            (stat["endpoints"][0]["rx_frames"].as_u64(), stat["endpoints"][0]["overruns"].as_u64()),
            (Some(0), Some(0))
        );
        child.kill().expect("a child");
        let _ = child.wait();
    });
}

/// The daemon's log as a policy.
fn suggested(place: &Place) -> String {
    let mut command = Command::new(NLMMAP);
    let result = output(command.args(["policy", "suggest"]).arg(place.path("log")));
    assert!(result.status.success(), "{result:?}");
    String::from_utf8(result.stdout).expect("text")
}

/// Nothing is withheld under `--audit`; what would be is told with the rule, and so is what comes by no rule.
#[test]
fn an_audit_tells_what_rules_withhold_and_withholds_nothing() {
    let mut place = Place::with_config(POLICY);
    place.args.push("--audit".into());
    let daemon = place.start();
    run(&place, &daemon, 1001, "true", &["audited"]);
    for told in [
        "family=route receive=newaddr rule=\"links\"",
        "family=route receive=newroute",
        "family=netfilter receive=conntrack/get_stats rule=\"the generation\"",
        "family=generic receive=nlctrl/newfamily rule=\"features\"",
        "family=sock_diag receive=inet rule=\"local sockets\"",
        "family=xfrm receive=newspdinfo rule=\"associations\"",
    ] {
        daemon.says(told);
    }
    let log = daemon.log();
    for named in
        ["receive=newlink", "receive=newroute rule", "receive=nftables/newgen", "receive=unix", "receive=newsadinfo"]
    {
        assert!(!log.contains(named), "{named}:\n{log}");
    }
    daemon.wait_for_opens(0);
    daemon.stop();
    let text = suggested(&place);
    for line in [
        "send = [\"getroute\"]\nreceive = [\"newroute\"]",
        "# The `receive` of your rule \"links\" withholds from 1001, on route sockets: \"newaddr\"\n",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
}

/// What arrived under `--audit` is in the policy that comes of it; the workload runs under that, without any right of its own.
#[test]
fn an_audit_becomes_a_policy_that_says_what_arrives() {
    let mut place = Place::with_config("");
    place.args.push("--audit".into());
    let daemon = place.start();
    run(&place, &daemon, 1001, LINKS, &["workload"]);
    daemon.wait_for_opens(0);
    daemon.stop();
    let text = suggested(&place);
    let rule = "family = \"route\"\nsend = [\"getlink\"]\njoin = [\"ipv4_ifaddr\", \"link\"]\n\
                receive = [\"deladdr\", \"newaddr\", \"newlink\"]   # what arrived";
    assert!(text.contains(rule), "{text}");
    let place = Place::with_config(&text);
    let daemon = place.start();
    run(&place, &daemon, 1001, LINKS, &["workload"]);
    daemon.wait_for_opens(0);
    daemon.stop();
}
