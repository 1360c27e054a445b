use std::time::Duration;

use super::*;
use crate::policy::config::tests::policy;
use crate::policy::wire::{Builder, attribute};

/// Whom the rules below are for.
const US: u32 = 1001;

pub fn subject(uid: u32) -> Subject {
    Subject { uid, gids: vec![500], cgroups: vec!["/x/y".into()] }
}

fn ids() -> GenericIds {
    GenericIds::of(&[(0x21, "wireguard"), (0x22, "taskstats")], &[(9, "wireguard", "peers")])
}

fn judge(rules: &str, family: i32, bytes: Vec<u8>) -> Result<Granted, String> {
    let policy = policy(rules).unwrap_or_else(|error| panic!("{error}\n{rules}"));
    let judged = policy.judge(&[&subject(US)], family as u32, true, bytes, &ids(), Instant::now());
    judged.map_err(|not| not.why.to_string())
}

fn rule(family: &str, send: &str, more: &str) -> String {
    format!("[[policy.rule]]\nname = \"r\"\nusers = [{US}]\nfamily = \"{family}\"\nsend = [{send}]\n{more}\n")
}

pub fn one(kind: u16, fixed: &[u8], attrs: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = fixed.to_vec();
    if !attrs.is_empty() {
        payload.resize(fixed.len().next_multiple_of(4), 0);
    }
    payload.extend(attrs.concat());
    Builder::default().message(kind, 5, &payload).0
}

/// `struct nfgenmsg` with a number.
pub fn nf(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    vec![2, 0, high, low]
}

const ROUTE: i32 = libc::NETLINK_ROUTE;
const NETFILTER: i32 = libc::NETLINK_NETFILTER;
const GENERIC: i32 = libc::NETLINK_GENERIC;
const DIAG: i32 = libc::NETLINK_SOCK_DIAG;
const XFRM: i32 = libc::NETLINK_XFRM;

/// Family, message granted by name, its type, its fixed part, an attribute it may have, one that it may not.
type Row = (&'static str, i32, &'static str, u16, Vec<u8>, Option<u16>, u16);

fn rows() -> Vec<Row> {
    let inet = [&[libc::AF_INET as u8][..], &[0; 55]].concat();
    vec![
        ("route", ROUTE, "getlink", 18, vec![0; 16], Some(3), 28),
        ("route", ROUTE, "newlink", 16, vec![0; 16], Some(4), 18),
        ("route", ROUTE, "setlink", 19, vec![0; 16], Some(4), 19),
        ("route", ROUTE, "dellink", 17, vec![0; 16], Some(3), 28),
        ("route", ROUTE, "newaddr", 20, vec![0; 8], Some(1), 10),
        ("route", ROUTE, "newroute", 24, vec![0; 12], Some(1), 22),
        ("route", ROUTE, "getroute", 26, vec![0; 12], Some(1), 25),
        ("route", ROUTE, "newneigh", 28, vec![0; 12], Some(2), 10),
        ("route", ROUTE, "newrule", 32, vec![0; 12], Some(1), 20),
        ("route", ROUTE, "getnsid", 90, vec![0; 1], Some(1), 3),
        ("route", ROUTE, "getqdisc", 38, vec![0; 20], Some(1), 2),
        ("netfilter", NETFILTER, "conntrack/get", 1 << 8 | 1, nf(0), Some(3), 19),
        ("netfilter", NETFILTER, "conntrack/delete", 1 << 8 | 2, nf(0), Some(12), 17),
        ("netfilter", NETFILTER, "expect/new", 2 << 8, nf(0), Some(4), 12),
        ("netfilter", NETFILTER, "nftables/gettable", 10 << 8 | 1, nf(0), Some(1), 9),
        ("netfilter", NETFILTER, "nftables/getrule", 10 << 8 | 7, nf(0), Some(3), 5),
        ("generic", GENERIC, "nlctrl/getfamily", 0x10, vec![3, 2, 0, 0], Some(2), 3),
        ("generic", GENERIC, "wireguard/set_device", 0x21, vec![1, 1, 0, 0], Some(3), 9),
        ("sock_diag", DIAG, "inet", 20, inet.clone(), Some(1), 2),
        ("sock_diag", DIAG, "unix", 20, [&[libc::AF_UNIX as u8][..], &[0; 23]].concat(), None, 1),
        ("sock_diag", DIAG, "destroy", 21, inet, Some(1), 2),
        ("xfrm", XFRM, "newsa", 0x10, vec![0; 224], Some(1), 8),
        ("xfrm", XFRM, "getpolicy", 0x15, vec![0; 64], Some(5), 33),
        ("xfrm", XFRM, "flushpolicy", 0x1d, vec![], Some(16), 8),
    ]
}

