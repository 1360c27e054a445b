//! Rules from TOML. What is wrong is told with line and rule, and what was probably meant.

pub mod broken;

use std::fmt;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::catalog::received::Received;
use super::catalog::{self, FAMILIES, Family, Message, Number};
use super::names::meant;
use super::rate::Rates;

/// The section `[policy]`, as it is written.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    unmatched: Option<Spanned<String>>,
    rule: Vec<Spanned<RawRule>>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct RawRule {
    name: Option<Spanned<String>>,
    users: Option<Vec<Spanned<Value>>>,
    groups: Option<Vec<Spanned<Value>>>,
    cgroups: Option<Vec<Spanned<Value>>>,
    family: Option<Spanned<String>>,
    send: Vec<Spanned<String>>,
    join: Vec<Spanned<String>>,
    receive: Option<Vec<Spanned<String>>>,
    queues: Option<Vec<Spanned<Value>>>,
    log_groups: Option<Vec<Spanned<Value>>>,
    rate: Option<Spanned<i64>>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub line: usize,
    pub rule: Option<String>,
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "{}: rule {rule:?}: {}", self.line, self.what),
            None => write!(f, "{}: {}", self.line, self.what),
        }
    }
}

/// The line of a text that a place in it is in.
pub fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

/// What happens to a message that no rule grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// It is sent with the client's own rights.
    #[default]
    Own,
    /// It is refused, even if the client could have sent it itself.
    Deny,
}

/// Numbers of queues or groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(pub Vec<(u16, u16)>);

impl Numbers {
    pub fn contains(&self, number: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    pub fn is_all(&self) -> bool {
        self.0.contains(&(0, u16::MAX))
    }
}

/// A multicast group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    Known(u32, &'static str),
    /// Of a generic family: family and group, whose numbers the running kernel tells.
    Generic(String, String),
}

/// A grant.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    /// Everybody, without.
    pub users: Option<Vec<u32>>,
    pub groups: Option<Vec<u32>>,
    pub cgroups: Option<Vec<String>>,
    pub family: &'static Family,
    pub send: Vec<&'static Message>,
    pub join: Vec<Group>,
    /// Of what arrives by this rule, only these; everything, without.
    pub receive: Option<Vec<&'static Received>>,
    pub queues: Numbers,
    pub log_groups: Numbers,
    /// Messages a second.
    pub rate: Option<u32>,
}

/// A whole policy.
#[derive(Default)]
pub struct Policy {
    pub unmatched: Unmatched,
    pub rules: Vec<Rule>,
    pub rates: Rates,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("unmatched", &self.unmatched).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Users and groups by name.
pub trait Accounts {
    fn user(&self, name: &str) -> Option<u32>;
    fn group(&self, name: &str) -> Option<u32>;
    fn users(&self) -> Vec<String>;
    fn groups(&self) -> Vec<String>;
}

/// Those of the system.
pub struct System;

fn first_fields(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect()
}

impl Accounts for System {
    fn user(&self, name: &str) -> Option<u32> {
        nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
    }

    fn group(&self, name: &str) -> Option<u32> {
        nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
    }

    fn users(&self) -> Vec<String> {
        first_fields("/etc/passwd")
    }

    fn groups(&self) -> Vec<String> {
        first_fields("/etc/group")
    }
}

/// Reads one rule; knows where it stands.
struct Reader<'t> {
    text: &'t str,
    rule: Option<String>,
}

