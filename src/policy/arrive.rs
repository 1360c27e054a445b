//! Whether a message of the kernel's reaches a client by a rule, and why.

use std::fmt::Write;

use super::catalog::received::{Is, LOG_PACKET, QUEUE_PACKET, Received};
use super::catalog::{Message, Number};
use super::config::{Group, Numbers, Policy, Rule, Unmatched};
use super::decide::{Wanted, What};
use super::subject::Subject;
use super::words::{self, list};

/// Whether something that a client sends may bring this: packets come by a binding, answers from where the question went.
fn may_bring(message: &Message, received: &Received) -> bool {
    let begin = |name: &'static str| name.split_once('/').map(|(begin, _)| begin);
    match received.is {
        Is::Kind(QUEUE_PACKET) => message.name == "queue/config",
        Is::Kind(LOG_PACKET) => message.name == "log/config",
        _ => message.number == Number::None && begin(message.name) == begin(received.name),
    }
}

/// Whether a generic family's group may be sent this.
fn may_be_sent(group: &Group, received: &Received) -> bool {
    match (group, received.is) {
        (_, Is::Kind(QUEUE_PACKET | LOG_PACKET)) => false,
        (Group::Generic(family, _), Is::Command(of, _)) => family == of,
        _ => true,
    }
}

/// What a client does to be told something, for people.
fn way(wanted: &Wanted) -> String {
    match &wanted.what {
        What::Join(group) => format!("join {group}"),
        What::Send { message, queue, log_group } => {
            let number =
                |what: &str, number: &Option<u16>| number.map_or_else(String::new, |n| format!(" for {what} {n}"));
            format!("send {message}{}{}", number("queue", queue), number("log group", log_group))
        }
        What::Receive { message, .. } => format!("be told {message}"),
    }
}

fn lets(rule: &Rule, received: &Received) -> bool {
    rule.receive.as_ref().is_none_or(|named| named.iter().any(|message| message.name == received.name))
}

/// May a client be told this, by a grant of `by`, or by any; and why.
pub fn answer(policy: &Policy, subject: &Subject, received: &Received, by: Option<&Wanted>) -> (bool, String) {
    let Some(by) = by else {
        return by_any(policy, subject, received);
    };
    let Some((_, rule)) = policy.rule_for(&[subject], by) else {
        let (_, why) = words::answer(policy, subject, by);
        let tail = if policy.unmatched == Unmatched::Own { ", and all that this brings arrives" } else { "" };
        return (false, format!("{why}{tail}"));
    };
    let (name, way) = (&rule.name, way(by));
    match (&rule.receive, lets(rule, received)) {
        (None, _) => {
            (true, format!("yes, by rule {name:?}, which lets the client {way} and withholds nothing of that"))
        }
        (_, true) => (true, format!("yes, by rule {name:?}, which lets the client {way} and names {}", received.name)),
        (_, false) => (
            false,
            format!("no: rule {name:?} lets the client {way}, and its `receive` does not name {}", received.name),
        ),
    }
}

/// What of a rule may bring this to a client, and is not an earlier rule's.
fn ways(policy: &Policy, subject: &Subject, at: usize, rule: &Rule, received: &Received) -> Vec<String> {
    let is_first = |what| {
        let wanted = Wanted { family: rule.family.name, what };
        policy.rule_for(&[subject], &wanted).is_some_and(|(first, _)| first == at)
    };
    let mut found: Vec<String> = Vec::new();
    for group in rule.join.iter().filter(|group| may_be_sent(group, received)) {
        let name = match group {
            Group::Known(_, name) => (*name).to_owned(),
            Group::Generic(family, name) => format!("{family}/{name}"),
        };
        if is_first(What::Join(name.clone())) {
            found.push(format!("join {name}"));
        }
    }
    let any = |numbers: &Numbers, what: &dyn Fn(u16) -> What| {
        numbers.0.iter().flat_map(|(first, last)| *first..=*last).any(|number| is_first(what(number)))
    };
    for message in rule.send.iter().filter(|message| may_bring(message, received)) {
        let name = message.name;
        let first = match message.number {
            Number::None => is_first(What::Send { message: name, queue: None, log_group: None }),
            Number::Queue => any(&rule.queues, &|n| What::Send { message: name, queue: Some(n), log_group: None }),
            Number::LogGroup => {
                any(&rule.log_groups, &|n| What::Send { message: name, queue: None, log_group: Some(n) })
            }
        };
        if first {
            found.push(format!("send {name}"));
        }
    }
    found.dedup();
    found
}

