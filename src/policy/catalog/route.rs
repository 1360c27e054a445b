//! NETLINK_ROUTE: links, addresses, routes, neighbours, rules (`linux/rtnetlink.h`).

use super::{Family, Message, Risk};
use crate::policy::schema::{DEEP, DESCRIPTOR, NAMESPACE, NONE, PROCESS, Schema, USERS, Within};
use crate::policy::wire::{Flaw, u16_at};

const LINKS: Risk = Risk::Changes("links: names, addresses, up and down");
const ADDRESSES: Risk = Risk::Changes("addresses of links");
const ROUTES: Risk = Risk::Changes("where traffic goes");
const NEIGHBOURS: Risk = Risk::Changes("link layer addresses of neighbours");
const TRAFFIC: Risk = Risk::Changes("queueing and filters of traffic");

/// What moves a link elsewhere, or hands it a program.
const LINK_REFUSED: &[(u16, &str)] = &[
    (19, PROCESS),    // IFLA_NET_NS_PID
    (28, DESCRIPTOR), // IFLA_NET_NS_FD
    (37, NAMESPACE),  // IFLA_LINK_NETNSID
    (43, DESCRIPTOR), // IFLA_XDP
    (45, NAMESPACE),  // IFLA_NEW_NETNSID
    (46, NAMESPACE),  // IFLA_TARGET_NETNSID
];

static KIND: Schema = Schema { leaves: &[(1, 1)], within: &[], refused: &[(2, DEEP), (4, DEEP), (5, DEEP)] };
static LINK_GET: Schema = Schema {
    leaves: &[(3, 3), (10, 10), (29, 29), (53, 53)],
    within: &[(18, Within::Attrs(&KIND))],
    refused: LINK_REFUSED,
};
static LINK_SET: Schema = Schema {
    // ADDRESS BROADCAST IFNAME MTU, MASTER, TXQLEN, OPERSTATE LINKMODE, IFALIAS, GROUP, EXT_MASK, CARRIER, PROTO_DOWN..GSO_MAX_SIZE,
    // ALT_IFNAME: not LINKINFO, which makes links of any kind.
    leaves: &[(1, 4), (10, 10), (13, 13), (16, 17), (20, 20), (27, 27), (29, 29), (33, 33), (39, 41), (53, 53)],
    within: &[],
    refused: LINK_REFUSED,
};
static LINK_DEL: Schema =
    Schema { leaves: &[(3, 3), (27, 27), (29, 29), (53, 53)], within: &[], refused: LINK_REFUSED };
static ADDRESS: Schema = Schema { leaves: &[(1, 9), (11, 11)], within: &[], refused: &[(10, NAMESPACE)] };
static METRICS: Schema = Schema::leaves(&[(1, 17)]);
static ROUTE: Schema = Schema {
    leaves: &[(1, 7), (11, 13), (15, 16), (18, 20), (23, 24), (26, 30)],
    within: &[(8, Within::Attrs(&METRICS)), (9, Within::Special(next_hops))],
    refused: &[(21, DEEP), (22, DEEP), (25, USERS)],
};
static NEXT_HOP: Schema =
    Schema { leaves: &[(4, 5), (11, 11), (18, 19), (30, 30)], within: &[], refused: &[(21, DEEP), (22, DEEP)] };
static NEIGHBOUR: Schema = Schema { leaves: &[(1, 9), (11, 13), (15, 15)], within: &[], refused: &[(10, NAMESPACE)] };
static RULE: Schema = Schema { leaves: &[(1, 19), (21, 24)], within: &[], refused: &[(20, USERS)] };
static TRAFFIC_GET: Schema = Schema::leaves(&[(1, 1), (10, 11), (13, 15)]);
static NEXTHOP: Schema = Schema { leaves: &[(1, 6), (9, 11)], within: &[], refused: &[(7, DEEP), (8, DEEP)] };
static NETCONF: Schema = Schema::leaves(&[(1, 1)]);
static NSID: Schema =
    Schema { leaves: &[(1, 1)], within: &[], refused: &[(2, PROCESS), (3, DESCRIPTOR), (4, NAMESPACE)] };

