//! NETLINK_SOCK_DIAG: what sockets there are (`linux/sock_diag.h`). The socket family in a request decides what it is.

use super::{Family, Message, Risk};
use crate::policy::schema::{DESCRIPTOR, NONE, Schema};

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;

static INET: Schema = Schema { leaves: &[(1, 1), (3, 3)], within: &[], refused: &[(2, DESCRIPTOR)] };

static MESSAGES: &[Message] = &[
    Message::new("inet", "SOCK_DIAG_BY_FAMILY/AF_INET", 56, &INET, Risk::Reads),
    Message::new("unix", "SOCK_DIAG_BY_FAMILY/AF_UNIX", 24, &NONE, Risk::Reads),
    Message::new("netlink", "SOCK_DIAG_BY_FAMILY/AF_NETLINK", 20, &NONE, Risk::Reads),
    Message::new("packet", "SOCK_DIAG_BY_FAMILY/AF_PACKET", 20, &NONE, Risk::Reads),
    Message::new("destroy", "SOCK_DESTROY", 56, &INET, Risk::Changes("connections of other programs: it ends them")),
];

pub const FAMILY: Family = Family {
    name: "sock_diag",
    number: libc::NETLINK_SOCK_DIAG as u32,
    messages: MESSAGES,
    received: super::received::DIAG,
    groups: &[(1, "inet_tcp_destroy"), (2, "inet_udp_destroy"), (3, "inet6_tcp_destroy"), (4, "inet6_udp_destroy")],
    identify: |msg, _| {
        let family = i32::from(*msg.payload.first()?);
        let at = match (msg.kind, family) {
            (BY_FAMILY, libc::AF_INET | libc::AF_INET6) => 0,
            (BY_FAMILY, libc::AF_UNIX) => 1,
            (BY_FAMILY, libc::AF_NETLINK) => 2,
            (BY_FAMILY, libc::AF_PACKET) => 3,
            (DESTROY, libc::AF_INET | libc::AF_INET6) => 4,
            _ => return None,
        };
        MESSAGES.get(at)
    },
};
