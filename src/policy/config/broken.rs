//! A text that TOML, or nobody here, understands: the line, the rule that it is in, and what was probably meant.

use super::ConfigError;
use crate::policy::names::meant;

/// The rule whose lines these are in front of: by its name, or by its place.
fn rule_of(before: &str, behind: &str) -> Option<String> {
    let head = before.rfind("[[policy.rule]]")?;
    let number = before.matches("[[policy.rule]]").count();
    let section = |text: &str| text.lines().skip(1).any(|line| line.trim_start().starts_with('['));
    // Another section has begun since.
    if section(before.get(head..)?) {
        return None;
    }
    let rest = behind.split("\n[").next().unwrap_or_default();
    let lines = before.get(head..)?.lines().chain(rest.lines());
    let names = lines.filter_map(|line| line.trim_start().strip_prefix("name")?.trim_start().strip_prefix('='));
    let name = names.filter_map(|value| Some(value.split_once('"')?.1.split_once('"')?.0.to_owned())).next();
    Some(name.unwrap_or_else(|| format!("#{number}")))
}

/// A key that is not known, and those that are: serde's words.
fn key(message: &str) -> Option<String> {
    let mut words = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let wrong = words.next()?;
    let known: Vec<&str> = words.collect();
    let hint = meant(wrong, known.iter().copied());
    let list = if hint.is_empty() { format!("; there are {}", known.join(", ")) } else { hint };
    Some(format!("no key {wrong:?} is known here{list}"))
}

/// What the parser says, with its place.
pub fn not_understood(text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    // A place between the bytes of a letter, or behind the end, is none: then the text before all of it.
    let (before, behind) = text.split_at_checked(at).unwrap_or(("", text));
    let line = before.matches('\n').count() + 1;
    let what = key(error.message()).unwrap_or_else(|| {
        let said = error.message().trim_end().replace('\n', ": ");
        // Of a value that is of another kind: whose it is.
        let whose = text.lines().nth(line - 1).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
        match whose
            .filter(|key| said.starts_with("invalid ") && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        {
            Some(key) => format!("{key}: {said}"),
            None => said,
        }
    });
    ConfigError { line, rule: rule_of(before, behind), what }
}

#[cfg(test)]
mod tests {
    use crate::policy::config::Raw;

    fn said(text: &str) -> String {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[derive(Default)]
        struct Whole {
            #[allow(dead_code)]
            policy: Raw,
        }
        super::not_understood(text, &toml::from_str::<Whole>(text).err().unwrap()).to_string()
    }

    const GOOD: &str = "[[policy.rule]]\nname = \"good\"\nusers = [1]\nfamily = \"route\"\nsend = [\"getlink\"]\n";

    #[test]
    fn a_text_that_is_none_is_told_with_line_and_rule() {
        for (more, wrong) in [
            (
                "[[policy.rule]]\nuser = [1]\nname = \"x\"\n",
                "7: rule \"x\": no key \"user\" is known here; did you mean \"users\"?",
            ),
            (
                "[[policy.rule]]\nfrobnicate = 1\n",
                "7: rule \"#2\": no key \"frobnicate\" is known here; there are name, users, groups, cgroups, family, send, join, receive, queues, log_groups, rate",
            ),
            ("[policy]\nunmtched = \"deny\"\n", "7: no key \"unmtched\" is known here; did you mean \"unmatched\"?"),
            ("[polcy]\n", "6: no key \"polcy\" is known here; did you mean \"policy\"?"),
            (
                "[[policy.rule]]\nname = \"x\"\nsend = \"getlink\"\n",
                "8: rule \"x\": send: invalid type: string \"getlink\", expected a sequence",
            ),
            (
                "[[policy.rule]]\nname = \"x\"\nrate = \"much\"\n",
                "8: rule \"x\": rate: invalid type: string \"much\", expected i64",
            ),
            ("[[policy.rule]]\nname = \"x\"\nname = \"y\"\n", "8: rule \"x\": duplicate key"),
            ("[[policy.rule]]\nname = \"x\"\nusers = [1,\n\n[limits]\n", ""),
            ("[[policy.rule]\n", ""),
            ("name \"x\"\n", ""),
        ] {
            let text = format!("{GOOD}{more}");
            let said = said(&text);
            match wrong {
                // The parser's own words, which may change: the place is what matters.
                "" => assert!(said.split(':').next().unwrap().parse::<usize>().unwrap() >= 6, "{said}"),
                _ => assert_eq!(said, wrong, "{text}"),
            }
        }
    }
}