#[test]
fn each_message_is_granted_by_its_rule_and_by_no_other() {
    let rows = rows();
    for (family, number, name, kind, fixed, good, bad) in &rows {
        let rules = rule(family, &format!("{name:?}"), "");
        let attrs: Vec<_> = good.iter().map(|kind| attribute(*kind, &[])).collect();
        let bytes = one(*kind, fixed, &attrs);
        let granted = judge(&rules, *number, bytes.clone()).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!((granted.rules.clone(), granted.into_bytes()), (vec!["r".to_owned()], bytes.clone()));
        // An attribute that is unknown or never granted, alone, behind a good one, and with flags in its type.
        for kind_of_bad in [*bad, *bad | 0x8000, 4000] {
            let bytes = one(*kind, fixed, &[attrs.concat(), attribute(kind_of_bad, &[0; 8])]);
            let why = judge(&rules, *number, bytes).expect_err(name);
            assert!(why.contains("never granted") || why.contains("not known here"), "{name}: {why}");
        }
        // Too short for its fixed part, or with bytes behind it that are no attribute.
        if fixed.len() > 4 {
            let why = judge(&rules, *number, one(*kind, &fixed[..4], &[])).expect_err(name);
            assert!(why.contains("its fixed part has 4 bytes of "), "{name}: {why}");
        }
        let why = judge(&rules, *number, one(*kind, fixed, &[vec![9, 0, 1]])).expect_err(name);
        assert!(why.contains("none") || why.contains("length 9") || why.contains("fixed part"), "{name}: {why}");
        // Another rule of the family, another user.
        for (other, _, different, ..) in rows.iter().filter(|row| row.0 == *family && row.2 != *name) {
            let why = judge(&rule(other, &format!("{different:?}"), ""), *number, bytes.clone()).expect_err(name);
            assert_eq!(why, format!("no rule grants family={family} send={name}"));
        }
        let policy = policy(&rules).unwrap();
        let why =
            policy.judge(&[&subject(7)], *number as u32, true, bytes.clone(), &ids(), Instant::now()).unwrap_err();
        assert_eq!(
            (why.bytes, why.why.to_string()),
            (bytes.clone(), format!("no rule grants family={family} send={name}"))
        );
        let why = policy.judge(&[&subject(US)], *number as u32, false, bytes, &ids(), Instant::now()).unwrap_err().why;
        assert_eq!(why, Why::Destination);
    }
}

#[test]
fn one_message_that_is_not_granted_takes_the_others_with_it() {
    let rules = rule("route", "\"getlink\", \"getaddr\"", "");
    let get = |kind| Builder::default().message(kind, 5, &[0; 16]);
    assert!(judge(&rules, ROUTE, get(18).message(22, 5, &[0; 8]).0).is_ok());
    let mixed = judge(&rules, ROUTE, get(18).message(16, 5, &[0; 16]).message(22, 5, &[0; 8]).0);
    assert_eq!(mixed.unwrap_err(), "no rule grants family=route send=newlink");
    // Control messages are nothing to grant, and nothing in the way.
    assert!(judge(&rules, ROUTE, get(1).message(18, 5, &[0; 16]).0).is_ok());
    assert_eq!(judge(&rules, ROUTE, get(1).0).unwrap_err(), "it holds control messages alone");
    // Bytes behind the last message, a length that lies, nothing at all.
    let mut more = get(18).0;
    more.extend([1, 2, 3, 4]);
    assert_eq!(judge(&rules, ROUTE, more).unwrap_err(), "not understood: 4 bytes behind message 1 are none");
    let mut lies = get(18).message(16, 5, &[0; 16]).0;
    lies[0] = 64;
    // The second message is a part of the first, by its length.
    assert_eq!(judge(&rules, ROUTE, lies).unwrap_err(), "message 1 (getlink): its attribute 0 is not known here");
    assert!(judge(&rules, ROUTE, vec![]).unwrap_err().contains("no message"));
    let why = judge(&rules, ROUTE, get(500).0).unwrap_err();
    assert_eq!(why, "message 1 is not understood: type 0x1f4 of the family route is not known here");
    assert_eq!(judge(&rules, 9, get(18).0).unwrap_err(), "no rule is about the netlink family 9");
}

