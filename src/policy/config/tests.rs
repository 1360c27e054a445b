use super::*;

pub struct Two;

impl Accounts for Two {
    fn user(&self, name: &str) -> Option<u32> {
        [("filterd", 1001), ("monitor", 1002)].iter().find(|(known, _)| *known == name).map(|(_, id)| *id)
    }

    fn group(&self, name: &str) -> Option<u32> {
        (name == "netmon").then_some(500)
    }

    fn users(&self) -> Vec<String> {
        vec!["filterd".into(), "monitor".into()]
    }

    fn groups(&self) -> Vec<String> {
        vec!["netmon".into()]
    }
}

#[derive(Deserialize)]
struct Whole {
    policy: Raw,
}

pub fn policy(text: &str) -> Result<Policy, String> {
    let whole: Whole = toml::from_str(text).map_err(|error| error.to_string())?;
    Policy::new(&whole.policy, text, &Two).map_err(|error| error.to_string())
}

const GOOD: &str = r#"
[policy]
unmatched = "deny"

[[policy.rule]]
name = "queue 7"
users = ["filterd", 77]
groups = ["netmon"]
cgroups = ["/system.slice/filterd.service"]
family = "netfilter"
send = ["queue/*", "NFULNL_MSG_CONFIG"]
queues = [7, "10-19"]
log_groups = ["*"]
join = ["conntrack_new"]
receive = ["queue/packet", "IPCTNL_MSG_CT_*"]
rate = 1000

[[policy.rule]]
users = ["*"]
family = "ROUTE"
send = ["RTM_GET*"]
join = ["*"]

[[policy.rule]]
users = [0]
family = "generic"
join = ["nlctrl/notify"]
"#;

#[test]
fn a_whole_policy() {
    let policy = policy(GOOD).unwrap();
    assert_eq!(policy.unmatched, Unmatched::Deny);
    let [queue, route, generic] = policy.rules.as_slice() else { panic!("{policy:?}") };
    assert_eq!((queue.name.as_str(), queue.users.as_deref()), ("queue 7", Some(&[1001, 77][..])));
    assert_eq!((queue.groups.as_deref(), queue.rate), (Some(&[500][..]), Some(1000)));
    assert_eq!(queue.cgroups.as_deref(), Some(&["/system.slice/filterd.service".to_owned()][..]));
    let names: Vec<_> = queue.send.iter().map(|message| message.name).collect();
    assert_eq!(names, ["queue/verdict", "queue/config", "queue/verdict_batch", "log/config"]);
    assert!(
        queue.queues.contains(7) && queue.queues.contains(19) && !queue.queues.contains(8) && !queue.queues.is_all()
    );
    assert!(queue.log_groups.is_all());
    assert_eq!(queue.join, [Group::Known(1, "conntrack_new")]);
    let received: Vec<_> = queue.receive.iter().flatten().map(|message| message.name).collect();
    assert_eq!(
        received,
        ["queue/packet", "conntrack/new", "conntrack/delete", "conntrack/get_stats_cpu", "conntrack/get_stats"]
    );
    assert!(route.receive.is_none());
    assert_eq!((route.name.as_str(), &route.users), ("#2", &None));
    assert!(route.send.iter().all(|message| message.uapi.starts_with("RTM_GET")) && route.send.len() > 10);
    assert_eq!(route.join.len(), route.family.groups.len());
    assert_eq!(generic.join, [Group::Generic("nlctrl".into(), "notify".into())]);
    assert!(!policy.is_empty());
}

