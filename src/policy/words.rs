//! What a policy means, in sentences.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::catalog::{Number, Risk};
use super::config::{Group, Numbers, Policy, Rule, Unmatched};
use super::decide::{Wanted, What};
use super::subject::Subject;

pub fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}

fn numbers(numbers: &Numbers) -> String {
    match numbers.is_all() {
        true => "of any number".into(),
        false => list(numbers.0.iter().map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first} to {last}"),
        })),
    }
}

fn whom(rule: &Rule, user: &dyn Fn(u32) -> Option<String>, group: &dyn Fn(u32) -> Option<String>) -> String {
    let name = |id: u32, find: &dyn Fn(u32) -> Option<String>| match find(id) {
        Some(name) => format!("{name} ({id})"),
        None => id.to_string(),
    };
    let mut parts = Vec::new();
    if let Some(users) = &rule.users {
        parts.push(format!("user {}", list(users.iter().map(|id| name(*id, user)))));
    }
    if let Some(groups) = &rule.groups {
        parts.push(format!("members of {}", list(groups.iter().map(|id| name(*id, group)))));
    }
    if let Some(cgroups) = &rule.cgroups {
        parts.push(format!("programs in {}", list(cgroups)));
    }
    if parts.is_empty() { "everybody who may open the node".into() } else { parts.join(", being ") }
}

/// Sentences about a rule.
fn rule_text(rule: &Rule, whom: &str) -> String {
    let mut out =
        format!("rule {:?}: {whom} may, beyond their own rights, on {} sockets\n", rule.name, rule.family.name);
    let of = |risk: fn(Risk) -> bool| {
        rule.send.iter().filter(move |m| risk(m.risk)).map(|m| m.name).collect::<BTreeSet<_>>()
    };
    let reads = of(|risk| risk == Risk::Reads);
    if !reads.is_empty() {
        let _ = writeln!(out, "  read by: {}", list(reads));
    }
    for (number, which, what) in
        [(Number::Queue, &rule.queues, "queues"), (Number::LogGroup, &rule.log_groups, "log groups")]
    {
        let names: BTreeSet<_> = rule.send.iter().filter(|m| m.number == number).map(|m| m.name).collect();
        if !names.is_empty() {
            let _ = writeln!(out, "  use {what} {}, by: {}", numbers(which), list(names));
        }
    }
    let changes = of(|risk| matches!(risk, Risk::Changes(_)));
    if !changes.is_empty() {
        let _ = writeln!(out, "  change by: {}", list(changes));
    }
    if !rule.join.is_empty() {
        let names = rule.join.iter().map(|group| match group {
            Group::Known(_, name) => (*name).to_owned(),
            Group::Generic(family, group) => format!("{family}/{group}"),
        });
        let _ = writeln!(out, "  receive what is sent to: {}", list(names));
    }
    if let Some(receive) = &rule.receive {
        let names: BTreeSet<_> = receive.iter().map(|message| message.name).collect();
        let _ = match names.is_empty() {
            true => writeln!(out, "  and are told nothing of what that brings"),
            false => writeln!(out, "  and of what that brings are told only: {}", list(names)),
        };
    }
    if let Some(rate) = rule.rate {
        let _ = writeln!(out, "  with at most {rate} messages a second for each user");
    }
    out
}

/// What to think about before a rule is used.
pub fn warnings(rule: &Rule) -> Vec<String> {
    let mut found = Vec::new();
    let changes: BTreeSet<&str> = rule
        .send
        .iter()
        .filter_map(|message| if let Risk::Changes(what) = message.risk { Some(what) } else { None })
        .collect();
    for what in changes {
        found.push(match what.strip_prefix("nothing, but ") {
            Some(it) => format!("rule {:?}: {it}, which only CAP_NET_ADMIN is told otherwise", rule.name),
            None => format!("rule {:?}: amounts to CAP_NET_ADMIN over {what}", rule.name),
        });
    }
    if rule.queues.is_all() || rule.log_groups.is_all() {
        found.push(format!("rule {:?}: any queue or group, also those of other programs", rule.name));
    }
    if rule.users.is_none() && rule.groups.is_none() && rule.cgroups.is_none() {
        found.push(format!("rule {:?}: for everybody who may open the node", rule.name));
    }
    found
}

/// The whole policy.
pub fn explain(policy: &Policy, user: &dyn Fn(u32) -> Option<String>, group: &dyn Fn(u32) -> Option<String>) -> String {
    let mut out = String::new();
    for rule in &policy.rules {
        out += &rule_text(rule, &whom(rule, user, group));
    }
    out += match (policy.rules.is_empty(), policy.unmatched) {
        (true, Unmatched::Own) => "no rules: every message is sent with the client's own rights\n",
        (false, Unmatched::Own) => "any other message is sent with the client's own rights\n",
        (_, Unmatched::Deny) => "any other message is refused (EPERM), even where the client has the right itself\n",
    };
    out
}

