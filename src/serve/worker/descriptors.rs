//! Messages that name a descriptor of whoever sends them.
//!
//! The kernel would look for it among the worker's, where the client's are not. So they are known here, family by family, up
//! to Linux 6.18. The list cannot be complete: each kernel may bring attributes that nobody knows yet. What is not on it finds
//! nothing in a worker that it could use (docs/security.md).
//!
//! Bytes are walked over as the kernel does, which skips what it cannot read; of attributes that come twice each counts.

/// An attribute's number and what it holds.
type Attr<'a> = (u16, &'a [u8]);
/// What a message of a generic family, its command and what follows its header, is judged by.
pub type Judge = fn(u8, &[u8]) -> bool;

const HEADER: usize = 16;
const TYPE: u16 = 0x3fff;

const ROUTE: u32 = 0;
const SOCK_DIAG: u32 = 4;
const NETFILTER: u32 = 12;
pub const GENERIC: u32 = 16;
const RDMA: u32 = 20;

/// Whether messages of a family may name descriptors at all.
pub fn has_any(family: u32) -> bool {
    matches!(family, ROUTE | SOCK_DIAG | NETFILTER | GENERIC | RDMA)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

fn behind(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..).unwrap_or_default()
}

/// Items of a length, of which `size` bytes at least are a header: each whole.
fn items(mut rest: &[u8], size: usize, len: fn(&[u8]) -> usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let item = rest.get(..size).map(len).filter(|len| *len >= size).and_then(|len| rest.get(..len))?;
        rest = behind(rest, item.len().next_multiple_of(4));
        Some(item)
    })
}

fn attrs(bytes: &[u8]) -> impl Iterator<Item = Attr<'_>> {
    items(bytes, 4, |head| u16_at(head, 0).into()).map(|attr| (u16_at(attr, 2) & TYPE, behind(attr, 4)))
}

/// All attributes with this number.
fn all(bytes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    attrs(bytes).filter(move |attr| attr.0 == kind).map(|attr| attr.1)
}

/// Whether there is an attribute at the end of this way through nested ones.
fn has(bytes: &[u8], way: &[u16]) -> bool {
    way.split_first().is_none_or(|(first, rest)| all(bytes, *first).any(|inner| has(inner, rest)))
}

/// Whether an attribute with this number is one of these words.
fn is(bytes: &[u8], kind: u16, words: &[&str]) -> bool {
    all(bytes, kind).any(|text| {
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        words.iter().any(|word| word.as_bytes() == text)
    })
}

/// Whether any message of a datagram names a descriptor. `generic` gives the judge of a generic family, by its number.
pub fn are_named(family: u32, datagram: &[u8], mut generic: impl FnMut(u16) -> Option<Judge>) -> bool {
    let len = |head: &[u8]| head.first_chunk().map_or(0, |len| u32::from_ne_bytes(*len) as usize);
    items(datagram, HEADER, len).any(|message| {
        let (kind, payload) = (u16_at(message, 4), behind(message, HEADER));
        match family {
            ROUTE => in_route(kind, payload),
            // SOCK_DIAG_BY_FAMILY: INET_DIAG_REQ_SK_BPF_STORAGES, SK_DIAG_BPF_STORAGE_REQ_MAP_FD
            SOCK_DIAG => kind == 20 && has(behind(payload, 56), &[2, 1]),
            // NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWRULE
            NETFILTER => kind == 10 << 8 | 6 && in_rule(behind(payload, 4)),
            GENERIC => match (generic(kind), payload.first()) {
                (Some(judge), Some(command)) => judge(*command, behind(payload, 4)),
                _ => false,
            },
            // RDMA_NL_NLDEV: RDMA_NLDEV_NET_NS_FD
            RDMA => kind >> 10 == 5 && has(payload, &[68]),
            _ => false,
        }
    })
}

fn in_route(kind: u16, payload: &[u8]) -> bool {
    match kind {
        // RTM_NEWLINK, RTM_SETLINK
        16 | 19 => in_link(behind(payload, 16), false),
        // RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE: RTA_ENCAP_TYPE, RTA_ENCAP; RTA_MULTIPATH
        24..=26 => {
            let attrs = behind(payload, 12);
            let hops = |hops| items(hops, 8, |head| u16_at(head, 0).into());
            in_encap(attrs, 21, 22) || all(attrs, 9).flat_map(hops).any(|hop| in_encap(behind(hop, 8), 21, 22))
        }
        // RTM_NEWTFILTER and its like, RTM_NEWCHAIN
        44..=46 | 100 => in_filter(behind(payload, 20)),
        // RTM_NEWACTION and its like: TCA_ACT_TAB
        48..=50 => all(behind(payload, 4), 1).any(in_actions),
        // RTM_NEWNSID, RTM_DELNSID, RTM_GETNSID: NETNSA_FD
        88..=90 => has(behind(payload, 4), &[3]),
        // RTM_NEWNEXTHOP: NHA_ENCAP_TYPE, NHA_ENCAP
        104 => in_encap(behind(payload, 8), 7, 8),
        _ => false,
    }
}