/// A line of a rule, and what is wrong with it.
const BAD: [(&str, &str); 21] = [
    ("users = [\"filtered\"]", "3: rule \"x\": no user is called \"filtered\"; did you mean \"filterd\"?"),
    ("users = [-1]", "3: rule \"x\": -1 is no user"),
    ("users = [true]", "3: rule \"x\": true is no user: use a name, a number, or \"*\""),
    ("groups = [\"netmn\"]", "3: rule \"x\": no group is called \"netmn\"; did you mean \"netmon\"?"),
    ("cgroups = [\"a\"]", "3: rule \"x\": \"a\" is no control group: use its path, as in /proc/PID/cgroup"),
    ("family = \"netfiltr\"", "3: rule \"x\": no family \"netfiltr\" is known here; did you mean \"netfilter\"?"),
    ("family = \"audit\"", "3: rule \"x\": no family \"audit\" is known here"),
    (
        "send = [\"queue/confg\"]",
        "3: rule \"x\": the family netfilter has no message \"queue/confg\" that is known here; did you mean \"queue/config\"?",
    ),
    ("send = [\"frobnicate\"]", "3: rule \"x\": the family netfilter has no message \"frobnicate\" that is known here"),
    ("send = [\"blue*\"]", "3: rule \"x\": no message of the family netfilter begins with \"blue\""),
    (
        "send = [\"nftables/newobj\"]",
        "3: rule \"x\": nftables/newobj can never be granted: an object may be a security label",
    ),
    (
        "join = [\"conntrak_new\"]",
        "3: rule \"x\": the family netfilter has no group \"conntrak_new\"; did you mean \"conntrack_new\"?",
    ),
    ("send = [\"queue/config\"]", "1: rule \"x\": it does not say which: queues"),
    ("queues = [1]\nsend = [\"conntrack/get\"]", "1: rule \"x\": queues without a message that has such a number"),
    (
        "send = [\"queue/config\"]\nqueues = [70000]",
        "4: rule \"x\": 70000 is no queue number: use 0 to 65535, \"FIRST-LAST\", or \"*\"",
    ),
    (
        "send = [\"queue/config\"]\nqueues = [\"9-3\"]",
        "4: rule \"x\": \"9-3\" is no queue number: use 0 to 65535, \"FIRST-LAST\", or \"*\"",
    ),
    ("send = [\"conntrack/get\"]\nrate = 0", "4: rule \"x\": 0 is no rate: messages a second"),
    (
        "send = [\"conntrack/get\"]\nreceive = [\"conntrack/gone\"]",
        "4: rule \"x\": the family netfilter is sent no message \"conntrack/gone\" that is known here; did you mean \"conntrack/new\"?",
    ),
    (
        "send = [\"conntrack/get\"]\nreceive = [\"conntrack/get\"]",
        "4: rule \"x\": the family netfilter is sent no message \"conntrack/get\" that is known here; did you mean \"conntrack/new\"?",
    ),
    ("send = []", "1: rule \"x\": it grants nothing: send or join"),
    (
        "family = \"generic\"\njoin = [\"notify\"]",
        "4: rule \"x\": \"notify\" is no group of a generic family: use \"FAMILY/GROUP\"",
    ),
];

#[test]
fn what_is_wrong_is_told_with_line_rule_and_the_nearest_name() {
    for (line, wrong) in BAD {
        let rest = [("users", "users = [1]"), ("family", "family = \"netfilter\""), ("", "")];
        let missing: Vec<_> =
            rest.iter().filter(|(key, _)| !key.is_empty() && !line.starts_with(key)).map(|(_, l)| *l).collect();
        let text = format!("[[policy.rule]]\nname = \"x\"\n{line}\n{}\n", missing.join("\n"));
        assert_eq!(policy(&text).err().as_deref(), Some(wrong), "{text}");
    }
    for (text, wrong) in [
        ("[policy]\nunmatched = \"maybe\"\n", "2: unmatched = \"maybe\": use \"own\" or \"deny\""),
        (
            "[[policy.rule]]\nfamily = \"route\"\nsend = [\"getlink\"]\n",
            "1: rule \"#1\": it does not say to whom: users, groups or cgroups (users = [\"*\"] is everybody)",
        ),
        ("[[policy.rule]]\nusers = [1]\nsend = [\"getlink\"]\n", "1: rule \"#1\": it has no family"),
    ] {
        assert_eq!(policy(text).err().as_deref(), Some(wrong));
    }
    let unknown = policy("[[policy.rule]]\nuser = [1]\n").unwrap_err();
    assert!(unknown.contains("line 2") && unknown.contains("`user`"), "{unknown}");
    let one = "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\nsend = [\"getlink\"]\n";
    assert_eq!(policy(&[one, one].concat()).err().as_deref(), Some("7: rule \"x\": another rule has this name"));
}

/// What documents and packages show is good.
#[test]
fn examples_of_the_documents_are_good() {
    const PAGE: &str = include_str!("../../../docs/policy.md");
    const MANUAL: &str = include_str!("../../../docs/nlmmap.toml.5");
    const FILE: &str = include_str!("../../../packaging/nlmmap.toml");
    const CONTAINER: &str = include_str!("../../../docs/container.md");
    let page = PAGE.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let manual = MANUAL.split(".SH EXAMPLES\n.nf\n").nth(1).and_then(|rest| rest.split("\n.fi").next()).unwrap();
    let from = FILE.find("# [policy]").unwrap();
    let file: String = FILE[from..].lines().map(|line| line.trim_start_matches('#').to_owned() + "\n").collect();
    assert!(!CONTAINER.contains("```toml"), "read it here, too");
    let limits = |text: &str| text.replace("[limits]\nopens_per_uid = 64\n", "");
    for (text, rules) in [(page.to_owned(), 1), (limits(manual), 2), (file, 1)] {
        let policy = policy(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(policy.rules.len(), rules, "{text}");
    }
}
