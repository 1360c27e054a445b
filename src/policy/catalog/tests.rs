use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;

use super::*;

#[test]
fn names_are_told_apart() {
    for family in &FAMILIES {
        let names: BTreeSet<_> = family.messages.iter().flat_map(|message| [message.name, message.uapi]).collect();
        assert_eq!(names.len(), 2 * family.messages.len(), "{}", family.name);
        let groups: BTreeSet<_> = family.groups.iter().map(|(number, _)| number).collect();
        assert_eq!(groups.len(), family.groups.len(), "{}", family.name);
        for message in family.messages {
            assert!(std::ptr::eq(family.message(message.name).unwrap(), message));
            assert!(std::ptr::eq(family.message(&message.uapi.to_lowercase()).unwrap(), message));
        }
    }
}

/// Types and groups are those of the kernel's headers: each is identified by the number that a C compiler finds there.
#[test]
fn numbers_are_the_headers() {
    let mut source = String::from(
        "#include <stdio.h>\n#include <linux/rtnetlink.h>\n#include <linux/xfrm.h>\n#include <linux/genetlink.h>\n\
         #include <linux/ethtool_netlink.h>\n#include <linux/nl80211.h>\n#include <linux/wireguard.h>\n\
         #include <linux/tcp_metrics.h>\n#include <linux/netfilter/nfnetlink.h>\n\
         #include <linux/netfilter/nfnetlink_queue.h>\n#include <linux/netfilter/nfnetlink_log.h>\n\
         #include <linux/netfilter/nfnetlink_conntrack.h>\n#include <linux/netfilter/nf_tables.h>\nint main(void)\n{\n",
    );
    let subsystem = |name: &str| match name.split_once('/') {
        Some(("queue", _)) => "NFNL_SUBSYS_QUEUE",
        Some(("log", _)) => "NFNL_SUBSYS_ULOG",
        Some(("conntrack", _)) => "NFNL_SUBSYS_CTNETLINK",
        Some(("expect", _)) => "NFNL_SUBSYS_CTNETLINK_EXP",
        _ => "NFNL_SUBSYS_NFTABLES",
    };
    let mut wanted = BTreeSet::new();
    for name in ["route", "xfrm", "netfilter", "generic"] {
        let family = family(name).unwrap();
        for message in family.messages.iter().filter(|message| message.name != "log/family") {
            let value = match name {
                "netfilter" => format!("{} << 8 | {}", subsystem(message.name), message.uapi),
                _ => message.uapi.to_owned(),
            };
            source += &format!("\tprintf(\"{name} {} %d\\n\", {value});\n", message.name);
            wanted.insert(format!("{name} {}", message.name));
        }
        let prefix = match name {
            "route" => "RTNLGRP_",
            "xfrm" => "XFRMNLGRP_",
            "netfilter" => "NFNLGRP_",
            _ => continue,
        };
        for (number, group) in family.groups {
            let upper = group.to_uppercase();
            source += &format!("\tif ({prefix}{upper} != {number})\n\t\treturn printf(\"{name} {group}\\n\"), 1;\n");
        }
    }
    source += "\treturn 0;\n}\n";
    let directory = tempfile::tempdir().unwrap();
    let (file, program) = (directory.path().join("n.c"), directory.path().join("n"));
    std::fs::File::create(&file).unwrap().write_all(source.as_bytes()).unwrap();
    let compiled =
        Command::new("cc").arg(&file).arg("-o").arg(&program).status().expect("a C compiler (apt install gcc)");
    assert!(compiled.success());
    let output = Command::new(&program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "another number in the header: {text}");
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, message, number] = words[..] else { panic!("{line}") };
        let number: u16 = number.parse().unwrap();
        // Generic families are known by name, and their commands by number.
        let (kind, payload) = match name {
            "generic" => (0x30, vec![number as u8, 0, 0, 0]),
            _ => (number, vec![0; 4]),
        };
        let ids = GenericIds::of(&[(0x30, message.split('/').next().unwrap())], &[]);
        let msg = Msg { kind, flags: 0, seq: 0, payload: &payload };
        let found = family(name).unwrap().identify(&msg, &ids).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(found.name, message, "{line}");
        wanted.remove(&format!("{name} {message}"));
    }
    assert_eq!(wanted, BTreeSet::new());
}

/// The same for what the kernel sends.
#[test]
fn numbers_of_what_is_received_are_the_headers() {
    use super::received::Is;
    const HEADERS: [&str; 12] = [
        "rtnetlink",
        "xfrm",
        "genetlink",
        "ethtool_netlink",
        "nl80211",
        "wireguard",
        "tcp_metrics",
        "netfilter/nfnetlink",
        "netfilter/nfnetlink_queue",
        "netfilter/nfnetlink_log",
        "netfilter/nfnetlink_conntrack",
        "netfilter/nf_tables",
    ];
    let mut source: String = HEADERS.iter().map(|name| format!("#include <linux/{name}.h>\n")).collect();
    source += "#include <linux/netfilter/nfnetlink_acct.h>\n#include <linux/sock_diag.h>\n";
    let mut checked = 0;
    for family in &FAMILIES {
        let names: BTreeSet<_> = family.received.iter().flat_map(|message| [message.name, message.uapi]).collect();
        assert_eq!(names.len(), 2 * family.received.len(), "{}", family.name);
        for message in family.received {
            let subsystem = match message.name.split_once('/') {
                Some(("queue", _)) => "NFNL_SUBSYS_QUEUE << 8 | ",
                Some(("log", _)) => "NFNL_SUBSYS_ULOG << 8 | ",
                Some(("conntrack", _)) => "NFNL_SUBSYS_CTNETLINK << 8 | ",
                Some(("expect", _)) => "NFNL_SUBSYS_CTNETLINK_EXP << 8 | ",
                Some(("acct", _)) => "NFNL_SUBSYS_ACCT << 8 | ",
                Some(("nftables", _)) => "NFNL_SUBSYS_NFTABLES << 8 | ",
                _ => "",
            };
            let (value, number) = match message.is {
                Is::Kind(kind) => (format!("({subsystem}{})", message.uapi), u32::from(kind)),
                Is::Command(_, command) => (message.uapi.to_owned(), u32::from(command)),
                Is::First(kind, _) => ("SOCK_DIAG_BY_FAMILY".to_owned(), u32::from(kind)),
                Is::Word(_) => continue,
            };
            source += &format!("_Static_assert({value} == {number}, \"{}\");\n", message.name);
            checked += 1;
        }
    }
    assert!(checked > 120, "{checked}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("n.c");
    std::fs::write(&file, source).unwrap();
    let output = Command::new("cc").arg("-fsyntax-only").arg(&file).output().expect("a C compiler (apt install gcc)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