impl Reader<'_> {
    fn wrong<T, U>(&self, at: &Spanned<U>, what: impl Into<String>) -> Result<T, ConfigError> {
        Err(ConfigError { line: line_of(self.text, at.span().start), rule: self.rule.clone(), what: what.into() })
    }

    /// Ids from names and numbers; `None` for everybody.
    fn ids(
        &self,
        values: &[Spanned<Value>],
        what: &str,
        find: impl Fn(&str) -> Option<u32>,
        known: impl Fn() -> Vec<String>,
    ) -> Result<Option<Vec<u32>>, ConfigError> {
        let mut ids = Vec::new();
        for value in values {
            match value.get_ref() {
                Value::String(all) if all == "*" => return Ok(None),
                Value::String(name) => match find(name) {
                    Some(id) => ids.push(id),
                    None => {
                        let known = known();
                        let hint = meant(name, known.iter().map(String::as_str));
                        return self.wrong(value, format!("no {what} is called {name:?}{hint}"));
                    }
                },
                Value::Integer(number) => match u32::try_from(*number) {
                    Ok(id) => ids.push(id),
                    Err(_) => return self.wrong(value, format!("{number} is no {what}")),
                },
                other => return self.wrong(value, format!("{other} is no {what}: use a name, a number, or \"*\"")),
            }
        }
        Ok(Some(ids))
    }

    fn numbers(&self, values: &[Spanned<Value>], what: &str) -> Result<Numbers, ConfigError> {
        let number = |text: &str| text.trim().parse::<u16>().ok();
        let mut numbers = Vec::new();
        for value in values {
            let range = match value.get_ref() {
                Value::Integer(one) => u16::try_from(*one).ok().map(|one| (one, one)),
                Value::String(all) if all == "*" => Some((0, u16::MAX)),
                Value::String(text) => match text.split_once('-') {
                    Some((first, last)) => number(first).zip(number(last)).filter(|(first, last)| first <= last),
                    None => number(text).map(|one| (one, one)),
                },
                _ => None,
            };
            match range {
                Some(range) => numbers.push(range),
                None => {
                    let value_text = value.get_ref();
                    let what = format!("{value_text} is no {what}: use 0 to 65535, \"FIRST-LAST\", or \"*\"");
                    return self.wrong(value, what);
                }
            }
        }
        Ok(Numbers(numbers))
    }

    /// The messages that a word stands for: one name, or `*` at its end for all that begin so.
    fn messages(&self, word: &Spanned<String>, family: &'static Family) -> Result<Vec<&'static Message>, ConfigError> {
        let name = word.get_ref();
        if let Some(start) = name.strip_suffix('*') {
            let matches = |known: &str| known.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
            let all = family.messages.iter().filter(|m| m.never.is_none() && (matches(m.name) || matches(m.uapi)));
            let all: Vec<_> = all.collect();
            return match all.is_empty() {
                true => self.wrong(word, format!("no message of the family {} begins with {start:?}", family.name)),
                false => Ok(all),
            };
        }
        match family.message(name) {
            Some(Message { never: Some(why), .. }) => self.wrong(word, format!("{name} can never be granted: {why}")),
            Some(message) => Ok(vec![message]),
            None => {
                let hint = meant(name, family.messages.iter().flat_map(|m| [m.name, m.uapi]));
                self.wrong(word, format!("the family {} has no message {name:?} that is known here{hint}", family.name))
            }
        }
    }

    /// The kernel's messages that a word stands for.
    fn received(&self, word: &Spanned<String>, family: &'static Family) -> Result<Vec<&'static Received>, ConfigError> {
        let name = word.get_ref();
        let found: Vec<_> = match name.strip_suffix('*') {
            Some(start) => {
                let matches =
                    |known: &str| known.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
                family.received.iter().filter(|m| matches(m.name) || matches(m.uapi)).collect()
            }
            None => family.received(name).into_iter().collect(),
        };
        if !found.is_empty() {
            return Ok(found);
        }
        let hint = meant(name, family.received.iter().flat_map(|m| [m.name, m.uapi]));
        self.wrong(word, format!("the family {} is sent no message {name:?} that is known here{hint}", family.name))
    }

    fn group(&self, word: &Spanned<String>, family: &'static Family) -> Result<Vec<Group>, ConfigError> {
        let name = word.get_ref();
        if family.name == "generic" {
            return match name.split_once('/') {
                Some((family, group)) if !family.is_empty() && !group.is_empty() => {
                    Ok(vec![Group::Generic(family.into(), group.into())])
                }
                _ => self.wrong(word, format!("{name:?} is no group of a generic family: use \"FAMILY/GROUP\"")),
            };
        }
        if name == "*" {
            return Ok(family.groups.iter().map(|(number, name)| Group::Known(*number, name)).collect());
        }
        match family.groups.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)) {
            Some((number, known)) => Ok(vec![Group::Known(*number, known)]),
            None => {
                let hint = meant(name, family.groups.iter().map(|(_, name)| *name));
                self.wrong(word, format!("the family {} has no group {name:?}{hint}", family.name))
            }
        }
    }

    fn rule(&self, spanned: &Spanned<RawRule>, accounts: &dyn Accounts) -> Result<Rule, ConfigError> {
        let raw = spanned.get_ref();
        let Some(family) = &raw.family else {
            return self.wrong(spanned, "it has no family");
        };
        let Some(known) = catalog::family(family.get_ref()) else {
            let hint = meant(family.get_ref(), FAMILIES.iter().map(|family| family.name));
            return self.wrong(family, format!("no family {:?} is known here{hint}", family.get_ref()));
        };
        if raw.users.is_none() && raw.groups.is_none() && raw.cgroups.is_none() {
            return self
                .wrong(spanned, "it does not say to whom: users, groups or cgroups (users = [\"*\"] is everybody)");
        }
        let users =
            raw.users.as_deref().map(|users| self.ids(users, "user", |n| accounts.user(n), || accounts.users()));
        let groups =
            raw.groups.as_deref().map(|groups| self.ids(groups, "group", |n| accounts.group(n), || accounts.groups()));
        let (users, groups) = (users.transpose()?, groups.transpose()?);
        let cgroups = raw.cgroups.as_deref().map(|cgroups| self.cgroups(cgroups)).transpose()?;
        let (mut send, mut join) = (Vec::new(), Vec::new());
        for word in &raw.send {
            send.extend(self.messages(word, known)?);
        }
        for word in &raw.join {
            join.extend(self.group(word, known)?);
        }
        let receive = raw.receive.as_ref().map(|words| {
            let found: Result<Vec<_>, _> = words.iter().map(|word| self.received(word, known)).collect();
            found.map(|found| found.concat())
        });
        let receive = receive.transpose()?;
        if send.is_empty() && join.is_empty() {
            return self.wrong(spanned, "it grants nothing: send or join");
        }
        let numbered = |number| send.iter().any(|message: &&Message| message.number == number);
        let numbers = |values: &Option<Vec<Spanned<Value>>>, number, key: &str, what: &str| match values {
            Some(_) if !numbered(number) => {
                self.wrong(spanned, format!("{key} without a message that has such a number"))
            }
            Some(values) => self.numbers(values, what),
            None if numbered(number) => self.wrong(spanned, format!("it does not say which: {key}")),
            None => Ok(Numbers::default()),
        };
        let rate = match &raw.rate {
            None => None,
            Some(rate) => match u32::try_from(*rate.get_ref()) {
                Ok(0) | Err(_) => return self.wrong(rate, format!("{} is no rate: messages a second", rate.get_ref())),
                Ok(rate) => Some(rate),
            },
        };
        Ok(Rule {
            name: self.rule.clone().unwrap_or_default(),
            users: users.flatten(),
            groups: groups.flatten(),
            cgroups,
            family: known,
            queues: numbers(&raw.queues, Number::Queue, "queues", "queue number")?,
            log_groups: numbers(&raw.log_groups, Number::LogGroup, "log_groups", "log group")?,
            send,
            join,
            receive,
            rate,
        })
    }

    fn cgroups(&self, values: &[Spanned<Value>]) -> Result<Vec<String>, ConfigError> {
        let path = |value: &Spanned<Value>| match value.get_ref() {
            Value::String(path) if path.starts_with('/') => Ok(path.clone()),
            other => self.wrong(value, format!("{other} is no control group: use its path, as in /proc/PID/cgroup")),
        };
        values.iter().map(path).collect()
    }
}