/// RTA_MULTIPATH: `struct rtnexthop`, each with attributes.
fn next_hops(mut rest: &[u8]) -> Result<(), Flaw> {
    const FIXED: usize = 8;
    while !rest.is_empty() {
        let len = usize::from(u16_at(rest, 0).unwrap_or(0));
        let Some(attrs) = rest.get(FIXED..len) else {
            return Err(Flaw(format!("a next hop has length {len}, and there are {} bytes", rest.len())));
        };
        NEXT_HOP.check(attrs)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

macro_rules! messages {
    ($($kind:literal $name:literal $uapi:literal $header:literal $attrs:ident $risk:expr $(, $never:expr)?;)*) => {
        const KINDS: &[u16] = &[$($kind),*];
        static MESSAGES: &[Message] = &[$(Message::new($name, $uapi, $header, &$attrs, $risk)$(.never($never))?),*];
    };
}

messages! {
    16 "newlink" "RTM_NEWLINK" 16 LINK_SET LINKS;
    17 "dellink" "RTM_DELLINK" 16 LINK_DEL LINKS;
    18 "getlink" "RTM_GETLINK" 16 LINK_GET Risk::Reads;
    19 "setlink" "RTM_SETLINK" 16 LINK_SET LINKS;
    20 "newaddr" "RTM_NEWADDR" 8 ADDRESS ADDRESSES;
    21 "deladdr" "RTM_DELADDR" 8 ADDRESS ADDRESSES;
    22 "getaddr" "RTM_GETADDR" 8 ADDRESS Risk::Reads;
    24 "newroute" "RTM_NEWROUTE" 12 ROUTE ROUTES;
    25 "delroute" "RTM_DELROUTE" 12 ROUTE ROUTES;
    26 "getroute" "RTM_GETROUTE" 12 ROUTE Risk::Reads;
    28 "newneigh" "RTM_NEWNEIGH" 12 NEIGHBOUR NEIGHBOURS;
    29 "delneigh" "RTM_DELNEIGH" 12 NEIGHBOUR NEIGHBOURS;
    30 "getneigh" "RTM_GETNEIGH" 12 NEIGHBOUR Risk::Reads;
    32 "newrule" "RTM_NEWRULE" 12 RULE ROUTES;
    33 "delrule" "RTM_DELRULE" 12 RULE ROUTES;
    34 "getrule" "RTM_GETRULE" 12 RULE Risk::Reads;
    36 "newqdisc" "RTM_NEWQDISC" 20 NONE TRAFFIC, DEEP;
    37 "delqdisc" "RTM_DELQDISC" 20 TRAFFIC_GET TRAFFIC;
    38 "getqdisc" "RTM_GETQDISC" 20 TRAFFIC_GET Risk::Reads;
    40 "newtclass" "RTM_NEWTCLASS" 20 NONE TRAFFIC, DEEP;
    41 "deltclass" "RTM_DELTCLASS" 20 TRAFFIC_GET TRAFFIC;
    42 "gettclass" "RTM_GETTCLASS" 20 TRAFFIC_GET Risk::Reads;
    44 "newtfilter" "RTM_NEWTFILTER" 20 NONE TRAFFIC, DESCRIPTOR;
    45 "deltfilter" "RTM_DELTFILTER" 20 TRAFFIC_GET TRAFFIC;
    46 "gettfilter" "RTM_GETTFILTER" 20 TRAFFIC_GET Risk::Reads;
    66 "getneightbl" "RTM_GETNEIGHTBL" 4 NONE Risk::Reads;
    82 "getnetconf" "RTM_GETNETCONF" 1 NETCONF Risk::Reads;
    86 "getmdb" "RTM_GETMDB" 8 NONE Risk::Reads;
    88 "newnsid" "RTM_NEWNSID" 1 NSID LINKS, NAMESPACE;
    90 "getnsid" "RTM_GETNSID" 1 NSID Risk::Reads;
    94 "getstats" "RTM_GETSTATS" 12 NONE Risk::Reads;
    104 "newnexthop" "RTM_NEWNEXTHOP" 8 NEXTHOP ROUTES;
    105 "delnexthop" "RTM_DELNEXTHOP" 8 NEXTHOP ROUTES;
    106 "getnexthop" "RTM_GETNEXTHOP" 8 NEXTHOP Risk::Reads;
}

pub const FAMILY: Family = Family {
    name: "route",
    number: libc::NETLINK_ROUTE as u32,
    messages: MESSAGES,
    received: super::received::ROUTE,
    groups: &[
        (1, "link"),
        (2, "notify"),
        (3, "neigh"),
        (4, "tc"),
        (5, "ipv4_ifaddr"),
        (6, "ipv4_mroute"),
        (7, "ipv4_route"),
        (8, "ipv4_rule"),
        (9, "ipv6_ifaddr"),
        (10, "ipv6_mroute"),
        (11, "ipv6_route"),
        (12, "ipv6_ifinfo"),
        (18, "ipv6_prefix"),
        (19, "ipv6_rule"),
        (20, "nd_useropt"),
        (24, "ipv4_netconf"),
        (25, "ipv6_netconf"),
        (26, "mdb"),
        (28, "nsid"),
        (32, "nexthop"),
        (33, "brvlan"),
        (35, "tunnel"),
        (36, "stats"),
    ],
    identify: |msg, _| KINDS.iter().position(|kind| *kind == msg.kind).and_then(|at| MESSAGES.get(at)),
};
