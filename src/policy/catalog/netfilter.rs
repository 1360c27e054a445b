//! NETLINK_NETFILTER: queues, log groups, connection tracking, nftables (`linux/netfilter/nfnetlink*.h`).

use super::{Family, Message, Number, Risk};
use crate::policy::schema::{LABEL, NONE, Schema, Within};
use crate::policy::wire::{Flaw, Msg, attributes, be16_at};

pub const BATCH_BEGIN: u16 = 0x10;
pub const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
/// `struct nfgenmsg`
const FIXED: usize = 4;

const TRACKING: Risk = Risk::Changes("connections: states, translations, time-outs");
const FILTERING: Risk = Risk::Changes("all filtering and translation by nftables");
const LOGGING: Risk = Risk::Changes("which module logs packets of a protocol");

static BATCH: Schema = Schema::leaves(&[(1, 1)]);

static QUEUE_CONFIG: Schema = Schema::leaves(&[(1, 5)]);
static VLAN: Schema = Schema::leaves(&[(1, 2)]);
static VERDICT: Schema = Schema {
    leaves: &[(2, 3), (10, 10), (21, 21)],
    within: &[(11, Within::Attrs(&TRACKED)), (15, Within::Attrs(&EXPECTED)), (19, Within::Attrs(&VLAN))],
    refused: &[],
};
static VERDICT_BATCH: Schema = Schema::leaves(&[(2, 3)]);
static LOG_CONFIG: Schema = Schema::leaves(&[(1, 6)]);

static ADDRESSES: Schema = Schema::leaves(&[(1, 4)]);
static PORTS: Schema = Schema::leaves(&[(1, 9)]);
static TUPLE: Schema = Schema::with(&[(3, 3)], &[(1, Within::Attrs(&ADDRESSES)), (2, Within::Attrs(&PORTS))]);
static PROTOCOL_STATE: Schema = Schema::leaves(&[(1, 6)]);
static PROTOCOL: Schema = Schema::with(
    &[],
    &[(1, Within::Attrs(&PROTOCOL_STATE)), (2, Within::Attrs(&PROTOCOL_STATE)), (3, Within::Attrs(&PROTOCOL_STATE))],
);
static HELPER: Schema = Schema::leaves(&[(1, 2)]);
static NAT_PORTS: Schema = Schema::leaves(&[(1, 2)]);
static NAT: Schema = Schema::with(&[(1, 2), (4, 5)], &[(3, Within::Attrs(&NAT_PORTS))]);
static NUMBERS: Schema = Schema::leaves(&[(1, 6)]);
static TRACKED: Schema = Schema {
    leaves: &[(3, 3), (7, 8), (11, 12), (18, 18), (21, 23), (26, 26)],
    within: &[
        (1, Within::Attrs(&TUPLE)),
        (2, Within::Attrs(&TUPLE)),
        (4, Within::Attrs(&PROTOCOL)),
        (5, Within::Attrs(&HELPER)),
        (6, Within::Attrs(&NAT)),
        (9, Within::Attrs(&NUMBERS)),
        (10, Within::Attrs(&NUMBERS)),
        (13, Within::Attrs(&NAT)),
        (14, Within::Attrs(&TUPLE)),
        (15, Within::Attrs(&NUMBERS)),
        (16, Within::Attrs(&NUMBERS)),
        (20, Within::Attrs(&NUMBERS)),
        (24, Within::Attrs(&NUMBERS)),
        (25, Within::Attrs(&NUMBERS)),
    ],
    refused: &[(17, LABEL), (19, LABEL)],
};
static EXPECT_NAT: Schema = Schema::with(&[(1, 1)], &[(2, Within::Attrs(&TUPLE))]);
static EXPECTED: Schema = Schema::with(
    &[(4, 9), (11, 11)],
    &[
        (1, Within::Attrs(&TUPLE)),
        (2, Within::Attrs(&TUPLE)),
        (3, Within::Attrs(&TUPLE)),
        (10, Within::Attrs(&EXPECT_NAT)),
    ],
);

static TABLE: Schema = Schema::leaves(&[(1, 7)]);
static HOOK_DEVICES: Schema = Schema::leaves(&[(1, 1)]);
static HOOK: Schema = Schema::with(&[(1, 3)], &[(4, Within::Attrs(&HOOK_DEVICES))]);
static COUNTER: Schema = Schema::leaves(&[(1, 3)]);
static CHAIN: Schema =
    Schema::with(&[(1, 3), (5, 7), (9, 12)], &[(4, Within::Attrs(&HOOK)), (8, Within::Attrs(&COUNTER))]);