/// `IFLA_NET_NS_FD`; `IFLA_XDP_FD`, `IFLA_XDP_EXPECTED_FD` in `IFLA_XDP`; and by the kind of link in `IFLA_LINKINFO`.
fn in_link(attrs: &[u8], is_peer: bool) -> bool {
    let data = |info, way: &[u16]| all(info, 2).any(|data| has(data, way));
    has(attrs, &[28])
        || has(attrs, &[43, 1])
        || has(attrs, &[43, 8])
        || all(attrs, 18).any(|info| {
            // IFLA_PPP_DEV_FD; IFLA_GTP_FD0, IFLA_GTP_FD1
            is(info, 1, &["ppp", "gtp"]) && data(info, &[1])
                || is(info, 1, &["gtp"]) && data(info, &[2])
                // VETH_INFO_PEER and its like: a message of this kind, without its header.
                || !is_peer
                    && is(info, 1, &["veth", "vxcan", "netkit"])
                    && all(info, 2).any(|data| all(data, 1).any(|peer| in_link(behind(peer, 16), true)))
        })
}

fn in_encap(attrs: &[u8], kind: u16, encap: u16) -> bool {
    let is = |wanted: u16| all(attrs, kind).any(|kind| u16_at(kind, 0) == wanted);
    let (is_bpf, is_seg6_local) = (is(6), is(7));
    all(attrs, encap).any(|encap| {
        // LWTUNNEL_ENCAP_BPF: LWT_BPF_PROG_FD in LWT_BPF_IN, LWT_BPF_OUT, LWT_BPF_XMIT
        is_bpf && (1..=3).any(|hook| has(encap, &[hook, 1]))
            // LWTUNNEL_ENCAP_SEG6_LOCAL: SEG6_LOCAL_BPF_PROG in SEG6_LOCAL_BPF
            || is_seg6_local && has(encap, &[8, 1])
    })
}

/// `TCA_BPF_FD` in `TCA_OPTIONS`, and actions anywhere in it: each kind of filter has its own number for them.
fn in_filter(attributes: &[u8]) -> bool {
    // One that is there already may be changed without its kind.
    let is_bpf = is(attributes, 1, &["bpf"]) || all(attributes, 1).next().is_none();
    all(attributes, 2).any(|options| is_bpf && has(options, &[6]) || attrs(options).any(|(_, inner)| in_actions(inner)))
}

/// `TCA_ACT_BPF_FD` in `TCA_ACT_OPTIONS` of an action with the `TCA_ACT_KIND` "bpf".
fn in_actions(table: &[u8]) -> bool {
    attrs(table).any(|(_, action)| is(action, 1, &["bpf"]) && has(action, &[2, 5]))
}

/// A match "bpf" of xtables (`struct xt_bpf_info_v1`), whose program is a descriptor or a file: in `NFTA_RULE_EXPRESSIONS`.
fn in_rule(attributes: &[u8]) -> bool {
    let is_other = |data: &[u8]| {
        let first = all(data, 2).all(|revision| revision.iter().all(|byte| *byte == 0));
        !first && all(data, 3).any(|info| u16_at(info, 0) != 0)
    };
    let elements = |list| attrs(list).map(|(_, element)| element);
    all(attributes, 4)
        .flat_map(elements)
        .any(|one| is(one, 1, &["match"]) && all(one, 2).any(|data| is(data, 1, &["bpf"]) && is_other(data)))
}

/// The judge of a generic family, if its messages may name descriptors.
pub fn judge(family: &str) -> Option<Judge> {
    Some(match family {
        // NL80211_ATTR_NETNS_FD
        "nl80211" => |_, attrs| has(attrs, &[219]),
        // NL802154_ATTR_NETNS_FD
        "nl802154" => |_, attrs| has(attrs, &[29]),
        // DEVLINK_ATTR_NETNS_FD
        "devlink" => |_, attrs| has(attrs, &[138]),
        // L2TP_ATTR_FD
        "l2tp" => |_, attrs| has(attrs, &[23]),
        // GTPA_NET_NS_FD
        "gtp" => |_, attrs| has(attrs, &[7]),
        // OVPN_A_PEER_SOCKET in OVPN_A_PEER
        "ovpn" => |_, attrs| has(attrs, &[2, 6]),
        // NBD_SOCK_FD in each of NBD_ATTR_SOCKETS
        "nbd" => |_, bytes| all(bytes, 7).any(|sockets| attrs(sockets).any(|(_, socket)| has(socket, &[1]))),
        // CGROUPSTATS_CMD_GET: CGROUPSTATS_CMD_ATTR_FD
        "TASKSTATS" => |command, attrs| command == 4 && has(attrs, &[1]),
        // HANDSHAKE_CMD_ACCEPT makes one; HANDSHAKE_A_DONE_SOCKFD
        "handshake" => |command, attrs| command == 2 || has(attrs, &[2]),
        // NETDEV_CMD_BIND_RX, NETDEV_CMD_BIND_TX: NETDEV_A_DMABUF_FD
        "netdev" => |command, attrs| matches!(command, 13 | 15) && has(attrs, &[3]),
        // PSP_CMD_RX_ASSOC, PSP_CMD_TX_ASSOC: PSP_A_ASSOC_SOCK_FD
        "psp" => |command, attrs| matches!(command, 8 | 9) && has(attrs, &[5]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