#[test]
fn queues_and_log_groups_are_those_of_the_rule() {
    let rules = rule("netfilter", "\"queue/*\", \"log/config\"", "queues = [7, \"10-12\"]\nlog_groups = [5]");
    let queue = |msg: u16, number| judge(&rules, NETFILTER, one(3 << 8 | msg, &nf(number), &[]));
    for msg in [1, 2, 3] {
        for number in 0..20 {
            let granted = queue(msg, number).is_ok();
            assert_eq!(granted, number == 7 || (10..=12).contains(&number), "message {msg} for queue {number}");
        }
    }
    assert_eq!(queue(2, 8).unwrap_err(), "no rule grants family=netfilter send=queue/config queue=8");
    // Binding a protocol family: the kernel has ignored it since 3.8, and every old client sends it.
    let command = |command: u8| attribute(1, &[command, 0, 0, 2]);
    let config = |subsys: u16, msg: u16, number, attrs: &[Vec<u8>]| {
        judge(&rules, NETFILTER, one(subsys << 8 | msg, &nf(number), attrs))
    };
    for pf in [3, 4] {
        assert!(config(3, 2, 0, &[command(pf)]).is_ok());
        // With another command in it as well, the number counts: the kernel takes the last.
        assert!(config(3, 2, 0, &[command(pf), command(1)]).is_err());
        assert!(config(3, 2, 0, &[command(1), command(pf)]).is_err());
    }
    assert!(config(3, 2, 0, &[command(1)]).is_err());
    // For log groups it chooses the module that logs, for all: another message.
    assert!(config(4, 1, 5, &[command(1)]).is_ok());
    assert_eq!(
        config(4, 1, 6, &[command(1)]).unwrap_err(),
        "no rule grants family=netfilter send=log/config log_group=6"
    );
    assert_eq!(config(4, 1, 0, &[command(3)]).unwrap_err(), "no rule grants family=netfilter send=log/family");
    assert!(config(4, 1, 5, &[command(3), command(1)]).unwrap_err().contains("at once"));
    assert!(config(4, 1, 5, &[command(1), command(3)]).unwrap_err().contains("at once"));
    // A verdict may change what is known of the connection, but no security label.
    let verdict = |inner: u16| config(3, 1, 7, &[attribute(11, &attribute(inner, &[0; 4]))]);
    assert!(verdict(8).is_ok());
    assert!(verdict(19).unwrap_err().contains("never granted"));
}

#[test]
fn batches_are_understood_to_their_end() {
    let rules = rule("netfilter", "\"nftables/newtable\", \"nftables/newrule\", \"conntrack/new\"", "");
    let begin = || Builder::default().message(0x10, 1, &nf(10));
    let table = |batch: Builder| batch.message(10 << 8, 5, &nf(0));
    let end = |batch: Builder| batch.message(0x11, 1, &nf(10)).0;
    let judge = |bytes| judge(&rules, NETFILTER, bytes).map(drop);
    assert_eq!(judge(end(table(begin()))), Ok(()));
    // As old programs have it.
    assert_eq!(judge(end(table(Builder::default().message(0x10, 1, &[0, 0, 10, 0])))), Ok(()));
    let wrong = |bytes, text: &str| {
        let why = judge(bytes).unwrap_err();
        assert!(why.contains(text), "{why}");
    };
    wrong(end(begin().message(10 << 8 | 2, 5, &nf(0))), "send=nftables/deltable");
    wrong(end(table(begin()).message(10 << 8 | 2, 5, &nf(0))), "send=nftables/deltable");
    wrong(end(begin().message(1 << 8, 5, &nf(0))), "not of its subsystem");
    wrong(end(begin().message(3, 5, &nf(0))), "not of its subsystem");
    wrong(table(begin()).0, "the batch has no end");
    let mut behind = end(table(begin()));
    behind.extend(table(Builder::default()).0);
    wrong(behind, "behind the end");
    wrong(end(table(Builder::default().message(0x10, 1, &nf(1)))), "subsystem 1 is not known");
    wrong(end(table(Builder::default().message(0x10, 1, &[0]))), "too short");
    // Not a batch for the kernel, which looks at the first message alone.
    wrong(end(table(Builder::default().message(10 << 8, 5, &nf(0)))), "type 0x11");
    wrong(table(table(Builder::default()).message(0x10, 1, &nf(10))).0, "type 0x10");
    wrong(begin().message(0x11, 1, &nf(10)).0, "control messages alone");
}