static RULE: Schema = Schema {
    leaves: &[(1, 3), (6, 11)],
    within: &[(4, Within::Special(expressions))],
    refused: &[(5, "rules of iptables hold programs and files")],
};
static SET_FIELD: Schema = Schema::leaves(&[(1, 1)]);
static SET_DESC: Schema = Schema::with(&[(1, 1)], &[(2, Within::Each(&SET_FIELD))]);
static SET: Schema = Schema::with(
    &[(1, 8), (10, 16)],
    &[(9, Within::Attrs(&SET_DESC)), (17, Within::Special(expression)), (18, Within::Special(expressions))],
);
static VERDICT_DATA: Schema = Schema::leaves(&[(1, 3)]);
static DATA: Schema = Schema::with(&[(1, 1)], &[(2, Within::Attrs(&VERDICT_DATA))]);
static ELEMENT: Schema = Schema::with(
    &[(3, 6), (8, 9)],
    &[
        (1, Within::Attrs(&DATA)),
        (2, Within::Attrs(&DATA)),
        (7, Within::Special(expression)),
        (10, Within::Attrs(&DATA)),
        (11, Within::Special(expressions)),
    ],
);
static ELEMENTS: Schema = Schema::with(&[(1, 2), (4, 4)], &[(3, Within::Each(&ELEMENT))]);
static OBJECT_GET: Schema = Schema::leaves(&[(1, 3), (5, 8)]);
static FLOW_HOOK: Schema = Schema::with(&[(1, 2)], &[(3, Within::Attrs(&HOOK_DEVICES))]);
static FLOW_TABLE: Schema = Schema::with(&[(1, 2), (4, 7)], &[(3, Within::Attrs(&FLOW_HOOK))]);

/// Expressions that look at packets, and act on them and on nothing else. Not among them: `match` and `target` (modules of
/// iptables: programs, files, control groups), `socket` (control groups of whoever loads the rule).
const EXPRESSIONS: [&str; 34] = [
    "immediate",
    "cmp",
    "lookup",
    "bitwise",
    "byteorder",
    "payload",
    "meta",
    "ct",
    "counter",
    "limit",
    "log",
    "reject",
    "masq",
    "nat",
    "redir",
    "queue",
    "quota",
    "range",
    "exthdr",
    "dup",
    "fwd",
    "hash",
    "numgen",
    "notrack",
    "rt",
    "tproxy",
    "osf",
    "synproxy",
    "tunnel",
    "xfrm",
    "fib",
    "connlimit",
    "last",
    "flow_offload",
];
/// These hold other expressions, and those as well are named inside.
const HOLDERS: [(&str, u16, u16); 1] = [("dynset", 7, 10)];
/// References to objects, which are judged when they are made.
const REFERENCES: [&str; 1] = ["objref"];

fn text(payload: &[u8]) -> &str {
    let end = payload.iter().position(|&byte| byte == 0).unwrap_or(payload.len());
    payload.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("?")
}

/// NFTA_EXPR_NAME, NFTA_EXPR_DATA
fn expression(bytes: &[u8]) -> Result<(), Flaw> {
    let attrs = attributes(bytes)?;
    // The kernel takes the last of several names: all of them have to be good.
    let names: Vec<&str> = attrs.iter().filter(|attr| attr.kind == 1).map(|attr| text(attr.payload)).collect();
    for name in &names {
        let holds = HOLDERS.iter().any(|(holder, ..)| holder == name);
        if !holds && !EXPRESSIONS.contains(name) && !REFERENCES.contains(name) {
            return Err(Flaw(format!("the expression {name:?} is not known here, or never granted")));
        }
    }
    if names.is_empty() {
        return Err(Flaw("an expression without a name".into()));
    }
    for attr in attrs {
        match attr.kind {
            1 => {}
            2 => {
                for inner in attributes(attr.payload)? {
                    let held = HOLDERS.iter().find(|(holder, ..)| names.contains(holder));
                    match held {
                        Some((_, one, _)) if inner.kind == *one => expression(inner.payload)?,
                        Some((_, _, list)) if inner.kind == *list => expressions(inner.payload)?,
                        _ => {}
                    }
                }
            }
            other => return Err(Flaw(format!("an expression's attribute {other} is not known here"))),
        }
    }
    Ok(())
}

