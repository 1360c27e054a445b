//! What no rule grants, as lines of the log; and rules made of such lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::catalog::{self, Number};
use super::decide::{Wanted, What};
use super::subject::Subject;

/// How a line of the audit begins.
pub const MARK: &str = "policy audit:";

/// The text of a line: whom it is about, and what would have been denied.
pub fn line(subject: &Subject, wanted: &Wanted) -> String {
    let cgroup = subject.cgroups.iter().max_by_key(|path| path.len()).map_or("/", String::as_str);
    format!("{MARK} uid={} cgroup={cgroup:?} {wanted}", subject.uid)
}

/// What was found in a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    wants: BTreeMap<(u32, &'static str), Wants>,
    /// Lines of the audit that were read.
    pub lines: usize,
    /// Lines that begin like one and make no sense.
    pub broken: Vec<usize>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Wants {
    cgroups: BTreeSet<String>,
    send: BTreeSet<&'static str>,
    join: BTreeSet<String>,
    queues: BTreeSet<u16>,
    log_groups: BTreeSet<u16>,
    /// What arrived by that.
    receive: BTreeSet<&'static str>,
    /// What a rule that there is would have withheld.
    withheld: BTreeMap<String, BTreeSet<&'static str>>,
}

/// A text in quotation marks, as `{:?}` writes it, and what stands behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut found, mut escaped) = (String::new(), false);
    let text = text.strip_prefix('"')?;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' if !escaped => return Some((found, text.get(at + 1..)?)),
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            letter => found.push(letter),
        }
        escaped = false;
    }
    None
}

/// Reads lines of a log, whatever stands before and behind what the audit wrote.
pub fn read(log: &str) -> Seen {
    let mut seen = Seen::default();
    for (number, line) in log.lines().enumerate() {
        let Some((_, text)) = line.split_once(MARK) else {
            continue;
        };
        seen.lines += 1;
        if parse(text.trim(), &mut seen).is_none() {
            seen.broken.push(number + 1);
        }
    }
    seen
}

fn parse(text: &str, seen: &mut Seen) -> Option<()> {
    let (uid, rest) = text.strip_prefix("uid=")?.split_once(' ')?;
    let (cgroup, rest) = quoted(rest.strip_prefix("cgroup=")?)?;
    let uid = uid.parse().ok()?;
    let mut words = rest.split_whitespace();
    let family = catalog::family(words.next()?.strip_prefix("family=")?)?;
    let wants = seen.wants.entry((uid, family.name)).or_default();
    wants.cgroups.insert(cgroup);
    let (key, value) = words.next()?.split_once('=')?;
    match key {
        "send" => {
            let message = family.message(value)?;
            wants.send.insert(message.name);
            for word in words {
                match word.split_once('=') {
                    Some(("queue", number)) => wants.queues.insert(number.parse().ok()?),
                    Some(("log_group", number)) => wants.log_groups.insert(number.parse().ok()?),
                    _ => break,
                };
            }
            // A configuration without its number is worth nothing.
            let numbered = match message.number {
                Number::None => true,
                Number::Queue => !wants.queues.is_empty(),
                Number::LogGroup => !wants.log_groups.is_empty(),
            };
            numbered.then_some(())
        }
        "join" => {
            let known = family.groups.iter().any(|(_, name)| *name == value);
            let generic = family.name == "generic" && value.contains('/');
            (known || generic).then(|| wants.join.insert(value.to_owned())).map(drop)
        }
        "receive" => {
            let message = family.received(value)?.name;
            match rest.split_once(" rule=") {
                Some((_, rule)) => wants.withheld.entry(quoted(rule)?.0).or_default().insert(message),
                None => wants.receive.insert(message),
            };
            Some(())
        }
        _ => None,
    }
}

/// A configuration that grants what was seen, and nothing else.
pub fn suggest(seen: &Seen, name_of: impl Fn(u32) -> Option<String>) -> String {
    let mut out = String::from("[policy]\nunmatched = \"deny\"\n");
    let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(", ");
    for ((uid, family), wants) in &seen.wants {
        if wants.send.is_empty() && wants.join.is_empty() {
            continue;
        }
        let user = name_of(*uid).map_or_else(|| uid.to_string(), |name| format!("{name:?}"));
        let shown = user.trim_matches('"');
        let _ = write!(out, "\n[[policy.rule]]\nname = \"{shown}: {family}\"\nusers = [{user}]\n");
        let cgroups = list(&mut wants.cgroups.iter().map(|path| format!("{path:?}")));
        let _ = writeln!(out, "# cgroups = [{cgroups}]   # where it was seen");
        let _ = writeln!(out, "family = {family:?}");
        if !wants.send.is_empty() {
            let _ = writeln!(out, "send = [{}]", list(&mut wants.send.iter().map(|name| format!("{name:?}"))));
        }
        if !wants.queues.is_empty() {
            let _ = writeln!(out, "queues = [{}]", list(&mut wants.queues.iter().map(u16::to_string)));
        }
        if !wants.log_groups.is_empty() {
            let _ = writeln!(out, "log_groups = [{}]", list(&mut wants.log_groups.iter().map(u16::to_string)));
        }
        if !wants.join.is_empty() {
            let _ = writeln!(out, "join = [{}]", list(&mut wants.join.iter().map(|name| format!("{name:?}"))));
        }
        let received = list(&mut wants.receive.iter().map(|name| format!("{name:?}")));
        let _ = match wants.receive.is_empty() {
            true => writeln!(out, "# receive = []   # nothing arrived meanwhile; without this, everything may"),
            false => writeln!(out, "receive = [{received}]   # what arrived; add what did not happen meanwhile"),
        };
    }
    for ((uid, family), wants) in &seen.wants {
        let user = name_of(*uid).unwrap_or_else(|| uid.to_string());
        for (rule, messages) in &wants.withheld {
            let names = list(&mut messages.iter().map(|name| format!("{name:?}")));
            let _ = write!(
                out,
                "\n# The `receive` of your rule {rule:?} withholds from {user}, on {family} sockets: {names}\n"
            );
        }
    }
    out
}