#[test]
fn expressions_of_rules_are_known_ones_wherever_they_stand() {
    let rules = rule("netfilter", "\"nftables/newrule\", \"nftables/newset*\"", "");
    let expr = |name: &str, data: &[u8]| [attribute(1, format!("{name}\0").as_bytes()), attribute(2, data)].concat();
    let list = |exprs: &[Vec<u8>]| exprs.iter().map(|expr| attribute(0x8000 | 1, expr)).collect::<Vec<_>>().concat();
    let newrule = |expressions: Vec<u8>| {
        let rule = one(10 << 8 | 6, &nf(0), &[attribute(1, b"t\0"), attribute(0x8000 | 4, &expressions)]);
        judge(&rules, NETFILTER, rule).map(drop)
    };
    assert_eq!(newrule(list(&[expr("payload", &[]), expr("cmp", &[]), expr("counter", &[])])), Ok(()));
    for never in ["match", "target", "socket", "bpf", ""] {
        let why = newrule(list(&[expr("cmp", &[]), expr(never, &[])])).unwrap_err();
        assert!(why.contains(&format!("the expression {never:?} is not known here, or never granted")), "{why}");
        // In a set that a rule fills, one and a list.
        for holder in [attribute(7, &expr(never, &[])), attribute(10, &list(&[expr(never, &[])]))] {
            let why = newrule(list(&[expr("dynset", &holder)])).unwrap_err();
            assert!(why.contains("never granted"), "{never}: {why}");
        }
        // In sets and their elements.
        for attr in [attribute(17, &expr(never, &[])), attribute(18, &list(&[expr(never, &[])]))] {
            assert!(judge(&rules, NETFILTER, one(10 << 8 | 9, &nf(0), &[attr])).is_err(), "{never}");
        }
        let element = attribute(3, &attribute(1, &attribute(7, &expr(never, &[]))));
        assert!(judge(&rules, NETFILTER, one(10 << 8 | 12, &nf(0), &[element])).is_err(), "{never}");
    }
    assert_eq!(newrule(list(&[expr("dynset", &attribute(7, &expr("limit", &[])))])), Ok(()));
    // Two names, of which the kernel takes one.
    let two = [attribute(1, b"cmp\0"), attribute(1, b"match\0")].concat();
    assert!(newrule(list(&[two])).unwrap_err().contains("\"match\""));
    assert!(newrule(attribute(2, &expr("cmp", &[]))).unwrap_err().contains("holds the attribute 2"));
    assert!(newrule(list(&[attribute(2, &[])])).unwrap_err().contains("without a name"));
    // Modules of iptables are told of beside the expressions too.
    let compat = one(10 << 8 | 6, &nf(0), &[attribute(5, &[])]);
    assert!(judge(&rules, NETFILTER, compat).unwrap_err().contains("programs and files"));
}

#[test]
fn what_names_the_daemons_tables_is_never_granted_however_deep() {
    let rules = rule("route", "\"newroute\", \"getlink\", \"getnsid\"", "");
    let hop = |attrs: &[u8]| [&((8 + attrs.len()) as u16).to_ne_bytes()[..], &[0; 6], attrs].concat();
    let route = |multipath: Vec<u8>| judge(&rules, ROUTE, one(24, &[0; 12], &[attribute(9, &multipath)])).map(drop);
    assert_eq!(route([hop(&attribute(5, &[0; 4])), hop(&[])].concat()), Ok(()));
    assert!(route([hop(&[]), hop(&attribute(22, &[0; 4]))].concat()).unwrap_err().contains("never granted"));
    assert!(route(vec![40, 0, 0, 0, 0, 0, 0, 0]).unwrap_err().contains("a next hop has length 40"));
    assert!(route(vec![0; 8]).is_err());
    let linkinfo =
        |inner: u16| judge(&rules, ROUTE, one(18, &[0; 16], &[attribute(18, &attribute(inner, b"veth\0"))])).map(drop);
    assert_eq!(linkinfo(1), Ok(()));
    assert!(linkinfo(2).unwrap_err().contains("depends on a driver"));
    for (attr, word) in [(2, "process"), (3, "open file"), (4, "namespace")] {
        let why = judge(&rules, ROUTE, one(90, &[0], &[attribute(attr, &[0; 4])])).unwrap_err();
        assert!(why.contains(word), "{why}");
    }
    // A family by number that is not known by name, and one whose requests are about processes.
    let generic = rule("generic", "\"nlctrl/*\"", "");
    for kind in [0x22, 0x23] {
        assert!(judge(&generic, GENERIC, one(kind, &[1, 1, 0, 0], &[])).unwrap_err().contains("is not known here"));
    }
}

#[test]
fn dumps_of_old_clients_may_be_short_and_nothing_else() {
    let rules = rule("route", "\"getlink\", \"newlink\"", "");
    let short = |kind, flags| judge(&rules, ROUTE, Builder::default().message(kind, flags, &[0]).0).map(drop);
    assert_eq!(short(18, 0x301), Ok(()));
    assert!(short(18, 1).is_err());
    assert!(short(16, 0x301).is_err());
}