/// A list of expressions.
fn expressions(bytes: &[u8]) -> Result<(), Flaw> {
    for element in attributes(bytes)? {
        if element.kind != 1 {
            return Err(Flaw(format!("a list of expressions holds the attribute {}", element.kind)));
        }
        expression(element.payload)?;
    }
    Ok(())
}

macro_rules! messages {
    ($($subsys:literal $msg:literal $name:literal $uapi:literal $attrs:ident $risk:expr $(, $with:ident($arg:expr))*;)*) => {
        const KINDS: &[u16] = &[$($subsys << 8 | $msg),*];
        static MESSAGES: &[Message] =
            &[$(Message::new($name, $uapi, FIXED, &$attrs, $risk)$(.$with($arg))*),*];
    };
}

const OBJECTS: &str = "an object may be a security label";

messages! {
    3 1 "queue/verdict" "NFQNL_MSG_VERDICT" VERDICT Risk::Numbered, numbered(Number::Queue);
    3 2 "queue/config" "NFQNL_MSG_CONFIG" QUEUE_CONFIG Risk::Numbered, numbered(Number::Queue);
    3 3 "queue/verdict_batch" "NFQNL_MSG_VERDICT_BATCH" VERDICT_BATCH Risk::Numbered, numbered(Number::Queue);
    4 1 "log/config" "NFULNL_MSG_CONFIG" LOG_CONFIG Risk::Numbered, numbered(Number::LogGroup), extra(log_group);
    // The same number: what it says decides (`identify`).
    4 1 "log/family" "NFULNL_CFG_CMD_PF_BIND" LOG_CONFIG LOGGING;
    1 0 "conntrack/new" "IPCTNL_MSG_CT_NEW" TRACKED TRACKING;
    1 1 "conntrack/get" "IPCTNL_MSG_CT_GET" TRACKED Risk::Reads;
    1 2 "conntrack/delete" "IPCTNL_MSG_CT_DELETE" TRACKED TRACKING;
    1 3 "conntrack/get_ctrzero" "IPCTNL_MSG_CT_GET_CTRZERO" TRACKED TRACKING;
    1 4 "conntrack/get_stats_cpu" "IPCTNL_MSG_CT_GET_STATS_CPU" NONE Risk::Reads;
    1 5 "conntrack/get_stats" "IPCTNL_MSG_CT_GET_STATS" NONE Risk::Reads;
    1 6 "conntrack/get_dying" "IPCTNL_MSG_CT_GET_DYING" NONE Risk::Reads;
    1 7 "conntrack/get_unconfirmed" "IPCTNL_MSG_CT_GET_UNCONFIRMED" NONE Risk::Reads;
    2 0 "expect/new" "IPCTNL_MSG_EXP_NEW" EXPECTED TRACKING;
    2 1 "expect/get" "IPCTNL_MSG_EXP_GET" EXPECTED Risk::Reads;
    2 2 "expect/delete" "IPCTNL_MSG_EXP_DELETE" EXPECTED TRACKING;
    2 3 "expect/get_stats_cpu" "IPCTNL_MSG_EXP_GET_STATS_CPU" NONE Risk::Reads;
    10 0 "nftables/newtable" "NFT_MSG_NEWTABLE" TABLE FILTERING;
    10 1 "nftables/gettable" "NFT_MSG_GETTABLE" TABLE Risk::Reads;
    10 2 "nftables/deltable" "NFT_MSG_DELTABLE" TABLE FILTERING;
    10 3 "nftables/newchain" "NFT_MSG_NEWCHAIN" CHAIN FILTERING;
    10 4 "nftables/getchain" "NFT_MSG_GETCHAIN" CHAIN Risk::Reads;
    10 5 "nftables/delchain" "NFT_MSG_DELCHAIN" CHAIN FILTERING;
    10 6 "nftables/newrule" "NFT_MSG_NEWRULE" RULE FILTERING;
    10 7 "nftables/getrule" "NFT_MSG_GETRULE" RULE Risk::Reads;
    10 8 "nftables/delrule" "NFT_MSG_DELRULE" RULE FILTERING;
    10 9 "nftables/newset" "NFT_MSG_NEWSET" SET FILTERING;
    10 10 "nftables/getset" "NFT_MSG_GETSET" SET Risk::Reads;
    10 11 "nftables/delset" "NFT_MSG_DELSET" SET FILTERING;
    10 12 "nftables/newsetelem" "NFT_MSG_NEWSETELEM" ELEMENTS FILTERING;
    10 13 "nftables/getsetelem" "NFT_MSG_GETSETELEM" ELEMENTS Risk::Reads;
    10 14 "nftables/delsetelem" "NFT_MSG_DELSETELEM" ELEMENTS FILTERING;
    10 16 "nftables/getgen" "NFT_MSG_GETGEN" NONE Risk::Reads;
    10 18 "nftables/newobj" "NFT_MSG_NEWOBJ" NONE FILTERING, never(OBJECTS);
    10 19 "nftables/getobj" "NFT_MSG_GETOBJ" OBJECT_GET Risk::Reads;
    10 20 "nftables/delobj" "NFT_MSG_DELOBJ" OBJECT_GET FILTERING;
    10 21 "nftables/getobj_reset" "NFT_MSG_GETOBJ_RESET" OBJECT_GET FILTERING;
    10 22 "nftables/newflowtable" "NFT_MSG_NEWFLOWTABLE" FLOW_TABLE FILTERING;
    10 23 "nftables/getflowtable" "NFT_MSG_GETFLOWTABLE" FLOW_TABLE Risk::Reads;
    10 24 "nftables/delflowtable" "NFT_MSG_DELFLOWTABLE" FLOW_TABLE FILTERING;
}

