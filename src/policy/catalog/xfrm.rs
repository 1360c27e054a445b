//! NETLINK_XFRM: IPsec (`linux/xfrm.h`).

use super::{Family, Message, Risk};
use crate::policy::schema::{LABEL, Schema};

const KEYS: Risk = Risk::Changes("keys and policies of IPsec");

/// None holds attributes; templates, algorithms and addresses are structures.
static ATTRS: Schema = Schema { leaves: &[(1, 7), (9, 32)], within: &[], refused: &[(8, LABEL)] };

macro_rules! messages {
    ($($kind:literal $name:literal $uapi:literal $header:literal $risk:expr;)*) => {
        const KINDS: &[u16] = &[$($kind),*];
        static MESSAGES: &[Message] = &[$(Message::new($name, $uapi, $header, &ATTRS, $risk)),*];
    };
}

messages! {
    0x10 "newsa" "XFRM_MSG_NEWSA" 224 KEYS;
    0x11 "delsa" "XFRM_MSG_DELSA" 24 KEYS;
    // It tells the keys to whoever may ask.
    0x12 "getsa" "XFRM_MSG_GETSA" 24 Risk::Changes("nothing, but it tells the keys of IPsec");
    0x13 "newpolicy" "XFRM_MSG_NEWPOLICY" 168 KEYS;
    0x14 "delpolicy" "XFRM_MSG_DELPOLICY" 64 KEYS;
    0x15 "getpolicy" "XFRM_MSG_GETPOLICY" 64 Risk::Reads;
    0x16 "allocspi" "XFRM_MSG_ALLOCSPI" 232 KEYS;
    0x18 "expire" "XFRM_MSG_EXPIRE" 232 KEYS;
    0x19 "updpolicy" "XFRM_MSG_UPDPOLICY" 168 KEYS;
    0x1a "updsa" "XFRM_MSG_UPDSA" 224 KEYS;
    0x1b "polexpire" "XFRM_MSG_POLEXPIRE" 176 KEYS;
    0x1c "flushsa" "XFRM_MSG_FLUSHSA" 1 KEYS;
    0x1d "flushpolicy" "XFRM_MSG_FLUSHPOLICY" 0 KEYS;
    0x1e "newae" "XFRM_MSG_NEWAE" 48 KEYS;
    0x1f "getae" "XFRM_MSG_GETAE" 48 Risk::Reads;
    0x23 "getsadinfo" "XFRM_MSG_GETSADINFO" 4 Risk::Reads;
    0x25 "getspdinfo" "XFRM_MSG_GETSPDINFO" 4 Risk::Reads;
}

pub const FAMILY: Family = Family {
    name: "xfrm",
    number: libc::NETLINK_XFRM as u32,
    messages: MESSAGES,
    received: super::received::XFRM,
    groups: &[
        (1, "acquire"),
        (2, "expire"),
        (3, "sa"),
        (4, "policy"),
        (5, "aevents"),
        (6, "report"),
        (7, "migrate"),
        (8, "mapping"),
    ],
    identify: |msg, _| KINDS.iter().position(|kind| *kind == msg.kind).and_then(|at| MESSAGES.get(at)),
};