#[test]
fn rates_hold_for_rule_and_user() {
    let policy = policy(&rule("route", "\"getlink\"", "rate = 3")).unwrap();
    let now = Instant::now();
    let ask = |at| {
        let bytes = one(18, &[0; 16], &[]);
        policy.judge(&[&subject(US)], ROUTE as u32, true, bytes, &ids(), now + at).map(drop).map_err(|not| not.why)
    };
    let first: Vec<_> = (0..4).map(|_| ask(Duration::ZERO)).collect();
    assert_eq!(first, [Ok(()), Ok(()), Ok(()), Err(Why::Rate("r".into()))]);
    assert_eq!(ask(Duration::from_secs(1)), Ok(()));
}

#[test]
fn groups_are_granted_by_name() {
    let text = format!(
        "[[policy.rule]]\nname = \"a\"\nusers = [{US}]\nfamily = \"netfilter\"\njoin = [\"nftables\"]\n\
         [[policy.rule]]\nname = \"b\"\nusers = [{US}]\nfamily = \"generic\"\njoin = [\"wireguard/peers\"]\n\
         [[policy.rule]]\nname = \"c\"\ncgroups = [\"/x\"]\nfamily = \"kobject_uevent\"\njoin = [\"kernel\"]\n\
         [[policy.rule]]\nname = \"d\"\ngroups = [500]\nfamily = \"xfrm\"\njoin = [\"acquire\"]\n"
    );
    let policy = policy(&text).unwrap();
    let join = |uid, family: i32, group| {
        let wanted = Policy::wants_to_join(family as u32, group, &ids()).map_err(|why| why.to_string())?;
        let rule = policy.rule_for(&[&subject(uid)], &wanted).map(|(_, rule)| rule.name.clone());
        rule.ok_or_else(|| Why::NoRule(wanted).to_string())
    };
    assert_eq!(join(US, NETFILTER, 7), Ok("a".into()));
    assert_eq!(join(US, GENERIC, 9), Ok("b".into()));
    assert_eq!(join(7, libc::NETLINK_KOBJECT_UEVENT, 1), Ok("c".into()));
    assert_eq!(join(7, XFRM, 1), Ok("d".into()));
    assert_eq!(join(US, NETFILTER, 1).unwrap_err(), "no rule grants family=netfilter join=conntrack_new");
    assert_eq!(join(7, NETFILTER, 7).unwrap_err(), "no rule grants family=netfilter join=nftables");
    assert!(join(US, GENERIC, 10).unwrap_err().contains("group 10 of the family generic is not known here"));
    assert!(join(US, 9, 1).unwrap_err().contains("family 9"));
}

/// A grant needs both: whoever asks, and whoever opened the node that he asks through.
#[test]
fn grants_are_neither_handed_on_nor_borrowed() {
    let policy = policy(&rule("route", "\"getlink\"", "")).unwrap();
    let (us, other) = (subject(US), subject(7));
    let judge = |subjects: &[&Subject]| {
        policy.judge(subjects, ROUTE as u32, true, one(18, &[0; 16], &[]), &ids(), Instant::now()).is_ok()
    };
    assert!(judge(&[&us, &us]));
    assert!(!judge(&[&us, &other]));
    assert!(!judge(&[&other, &us]));
    assert!(policy.has_grants(&[&us], ROUTE as u32) && !policy.has_grants(&[&us, &other], ROUTE as u32));
}

#[test]
fn any_bytes_are_judged_without_harm() {
    let text: String = ["route", "netfilter", "generic", "sock_diag", "xfrm"]
        .iter()
        .map(|family| {
            format!(
                "[[policy.rule]]\nusers = [\"*\"]\nfamily = \"{family}\"\nsend = [\"*\"]\n{}",
                if *family == "netfilter" { "queues = [\"*\"]\nlog_groups = [\"*\"]\n" } else { "" }
            )
        })
        .collect();
    let policy = policy(&text).unwrap();
    let mut seed = 1u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as u32
    };
    let seeds = rows();
    for round in 0..20_000 {
        let (_, family, _, kind, fixed, good, _) = &seeds[round % seeds.len()];
        let mut bytes = one(*kind, fixed, &good.iter().map(|kind| attribute(*kind, &[0; 4])).collect::<Vec<_>>());
        for _ in 0..next() % 6 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        bytes.truncate(bytes.len() - next() as usize % 3);
        let before = bytes.clone();
        match policy.judge(&[&subject(US)], *family as u32, true, bytes, &ids(), Instant::now()) {
            Ok(granted) => assert_eq!(granted.into_bytes(), before),
            Err(not) => assert_eq!(not.bytes, before),
        }
    }
}