/// What has been told already: each want of a client is one line, however often it comes.
#[derive(Default)]
pub struct Told(std::sync::Mutex<BTreeSet<(u32, Vec<String>, Wanted)>>);

impl Told {
    /// Whether this is new. With very much told, nothing is new any more.
    pub fn is_new(&self, subject: &Subject, wanted: &Wanted) -> bool {
        const MOST: usize = 16384;
        let mut told = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        told.len() < MOST && told.insert((subject.uid, subject.cgroups.clone(), wanted.clone()))
    }
}

/// Words for a want, as a test or a person would write it.
impl Wanted {
    /// Of a family alone, for what has no name.
    pub fn nameless(family: u32) -> Wanted {
        Wanted { family: "", what: What::Join(family.to_string()) }
    }

    /// A message of the kernel's without a name.
    pub fn nameless_message(family: u32, kind: u16) -> Wanted {
        Wanted { family: "", what: What::Join(format!("{family} {kind}")) }
    }

    pub fn send(family: &str, message: &str, queue: Option<u16>, log_group: Option<u16>) -> Option<Wanted> {
        let family = catalog::family(family)?;
        let message = family.message(message)?.name;
        Some(Wanted { family: family.name, what: What::Send { message, queue, log_group } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::tests::policy;

    #[test]
    fn a_log_becomes_a_policy_that_grants_what_was_in_it() {
        let subject =
            Subject { uid: 1001, gids: vec![5], cgroups: vec!["/".into(), "/system.slice/a b.service".into()] };
        let wants = [
            Wanted::send("netfilter", "queue/config", Some(7), None).unwrap(),
            Wanted::send("netfilter", "queue/verdict", Some(8), None).unwrap(),
            Wanted::send("netfilter", "log/config", None, Some(3)).unwrap(),
            Wanted::send("netfilter", "log/family", None, None).unwrap(),
            Wanted { family: "route", what: What::Join("link".into()) },
            Wanted { family: "generic", what: What::Join("nlctrl/notify".into()) },
        ];
        let receive = |message, rule: Option<&str>| Wanted {
            family: "netfilter",
            what: What::Receive { message, rule: rule.map(str::to_owned) },
        };
        let arrived = [
            receive("queue/packet", None),
            receive("conntrack/new", None),
            receive("conntrack/delete", Some("the \"old\" one")),
        ];
        let mut log = String::from("2026-01-01T00:00:00Z  INFO serving a ring file\n");
        for wanted in wants.iter().chain(&arrived) {
            let _ = writeln!(log, "2026-01-01T00:00:00Z  INFO {} pid=4", line(&subject, wanted));
        }
        log += "policy audit: uid=x\npolicy audit: uid=1 cgroup=\"/\" family=route send=nonsense\n";
        let seen = read(&log);
        assert_eq!((seen.lines, seen.broken.as_slice()), (11, &[11, 12][..]));
        let text = suggest(&seen, |uid| (uid == 1001).then(|| "filterd".to_owned()));
        let policy = policy(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for wanted in &wants {
            assert!(policy.rule_for(&[&subject], wanted).is_some(), "{wanted}\n{text}");
        }
        let other = Wanted::send("netfilter", "queue/config", Some(9), None).unwrap();
        assert!(policy.rule_for(&[&subject], &other).is_none());
        assert!(policy.rule_for(&[&Subject { uid: 1002, ..subject }], &wants[0]).is_none());
        assert!(text.contains("# cgroups = [\"/system.slice/a b.service\"]"), "{text}");
        let netfilter = policy.rules.iter().find(|rule| rule.family.name == "netfilter").unwrap();
        let named: Vec<_> = netfilter.receive.iter().flatten().map(|message| message.name).collect();
        assert_eq!(named, ["conntrack/new", "queue/packet"]);
        // Of the others nothing arrived: that is said, and nothing is withheld.
        assert!(policy.rules.iter().all(|rule| rule.family.name == "netfilter" || rule.receive.is_none()));
        assert!(text.contains("# receive = []   # nothing arrived"), "{text}");
        let hint = "# The `receive` of your rule \"the \\\"old\\\" one\" withholds from filterd, on netfilter sockets: \"conntrack/delete\"\n";
        assert!(text.contains(hint), "{text}");
    }

    #[test]
    fn quoted_texts_end_where_they_were_written_to() {
        for text in ["", "/a b", "/a\" b", "a\\", "\\\" x"] {
            assert_eq!(quoted(&format!("{text:?} rest")), Some((text.to_owned(), " rest")));
        }
        assert_eq!(quoted("\"no end"), None);
        assert_eq!(quoted("none"), None);
    }

    #[test]
    fn each_want_is_told_once() {
        let told = Told::default();
        let (subject, other) = (Subject::default(), Subject { uid: 1, ..Subject::default() });
        let wanted = Wanted::send("route", "getlink", None, None).unwrap();
        let verdicts = [&subject, &subject, &other].map(|subject| told.is_new(subject, &wanted));
        assert_eq!(verdicts, [true, false, true]);
    }
}
