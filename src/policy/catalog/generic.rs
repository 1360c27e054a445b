//! NETLINK_GENERIC: families that have names and, at run time, numbers (`linux/genetlink.h`). Known are the controller and
//! families whose requests hold no more than is listed here. `taskstats` is not: it is about processes.

use super::{Family, Message, Risk};
use crate::policy::schema::{NONE, Schema, Within};

/// `struct genlmsghdr`
const FIXED: usize = 4;

static CONTROLLER: Schema = Schema::leaves(&[(1, 2), (10, 10)]);
static DEVICE: Schema = Schema::leaves(&[(1, 3)]);
static ETHTOOL: Schema = Schema::with(&[], &[(1, Within::Attrs(&DEVICE))]);
static WIREGUARD_GET: Schema = Schema::leaves(&[(1, 2)]);
static ALLOWED: Schema = Schema::leaves(&[(1, 4)]);
static PEER: Schema = Schema::with(&[(1, 5), (10, 10)], &[(9, Within::Each(&ALLOWED))]);
static WIREGUARD_SET: Schema = Schema::with(&[(1, 7)], &[(8, Within::Each(&PEER))]);
/// WIPHY, IFINDEX, IFNAME, MAC, WDEV, SPLIT_WIPHY_DUMP
static WIRELESS: Schema = Schema::leaves(&[(1, 1), (3, 4), (6, 6), (153, 153), (174, 174)]);

const TUNNELS: Risk = Risk::Changes("keys and peers of WireGuard");

macro_rules! messages {
    ($($family:literal $cmd:literal $name:literal $uapi:literal $attrs:ident $risk:expr;)*) => {
        const KINDS: &[(&str, u8)] = &[$(($family, $cmd)),*];
        static MESSAGES: &[Message] = &[$(Message::new($name, $uapi, FIXED, &$attrs, $risk)),*];
    };
}

messages! {
    "nlctrl" 3 "nlctrl/getfamily" "CTRL_CMD_GETFAMILY" CONTROLLER Risk::Reads;
    "nlctrl" 10 "nlctrl/getpolicy" "CTRL_CMD_GETPOLICY" CONTROLLER Risk::Reads;
    "ethtool" 2 "ethtool/linkinfo_get" "ETHTOOL_MSG_LINKINFO_GET" ETHTOOL Risk::Reads;
    "ethtool" 4 "ethtool/linkmodes_get" "ETHTOOL_MSG_LINKMODES_GET" ETHTOOL Risk::Reads;
    "ethtool" 6 "ethtool/linkstate_get" "ETHTOOL_MSG_LINKSTATE_GET" ETHTOOL Risk::Reads;
    "ethtool" 9 "ethtool/wol_get" "ETHTOOL_MSG_WOL_GET" ETHTOOL Risk::Reads;
    "ethtool" 11 "ethtool/features_get" "ETHTOOL_MSG_FEATURES_GET" ETHTOOL Risk::Reads;
    "ethtool" 13 "ethtool/privflags_get" "ETHTOOL_MSG_PRIVFLAGS_GET" ETHTOOL Risk::Reads;
    "ethtool" 15 "ethtool/rings_get" "ETHTOOL_MSG_RINGS_GET" ETHTOOL Risk::Reads;
    "ethtool" 17 "ethtool/channels_get" "ETHTOOL_MSG_CHANNELS_GET" ETHTOOL Risk::Reads;
    "ethtool" 19 "ethtool/coalesce_get" "ETHTOOL_MSG_COALESCE_GET" ETHTOOL Risk::Reads;
    "ethtool" 21 "ethtool/pause_get" "ETHTOOL_MSG_PAUSE_GET" ETHTOOL Risk::Reads;
    "ethtool" 23 "ethtool/eee_get" "ETHTOOL_MSG_EEE_GET" ETHTOOL Risk::Reads;
    "ethtool" 25 "ethtool/tsinfo_get" "ETHTOOL_MSG_TSINFO_GET" ETHTOOL Risk::Reads;
    "nl80211" 1 "nl80211/get_wiphy" "NL80211_CMD_GET_WIPHY" WIRELESS Risk::Reads;
    "nl80211" 5 "nl80211/get_interface" "NL80211_CMD_GET_INTERFACE" WIRELESS Risk::Reads;
    "nl80211" 17 "nl80211/get_station" "NL80211_CMD_GET_STATION" WIRELESS Risk::Reads;
    "nl80211" 32 "nl80211/get_scan" "NL80211_CMD_GET_SCAN" WIRELESS Risk::Reads;
    "wireguard" 0 "wireguard/get_device" "WG_CMD_GET_DEVICE" WIREGUARD_GET Risk::Changes("nothing, but it tells the keys of WireGuard");
    "wireguard" 1 "wireguard/set_device" "WG_CMD_SET_DEVICE" WIREGUARD_SET TUNNELS;
    "tcp_metrics" 1 "tcp_metrics/get" "TCP_METRICS_CMD_GET" NONE Risk::Reads;
}

pub const FAMILY: Family = Family {
    name: "generic",
    number: libc::NETLINK_GENERIC as u32,
    messages: MESSAGES,
    received: super::received::GENERIC,
    groups: &[],
    identify: |msg, ids| {
        let (family, cmd) = (ids.family(msg.kind)?, *msg.payload.first()?);
        KINDS.iter().position(|(name, known)| *name == family && *known == cmd).and_then(|at| MESSAGES.get(at))
    },
};