/// May a user do this, and why.
pub fn answer(policy: &Policy, subject: &Subject, wanted: &Wanted) -> (bool, String) {
    match (policy.rule_for(&[subject], wanted), policy.unmatched) {
        (Some((_, rule)), _) => (true, format!("yes, by rule {:?}", rule.name)),
        (None, unmatched) => {
            // The nearest miss helps most.
            let for_it: Vec<&Rule> = policy.rules.iter().filter(|rule| rule.is_for(subject)).collect();
            let others: Vec<&Rule> = policy.rules.iter().filter(|rule| rule.grants(wanted)).collect();
            let mut why = match (for_it.as_slice(), others.as_slice()) {
                ([], []) => "no rule is for this client, and none grants that to anybody".to_owned(),
                (_, [_, ..]) => {
                    format!("granted to others, by rule {}", list(others.iter().map(|r| format!("{:?}", r.name))))
                }
                (_, []) => {
                    let near = for_it.iter().find(|rule| match &wanted.what {
                        What::Send { message, .. } => rule.send.iter().any(|known| known.name == *message),
                        What::Join(_) | What::Receive { .. } => false,
                    });
                    match near {
                        Some(rule) => format!("rule {:?} grants that for other numbers", rule.name),
                        None => "none of the rules for this client grants that".to_owned(),
                    }
                }
            };
            why += match (unmatched, &wanted.what) {
                (Unmatched::Own, What::Join(_)) => "; it is joined with the client's own rights",
                (Unmatched::Own, _) => "; it is sent with the client's own rights",
                (Unmatched::Deny, _) => "; it is refused",
            };
            (false, format!("no: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::tests::policy;

    const TEXT: &str = r#"
[[policy.rule]]
name = "q"
users = [1001]
family = "netfilter"
send = ["queue/*", "conntrack/get"]
queues = [7, "10-19"]
join = ["conntrack_new"]
receive = ["queue/packet"]
rate = 5
[[policy.rule]]
name = "n"
users = ["*"]
family = "netfilter"
send = ["nftables/newrule", "log/config"]
log_groups = ["*"]
[[policy.rule]]
name = "keys"
groups = [500]
cgroups = ["/x"]
family = "xfrm"
send = ["getsa"]
"#;

    fn name(id: u32) -> Option<String> {
        (id == 1001).then(|| "filterd".into())
    }

    #[test]
    fn a_policy_in_words() {
        let policy = policy(TEXT).unwrap();
        let text = explain(&policy, &name, &|_| None);
        let wanted = "\
rule \"q\": user filterd (1001) may, beyond their own rights, on netfilter sockets
  read by: conntrack/get
  use queues 7, 10 to 19, by: queue/config, queue/verdict, queue/verdict_batch
  receive what is sent to: conntrack_new
  and of what that brings are told only: queue/packet
  with at most 5 messages a second for each user
rule \"n\": everybody who may open the node may, beyond their own rights, on netfilter sockets
  use log groups of any number, by: log/config
  change by: nftables/newrule
rule \"keys\": members of 500, being programs in /x may, beyond their own rights, on xfrm sockets
  change by: getsa
any other message is sent with the client's own rights
";
        assert_eq!(text, wanted);
        let warnings: Vec<_> = policy.rules.iter().flat_map(warnings).collect();
        assert_eq!(
            warnings,
            [
                "rule \"n\": amounts to CAP_NET_ADMIN over all filtering and translation by nftables",
                "rule \"n\": any queue or group, also those of other programs",
                "rule \"n\": for everybody who may open the node",
                "rule \"keys\": it tells the keys of IPsec, which only CAP_NET_ADMIN is told otherwise",
            ]
        );
    }

    #[test]
    fn questions_are_answered_with_the_reason() {
        let policy = policy(TEXT).unwrap();
        let (user, other) = (Subject { uid: 1001, ..Subject::default() }, Subject { uid: 5, ..Subject::default() });
        let ask = |subject, message, queue| {
            answer(&policy, subject, &Wanted::send("netfilter", message, queue, None).unwrap())
        };
        assert_eq!(ask(&user, "queue/config", Some(7)), (true, "yes, by rule \"q\"".into()));
        let (may, why) = ask(&user, "queue/config", Some(8));
        assert!(!may && why.starts_with("no: rule \"q\" grants that for other numbers; "), "{why}");
        let (may, why) = ask(&other, "queue/config", Some(7));
        assert!(
            !may && why.starts_with("no: granted to others, by rule \"q\"; it is sent with the client's own"),
            "{why}"
        );
        let (_, why) = ask(&other, "conntrack/delete", None);
        assert!(why.starts_with("no: none of the rules for this client grants that"), "{why}");
    }
}
