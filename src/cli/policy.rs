//! `nlmmap policy`: what a configuration grants, and configurations made from an audit.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use nix::unistd::{Gid, Group, Uid, User};

use super::complain;
use crate::policy::catalog::{self, FAMILIES, Family, Number};
use crate::policy::config::{Accounts, System};
use crate::policy::decide::{Wanted, What};
use crate::policy::names::meant;
use crate::policy::subject::Subject;
use crate::policy::{Policy, arrive, audit, words};
use crate::serve::config::Config;

/// Say what a daemon's configuration grants to whom, or make one from what was seen.
///
/// By default a client gets through the node what it could do itself. Rules in the daemon's configuration grant single
/// messages and multicast groups beyond that.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
A rule:
  [[policy.rule]]
  name = \"the filter's queue\"
  users = [\"filterd\"]            and groups, cgroups: all that are given have to hold; \"*\" is everybody
  family = \"netfilter\"           route, netfilter, generic, sock_diag, xfrm, kobject_uevent
  send = [\"queue/*\"]             names of `nlmmap policy messages`, or the kernel's
  queues = [7, \"10-19\"]          which; log_groups for log/config
  join = [\"conntrack_new\"]       multicast groups
  receive = [\"queue/packet\"]     of what arrives by this rule only these; everything, without
  rate = 10000                    messages a second, of each user
  [policy]
  unmatched = \"own\"              what no rule grants: with the client's own rights, or \"deny\"";

#[derive(Subcommand)]
enum Command {
    Check(Check),
    Suggest(Suggest),
    Messages(Messages),
}

/// Check a configuration, and say in words what it grants; or answer one question about it.
///
/// A question has a user, a family, and a message to send, a group to join, or a message to receive. The answer is the exit
/// status too.
#[derive(Args)]
#[command(after_help = CHECK_HELP)]
struct Check {
    /// The configuration of the daemon (TOML)
    file: PathBuf,

    /// Ask for this user, by name or number
    #[arg(long, value_parser = user, requires = "family")]
    uid: Option<u32>,

    /// being in these groups too [default: those of the user]
    #[arg(long, value_parser = group, requires = "uid")]
    gid: Vec<u32>,

    /// and in this control group
    #[arg(long, requires = "uid", value_name = "PATH")]
    cgroup: Vec<String>,

    /// about sockets of this family
    #[arg(long, requires = "uid")]
    family: Option<String>,

    /// whether this message may be sent
    #[arg(long = "type", requires = "family", conflicts_with = "group", value_name = "MESSAGE")]
    message: Option<String>,

    /// for this queue
    #[arg(long, requires = "family", conflicts_with = "group", value_name = "N")]
    queue: Option<u16>,

    /// or log group
    #[arg(long, requires = "family", conflicts_with_all = ["group", "queue"], value_name = "N")]
    log_group: Option<u16>,

    /// whether this multicast group may be joined
    #[arg(long, requires = "family")]
    group: Option<String>,

    /// whether this message of the kernel's arrives: in answer to --type, sent to --group, from --queue or --log-group, or by
    /// any grant
    #[arg(long, requires = "family", value_name = "MESSAGE")]
    receive: Option<String>,
}

const CHECK_HELP: &str = "\
Examples:
  nlmmap policy check /etc/nlmmap.toml
  nlmmap policy check /etc/nlmmap.toml --uid filterd --family netfilter --type queue/config --queue 7
  nlmmap policy check /etc/nlmmap.toml --uid 1001 --family route --group link
  nlmmap policy check /etc/nlmmap.toml --uid 1001 --family route --group link --receive dellink
  nlmmap policy check /etc/nlmmap.toml --uid filterd --family netfilter --receive queue/packet

Exit status: 0 the configuration is good, or the answer is yes; 1 the answer is no; 2 the configuration or the question \
is wrong.";

/// Make a configuration of what `nlmmap serve --audit` has logged.
#[derive(Args)]
#[command(after_help = SUGGEST_HELP)]
struct Suggest {
    /// The log; - for standard input
    log: PathBuf,
}

const SUGGEST_HELP: &str = "\
Examples:
  sudo nlmmap serve --audit 2>serve.log        run the workload meanwhile, with the rights it has today
  nlmmap policy suggest serve.log >policy.toml
  journalctl -u nlmmap -o cat | nlmmap policy suggest -";

/// List the families, messages (to send and to receive) and groups that can be named in a rule.
#[derive(Args)]
struct Messages {
    /// Of this family alone
    family: Option<String>,
}

fn user(text: &str) -> Result<u32, String> {
    match (text.parse(), User::from_name(text)) {
        (Ok(uid), _) => Ok(uid),
        (_, Ok(Some(user))) => Ok(user.uid.as_raw()),
        _ => Err(format!("no such user{}", meant(text, System.users().iter().map(String::as_str)))),
    }
}

fn group(text: &str) -> Result<u32, String> {
    match (text.parse(), Group::from_name(text)) {
        (Ok(gid), _) => Ok(gid),
        (_, Ok(Some(group))) => Ok(group.gid.as_raw()),
        _ => Err(format!("no such group{}", meant(text, System.groups().iter().map(String::as_str)))),
    }
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

fn group_name(gid: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
}

/// Prints; a reader that has gone is no failure.
fn print(text: &str, code: u8) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&error, &[]);
            ExitCode::FAILURE
        }
        _ => ExitCode::from(code),
    }
}

pub fn main(arguments: Arguments) -> ExitCode {
    let done = match arguments.command {
        Command::Check(check) => run_check(&check),
        Command::Suggest(suggest) => run_suggest(&suggest.log),
        Command::Messages(messages) => run_messages(messages.family.as_deref()),
    };
    done.unwrap_or_else(|why| {
        complain(&why, &[]);
        ExitCode::from(2)
    })
}

fn run_check(check: &Check) -> Result<ExitCode, String> {
    let (config, policy) = Config::read(&check.file)?;
    match &check.uid {
        Some(uid) => answer(&policy, check, *uid),
        None => {
            let text = words::explain(&policy, &user_name, &group_name);
            for warning in config.warning.into_iter().chain(policy.rules.iter().flat_map(words::warnings)) {
                eprintln!("warning: {warning}");
            }
            Ok(print(&text, 0))
        }
    }
}

/// The user's own groups, by the system's accounts.
fn groups_of(uid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
        return Vec::new();
    };
    let name = std::ffi::CString::new(user.name).unwrap_or_default();
    let groups = nix::unistd::getgrouplist(&name, user.gid).unwrap_or_default();
    groups.into_iter().map(Gid::as_raw).collect()
}

/// What a question says that the client does.
fn wanted(check: &Check, family: &'static Family) -> Result<Option<Wanted>, String> {
    let packets = check.receive.is_some() && check.message.is_none();
    let word = match (&check.message, check.queue, check.log_group) {
        (Some(word), ..) => word.as_str(),
        // Packets come to whoever binds the queue.
        (None, Some(_), _) if packets => "queue/config",
        (None, _, Some(_)) if packets => "log/config",
        (None, None, None) => return check.group.as_deref().map(|group| joined(group, family)).transpose(),
        _ => return Err("a number goes with a message: --type or --receive".into()),
    };
    let message = family.message(word).ok_or_else(|| {
        let hint = meant(word, family.messages.iter().flat_map(|m| [m.name, m.uapi]));
        format!("the family {} has no message {word:?} that is known here{hint}", family.name)
    })?;
    match (message.number, check.queue, check.log_group) {
        (Number::Queue, None, _) => return Err("say which queue: --queue".into()),
        (Number::LogGroup, _, None) => return Err("say which group: --log-group".into()),
        (Number::Queue, Some(_), None) | (Number::LogGroup, None, Some(_)) | (Number::None, None, None) => {}
        _ => return Err(format!("{} is not for a number of that kind", message.name)),
    }
    Wanted::send(family.name, message.name, check.queue, check.log_group).ok_or("no such message".into()).map(Some)
}

fn joined(group: &str, family: &'static Family) -> Result<Wanted, String> {
    let known = family.groups.iter().find(|(_, known)| known.eq_ignore_ascii_case(group));
    let name = match known {
        Some((_, name)) => (*name).to_owned(),
        None if family.name == "generic" && group.contains('/') => group.to_owned(),
        None if family.name == "generic" => {
            return Err(format!("{group:?} is no group of a generic family: use FAMILY/GROUP"));
        }
        None => {
            let hint = meant(group, family.groups.iter().map(|(_, name)| *name));
            return Err(format!("the family {} has no group {group:?}{hint}", family.name));
        }
    };
    Ok(Wanted { family: family.name, what: What::Join(name) })
}

fn answer(policy: &Policy, check: &Check, uid: u32) -> Result<ExitCode, String> {
    let name = check.family.as_deref().unwrap_or_default();
    let family = catalog::family(name).ok_or_else(|| {
        format!("no family {name:?} is known here{}", meant(name, FAMILIES.iter().map(|family| family.name)))
    })?;
    let wanted = wanted(check, family)?;
    let gids = if check.gid.is_empty() { groups_of(uid) } else { check.gid.clone() };
    let subject = Subject { uid, gids, cgroups: check.cgroup.clone() };
    let (may, why) = match (&check.receive, &wanted) {
        (Some(word), _) => {
            let message = family.received(word).ok_or_else(|| {
                let hint = meant(word, family.received.iter().flat_map(|m| [m.name, m.uapi]));
                format!("the family {} is sent no message {word:?} that is known here{hint}", family.name)
            })?;
            arrive::answer(policy, &subject, message, wanted.as_ref())
        }
        (None, Some(wanted)) => words::answer(policy, &subject, wanted),
        (None, None) => return Err("ask for a message or a group: --type, --group or --receive".into()),
    };
    Ok(print(&format!("{why}\n"), u8::from(!may)))
}

fn run_suggest(log: &Path) -> Result<ExitCode, String> {
    let bad = |error: io::Error| format!("{}: {error}", log.display());
    let mut bytes = Vec::new();
    if log == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map_err(bad)?;
    } else {
        bytes = std::fs::read(log).map_err(bad)?;
    }
    let seen = audit::read(&String::from_utf8_lossy(&bytes));
    for line in &seen.broken {
        eprintln!("warning: line {line} begins like one of an audit, and is not understood");
    }
    if seen.lines == seen.broken.len() {
        let cure = "run the daemon with --audit, and the workload meanwhile; it logs at the level info".to_owned();
        complain(&format!("{}: no lines of an audit in it", log.display()), &[cure]);
        return Ok(ExitCode::FAILURE);
    }
    Ok(print(&audit::suggest(&seen, user_name), 0))
}

fn run_messages(only: Option<&str>) -> Result<ExitCode, String> {
    let mut text = String::new();
    if let Some(name) = only.filter(|name| catalog::family(name).is_none()) {
        let hint = meant(name, FAMILIES.iter().map(|family| family.name));
        return Err(format!("no family {name:?} is known here{hint}"));
    }
    for family in FAMILIES.iter().filter(|family| only.is_none_or(|name| name.eq_ignore_ascii_case(family.name))) {
        text += &format!("{}\n", family.name);
        for message in family.messages {
            let never = message.never.map_or_else(String::new, |why| format!("   never granted: {why}"));
            text += &format!("  send {:30} {}{never}\n", message.name, message.uapi);
        }
        for message in family.received {
            text += &format!("  receive {:27} {}\n", message.name, message.uapi);
        }
        for (_, group) in family.groups {
            text += &format!("  join {group}\n");
        }
    }
    Ok(print(&text, 0))
}