fn by_any(policy: &Policy, subject: &Subject, received: &Received) -> (bool, String) {
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    let rules = policy.rules.iter().enumerate();
    for (at, rule) in rules.filter(|(_, rule)| rule.is_for(subject) && rule.family.has(received)) {
        let ways = ways(policy, subject, at, rule, received);
        if !ways.is_empty() {
            let text = format!("rule {:?} ({})", rule.name, list(ways));
            if lets(rule, received) { &mut yes } else { &mut no }.push(text);
        }
    }
    let mut why = match (yes.as_slice(), no.as_slice()) {
        ([], []) => "no: none of the rules for this client brings that".to_owned(),
        ([], no) => format!("no: withheld by {}", list(no)),
        (yes, _) => format!("yes, by {}", list(yes)),
    };
    if !yes.is_empty() && !no.is_empty() {
        let _ = write!(why, "; withheld by {}", list(no));
    }
    if yes.is_empty() {
        why += match policy.unmatched {
            Unmatched::Own => "; what the client gets by its own rights arrives",
            Unmatched::Deny => "; what no rule grants is refused",
        };
    }
    (!yes.is_empty(), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::catalog::family;
    use crate::policy::config::tests::policy;

    const TEXT: &str = r#"
[[policy.rule]]
name = "links"
users = [1001]
family = "route"
send = ["getlink", "getaddr"]
join = ["link", "ipv4_ifaddr"]
receive = ["newlink"]
[[policy.rule]]
name = "later"
users = [1001]
family = "route"
send = ["getlink", "getroute"]
join = ["link"]
[[policy.rule]]
name = "queue 7"
users = [1001]
family = "netfilter"
send = ["queue/*", "conntrack/get"]
queues = [7]
join = ["nftables"]
receive = ["conntrack/new"]
[[policy.rule]]
name = "queues"
users = ["*"]
family = "netfilter"
send = ["queue/*", "nftables/get*"]
queues = ["7-8"]
[[policy.rule]]
name = "monitor"
users = [1001]
family = "generic"
join = ["ethtool/monitor"]
receive = ["ethtool/rings_ntf"]
"#;

    fn ask(rules: &str, uid: u32, of: &str, message: &str, by: Option<What>) -> (bool, String) {
        let policy = policy(rules).unwrap();
        let family = family(of).unwrap();
        let wanted = by.map(|what| Wanted { family: family.name, what });
        let subject = Subject { uid, ..Subject::default() };
        answer(&policy, &subject, family.received(message).unwrap(), wanted.as_ref())
    }

    fn send(message: &'static str, queue: Option<u16>) -> Option<What> {
        Some(What::Send { message, queue, log_group: None })
    }

    #[test]
    fn by_one_grant() {
        let join = |group: &str| Some(What::Join(group.into()));
        for (uid, of, message, by, may, why) in [
            (
                1001,
                "route",
                "newlink",
                join("link"),
                true,
                "yes, by rule \"links\", which lets the client join link and names newlink",
            ),
            (
                1001,
                "route",
                "dellink",
                join("link"),
                false,
                "no: rule \"links\" lets the client join link, and its `receive` does not name dellink",
            ),
            (
                1001,
                "route",
                "newlink",
                send("getlink", None),
                true,
                "yes, by rule \"links\", which lets the client send getlink and names newlink",
            ),
            (
                1001,
                "route",
                "newroute",
                send("getroute", None),
                true,
                "yes, by rule \"later\", which lets the client send getroute and withholds nothing of that",
            ),
            (
                1001,
                "route",
                "newneigh",
                join("neigh"),
                false,
                "no: none of the rules for this client grants that; it is joined with the client's own rights, and all that this brings arrives",
            ),
            (
                5,
                "route",
                "newlink",
                join("link"),
                false,
                "no: granted to others, by rule \"links\", \"later\"; it is joined with the client's own rights, and all that this brings arrives",
            ),
            (
                1001,
                "netfilter",
                "queue/packet",
                send("queue/config", Some(7)),
                false,
                "no: rule \"queue 7\" lets the client send queue/config for queue 7, and its `receive` does not name queue/packet",
            ),
            (
                1001,
                "netfilter",
                "queue/packet",
                send("queue/config", Some(8)),
                true,
                "yes, by rule \"queues\", which lets the client send queue/config for queue 8 and withholds nothing of that",
            ),
        ] {
            assert_eq!(ask(TEXT, uid, of, message, by), (may, why.to_owned()));
        }
        let deny = format!("[policy]\nunmatched = \"deny\"\n{TEXT}");
        let (may, why) = ask(&deny, 1001, "route", "newneigh", join("neigh"));
        assert_eq!((may, why.as_str()), (false, "no: none of the rules for this client grants that; it is refused"));
    }

    #[test]
    fn by_any_grant() {
        for (uid, of, message, may, why) in [
            (
                1001,
                "route",
                "newlink",
                true,
                "yes, by rule \"links\" (join link, join ipv4_ifaddr, send getlink, send getaddr), rule \"later\" (send getroute)",
            ),
            // What an earlier rule grants is that rule's alone.
            (
                1001,
                "route",
                "dellink",
                true,
                "yes, by rule \"later\" (send getroute); withheld by rule \"links\" (join link, join ipv4_ifaddr, send getlink, send getaddr)",
            ),
            (
                1001,
                "netfilter",
                "queue/packet",
                true,
                "yes, by rule \"queues\" (send queue/config); withheld by rule \"queue 7\" (send queue/config)",
            ),
            (5, "netfilter", "queue/packet", true, "yes, by rule \"queues\" (send queue/config)"),
            (
                1001,
                "netfilter",
                "conntrack/delete",
                false,
                "no: withheld by rule \"queue 7\" (join nftables, send conntrack/get); what the client gets by its own rights arrives",
            ),
            (1001, "generic", "ethtool/rings_ntf", true, "yes, by rule \"monitor\" (join ethtool/monitor)"),
            (
                1001,
                "generic",
                "ethtool/wol_ntf",
                false,
                "no: withheld by rule \"monitor\" (join ethtool/monitor); what the client gets by its own rights arrives",
            ),
            (
                1001,
                "generic",
                "nl80211/roam",
                false,
                "no: none of the rules for this client brings that; what the client gets by its own rights arrives",
            ),
            (
                5,
                "route",
                "newlink",
                false,
                "no: none of the rules for this client brings that; what the client gets by its own rights arrives",
            ),
        ] {
            assert_eq!(ask(TEXT, uid, of, message, None), (may, why.to_owned()));
        }
        let deny = format!("[policy]\nunmatched = \"deny\"\n{TEXT}");
        let (_, why) = ask(&deny, 5, "route", "newlink", None);
        assert_eq!(why, "no: none of the rules for this client brings that; what no rule grants is refused");
    }
}