const LOG_CONFIG_KIND: u16 = 4 << 8 | 1;
const QUEUE_CONFIG_KIND: u16 = 3 << 8 | 2;

/// The commands of a configuration: the first byte of each attribute 1.
fn commands(msg: &Msg<'_>) -> Vec<u8> {
    let attrs = msg.payload.get(FIXED..).and_then(|bytes| attributes(bytes).ok()).unwrap_or_default();
    attrs.iter().filter(|attr| attr.kind == 1).filter_map(|attr| attr.payload.first().copied()).collect()
}

/// Commands for a protocol family (`*_CFG_CMD_PF_BIND`, `PF_UNBIND`), which regard no number.
fn of_protocols(command: u8) -> bool {
    matches!(command, 3 | 4)
}

fn log_group(msg: &Msg<'_>) -> Result<(), Flaw> {
    match commands(msg).into_iter().any(of_protocols) {
        true => Err(Flaw("it binds a protocol family and configures a group at once".into())),
        false => Ok(()),
    }
}

fn identify(msg: &Msg<'_>) -> Option<&'static Message> {
    let commands = if msg.kind == LOG_CONFIG_KIND { commands(msg) } else { Vec::new() };
    let of_protocols = !commands.is_empty() && commands.into_iter().all(of_protocols);
    let mut known = KINDS.iter().zip(MESSAGES).filter(|(kind, _)| **kind == msg.kind).map(|(_, message)| message);
    known.find(|message| msg.kind != LOG_CONFIG_KIND || (message.number == Number::None) == of_protocols)
}

/// The queue or group that a message names. `None` where the number means nothing: the kernel has ignored binding queues
/// to protocol families since Linux 3.8, and answers before it looks at anything else of such a message.
pub fn number_of(msg: &Msg<'_>) -> Option<u16> {
    let commands = if msg.kind == QUEUE_CONFIG_KIND { commands(msg) } else { Vec::new() };
    if !commands.is_empty() && commands.into_iter().all(of_protocols) {
        return None;
    }
    be16_at(msg.payload, 2)
}

/// The subsystem of a batch, from its first message (`nfnetlink_rcv`).
pub fn batch_of(begin: &Msg<'_>) -> Result<u16, Flaw> {
    let short = || Flaw("the beginning of a batch is too short".into());
    let id = be16_at(begin.payload, 2).ok_or_else(short)?;
    BATCH.check(begin.payload.get(FIXED..).ok_or_else(short)?)?;
    // Old programs have it in the machine's own order, and the kernel takes that.
    match id == NFTABLES || id.swap_bytes() == NFTABLES {
        true => Ok(NFTABLES),
        false => Err(Flaw(format!("a batch for the subsystem {id} is not known here"))),
    }
}

pub fn subsystem(kind: u16) -> u16 {
    kind >> 8
}

pub const FAMILY: Family = Family {
    name: "netfilter",
    number: libc::NETLINK_NETFILTER as u32,
    messages: MESSAGES,
    received: super::received::NETFILTER,
    groups: &[
        (1, "conntrack_new"),
        (2, "conntrack_update"),
        (3, "conntrack_destroy"),
        (4, "conntrack_exp_new"),
        (5, "conntrack_exp_update"),
        (6, "conntrack_exp_destroy"),
        (7, "nftables"),
        (8, "acct_quota"),
        (9, "nftrace"),
    ],
    identify: |msg, _| identify(msg),
};
