//! Any datagram is judged: what is granted was understood whole, message by message.
#![no_main]
#![allow(dead_code, reason = "of policy, what judges is called")]

#[path = "../../src/policy/mod.rs"]
mod policy;

use policy::Policy;
use policy::config::{Accounts, Raw};
use policy::generic::GenericIds;
use policy::subject::Subject;
use std::sync::OnceLock;
use std::time::Instant;

struct Nobody;

impl Accounts for Nobody {
    fn user(&self, _: &str) -> Option<u32> {
        None
    }
    fn group(&self, _: &str) -> Option<u32> {
        None
    }
    fn users(&self) -> Vec<String> {
        Vec::new()
    }
    fn groups(&self) -> Vec<String> {
        Vec::new()
    }
}

const RULES: &str = r#"
[[rule]]
users = [1]
family = "netfilter"
send = ["queue/*", "log/*", "conntrack/get"]
queues = [7, "10-19"]
log_groups = [3]

[[rule]]
users = [1]
family = "route"
send = ["*"]
rate = 5

[[rule]]
users = [1]
family = "generic"
send = ["nlctrl/*"]
"#;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static POLICY: OnceLock<Option<Policy>> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let raw: Raw = toml::from_str(RULES).ok()?;
        Policy::new(&raw, RULES, &Nobody).ok()
    });
    let Some((family, datagram)) = bytes.split_first() else { return };
    let family = u32::from(*family % 24);
    let ids = GenericIds::default();
    let subject = Subject { uid: 1, ..Subject::default() };
    let wanted = Policy::wants(family, datagram, &ids);
    let Some(policy) = policy else { panic!("the rules are wrong") };
    if let Ok(granted) = policy.judge(&[&subject], family, true, datagram.to_vec(), &ids, Instant::now()) {
        assert!(wanted.is_ok(), "granted, and not understood");
        assert_eq!(granted.into_bytes(), datagram);
    }
});