impl Policy {
    /// Understands what was read from `text`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(raw: &Raw, text: &str, accounts: &dyn Accounts) -> Result<Policy, ConfigError> {
        let mut reader = Reader { text, rule: None };
        let unmatched = match &raw.unmatched {
            None => Unmatched::default(),
            Some(word) => match word.get_ref().as_str() {
                "own" => Unmatched::Own,
                "deny" => Unmatched::Deny,
                other => return reader.wrong(word, format!("unmatched = {other:?}: use \"own\" or \"deny\"")),
            },
        };
        let mut rules: Vec<Rule> = Vec::new();
        for (number, rule) in raw.rule.iter().enumerate() {
            let name = rule.get_ref().name.as_ref();
            reader.rule = Some(name.map_or_else(|| format!("#{}", number + 1), |name| name.get_ref().clone()));
            if let (Some(name), true) = (name, rules.iter().any(|old| Some(&old.name) == reader.rule.as_ref())) {
                return reader.wrong(name, "another rule has this name");
            }
            rules.push(reader.rule(rule, accounts)?);
        }
        Ok(Policy { unmatched, rules, rates: Rates::default() })
    }

    /// Whether there is anything to ask it.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.unmatched == Unmatched::Own
    }
}

#[cfg(test)]
pub mod tests;
