//! The messages of the kernel's that a rule can name for receive: answers, and what is sent to groups, queues and log groups.

use crate::policy::generic::GenericIds;
use crate::policy::sieve::Pattern;

/// A message that the kernel sends.
#[derive(Debug)]
pub struct Received {
    /// As in a configuration.
    pub name: &'static str,
    /// As in the kernel's headers; a configuration may say it as well.
    pub uapi: &'static str,
    pub is: Is,
}

impl Received {
    /// What it looks like on the running kernel; nothing, when that does not have it.
    pub fn pattern(&self, ids: &GenericIds) -> Option<Pattern> {
        match self.is {
            Is::Kind(kind) => Some(Pattern::kind(kind)),
            Is::First(kind, first) => Some(Pattern::first(kind, first)),
            Is::Command(family, command) => ids.number(family).map(|kind| Pattern::first(kind, command)),
            Is::Word(place) => Some(Pattern::first(0, place as u8)),
        }
    }
}

/// How it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// By its type.
    Kind(u16),
    /// By its type and the first byte behind the header.
    First(u16, u8),
    /// By its generic family, whose number the running kernel tells, and its command.
    Command(&'static str, u8),
    /// By its place in [`WORDS`]: a message of `kobject_uevent` has no header, and begins with a word.
    Word(u16),
}

/// Packets of queues and of log groups, which have their numbers in them.
pub const QUEUE_PACKET: u16 = 3 << 8;
pub const LOG_PACKET: u16 = 4 << 8;

/// How messages of `kobject_uevent` begin; the last of them is udevd's, to its own group.
pub const WORDS: [&str; 9] = ["add", "remove", "change", "move", "online", "offline", "bind", "unbind", "libudev"];

const BY_FAMILY: u16 = 20;

macro_rules! table {
    ($name:ident, $($what:expr, $word:literal $uapi:literal;)*) => {
        pub static $name: &[Received] = &[$(Received { name: $word, uapi: $uapi, is: $what }),*];
    };
}
use Is::{Command, First, Kind, Word};

/// A netfilter subsystem's message.
const fn nf(subsystem: u16, message: u16) -> Is {
    Kind(subsystem << 8 | message)
}

table! { ROUTE,
    Kind(16), "newlink" "RTM_NEWLINK";
    Kind(17), "dellink" "RTM_DELLINK";
    Kind(20), "newaddr" "RTM_NEWADDR";
    Kind(21), "deladdr" "RTM_DELADDR";
    Kind(24), "newroute" "RTM_NEWROUTE";
    Kind(25), "delroute" "RTM_DELROUTE";
    Kind(28), "newneigh" "RTM_NEWNEIGH";
    Kind(29), "delneigh" "RTM_DELNEIGH";
    Kind(30), "getneigh" "RTM_GETNEIGH";
    Kind(32), "newrule" "RTM_NEWRULE";
    Kind(33), "delrule" "RTM_DELRULE";
    Kind(36), "newqdisc" "RTM_NEWQDISC";
    Kind(37), "delqdisc" "RTM_DELQDISC";
    Kind(40), "newtclass" "RTM_NEWTCLASS";
    Kind(41), "deltclass" "RTM_DELTCLASS";
    Kind(44), "newtfilter" "RTM_NEWTFILTER";
    Kind(45), "deltfilter" "RTM_DELTFILTER";
    Kind(48), "newaction" "RTM_NEWACTION";
    Kind(49), "delaction" "RTM_DELACTION";
    Kind(52), "newprefix" "RTM_NEWPREFIX";
    Kind(64), "newneightbl" "RTM_NEWNEIGHTBL";
    Kind(68), "newnduseropt" "RTM_NEWNDUSEROPT";
    Kind(72), "newaddrlabel" "RTM_NEWADDRLABEL";
    Kind(73), "deladdrlabel" "RTM_DELADDRLABEL";
    Kind(80), "newnetconf" "RTM_NEWNETCONF";
    Kind(81), "delnetconf" "RTM_DELNETCONF";
    Kind(84), "newmdb" "RTM_NEWMDB";
    Kind(85), "delmdb" "RTM_DELMDB";
    Kind(88), "newnsid" "RTM_NEWNSID";
    Kind(89), "delnsid" "RTM_DELNSID";
    Kind(92), "newstats" "RTM_NEWSTATS";
    Kind(96), "newcachereport" "RTM_NEWCACHEREPORT";
    Kind(100), "newchain" "RTM_NEWCHAIN";
    Kind(101), "delchain" "RTM_DELCHAIN";
    Kind(104), "newnexthop" "RTM_NEWNEXTHOP";
    Kind(105), "delnexthop" "RTM_DELNEXTHOP";
    Kind(108), "newlinkprop" "RTM_NEWLINKPROP";
    Kind(109), "dellinkprop" "RTM_DELLINKPROP";
    Kind(112), "newvlan" "RTM_NEWVLAN";
    Kind(113), "delvlan" "RTM_DELVLAN";
    Kind(116), "newnexthopbucket" "RTM_NEWNEXTHOPBUCKET";
    Kind(117), "delnexthopbucket" "RTM_DELNEXTHOPBUCKET";
    Kind(120), "newtunnel" "RTM_NEWTUNNEL";
    Kind(121), "deltunnel" "RTM_DELTUNNEL";
}

table! { NETFILTER,
    Kind(QUEUE_PACKET), "queue/packet" "NFQNL_MSG_PACKET";
    Kind(LOG_PACKET), "log/packet" "NFULNL_MSG_PACKET";
    nf(1, 0), "conntrack/new" "IPCTNL_MSG_CT_NEW";
    nf(1, 2), "conntrack/delete" "IPCTNL_MSG_CT_DELETE";
    nf(1, 4), "conntrack/get_stats_cpu" "IPCTNL_MSG_CT_GET_STATS_CPU";
    nf(1, 5), "conntrack/get_stats" "IPCTNL_MSG_CT_GET_STATS";
    nf(2, 0), "expect/new" "IPCTNL_MSG_EXP_NEW";
    nf(2, 2), "expect/delete" "IPCTNL_MSG_EXP_DELETE";
    nf(2, 3), "expect/get_stats_cpu" "IPCTNL_MSG_EXP_GET_STATS_CPU";
    nf(7, 4), "acct/overquota" "NFNL_MSG_ACCT_OVERQUOTA";
    nf(10, 0), "nftables/newtable" "NFT_MSG_NEWTABLE";
    nf(10, 2), "nftables/deltable" "NFT_MSG_DELTABLE";
    nf(10, 3), "nftables/newchain" "NFT_MSG_NEWCHAIN";
    nf(10, 5), "nftables/delchain" "NFT_MSG_DELCHAIN";
    nf(10, 6), "nftables/newrule" "NFT_MSG_NEWRULE";
    nf(10, 8), "nftables/delrule" "NFT_MSG_DELRULE";
    nf(10, 9), "nftables/newset" "NFT_MSG_NEWSET";
    nf(10, 11), "nftables/delset" "NFT_MSG_DELSET";
    nf(10, 12), "nftables/newsetelem" "NFT_MSG_NEWSETELEM";
    nf(10, 14), "nftables/delsetelem" "NFT_MSG_DELSETELEM";
    nf(10, 15), "nftables/newgen" "NFT_MSG_NEWGEN";
    nf(10, 17), "nftables/trace" "NFT_MSG_TRACE";
    nf(10, 18), "nftables/newobj" "NFT_MSG_NEWOBJ";
    nf(10, 20), "nftables/delobj" "NFT_MSG_DELOBJ";
    nf(10, 22), "nftables/newflowtable" "NFT_MSG_NEWFLOWTABLE";
    nf(10, 24), "nftables/delflowtable" "NFT_MSG_DELFLOWTABLE";
}

table! { GENERIC,
    Command("nlctrl", 1), "nlctrl/newfamily" "CTRL_CMD_NEWFAMILY";
    Command("nlctrl", 2), "nlctrl/delfamily" "CTRL_CMD_DELFAMILY";
    Command("nlctrl", 7), "nlctrl/newmcast_grp" "CTRL_CMD_NEWMCAST_GRP";
    Command("nlctrl", 8), "nlctrl/delmcast_grp" "CTRL_CMD_DELMCAST_GRP";
    Command("nlctrl", 10), "nlctrl/getpolicy" "CTRL_CMD_GETPOLICY";
    Command("ethtool", 1), "ethtool/strset_get_reply" "ETHTOOL_MSG_STRSET_GET_REPLY";
    Command("ethtool", 2), "ethtool/linkinfo_get_reply" "ETHTOOL_MSG_LINKINFO_GET_REPLY";
    Command("ethtool", 3), "ethtool/linkinfo_ntf" "ETHTOOL_MSG_LINKINFO_NTF";
    Command("ethtool", 4), "ethtool/linkmodes_get_reply" "ETHTOOL_MSG_LINKMODES_GET_REPLY";
    Command("ethtool", 5), "ethtool/linkmodes_ntf" "ETHTOOL_MSG_LINKMODES_NTF";
    Command("ethtool", 6), "ethtool/linkstate_get_reply" "ETHTOOL_MSG_LINKSTATE_GET_REPLY";
    Command("ethtool", 7), "ethtool/debug_get_reply" "ETHTOOL_MSG_DEBUG_GET_REPLY";
    Command("ethtool", 8), "ethtool/debug_ntf" "ETHTOOL_MSG_DEBUG_NTF";
    Command("ethtool", 9), "ethtool/wol_get_reply" "ETHTOOL_MSG_WOL_GET_REPLY";
    Command("ethtool", 10), "ethtool/wol_ntf" "ETHTOOL_MSG_WOL_NTF";
    Command("ethtool", 11), "ethtool/features_get_reply" "ETHTOOL_MSG_FEATURES_GET_REPLY";
    Command("ethtool", 13), "ethtool/features_ntf" "ETHTOOL_MSG_FEATURES_NTF";
    Command("ethtool", 14), "ethtool/privflags_get_reply" "ETHTOOL_MSG_PRIVFLAGS_GET_REPLY";
    Command("ethtool", 15), "ethtool/privflags_ntf" "ETHTOOL_MSG_PRIVFLAGS_NTF";
    Command("ethtool", 16), "ethtool/rings_get_reply" "ETHTOOL_MSG_RINGS_GET_REPLY";
    Command("ethtool", 17), "ethtool/rings_ntf" "ETHTOOL_MSG_RINGS_NTF";
    Command("ethtool", 18), "ethtool/channels_get_reply" "ETHTOOL_MSG_CHANNELS_GET_REPLY";
    Command("ethtool", 19), "ethtool/channels_ntf" "ETHTOOL_MSG_CHANNELS_NTF";
    Command("ethtool", 20), "ethtool/coalesce_get_reply" "ETHTOOL_MSG_COALESCE_GET_REPLY";
    Command("ethtool", 21), "ethtool/coalesce_ntf" "ETHTOOL_MSG_COALESCE_NTF";
    Command("ethtool", 22), "ethtool/pause_get_reply" "ETHTOOL_MSG_PAUSE_GET_REPLY";
    Command("ethtool", 23), "ethtool/pause_ntf" "ETHTOOL_MSG_PAUSE_NTF";
    Command("ethtool", 24), "ethtool/eee_get_reply" "ETHTOOL_MSG_EEE_GET_REPLY";
    Command("ethtool", 25), "ethtool/eee_ntf" "ETHTOOL_MSG_EEE_NTF";
    Command("ethtool", 26), "ethtool/tsinfo_get_reply" "ETHTOOL_MSG_TSINFO_GET_REPLY";
    Command("ethtool", 27), "ethtool/cable_test_ntf" "ETHTOOL_MSG_CABLE_TEST_NTF";
    Command("ethtool", 28), "ethtool/cable_test_tdr_ntf" "ETHTOOL_MSG_CABLE_TEST_TDR_NTF";
    Command("ethtool", 29), "ethtool/tunnel_info_get_reply" "ETHTOOL_MSG_TUNNEL_INFO_GET_REPLY";
    Command("ethtool", 30), "ethtool/fec_get_reply" "ETHTOOL_MSG_FEC_GET_REPLY";
    Command("ethtool", 31), "ethtool/fec_ntf" "ETHTOOL_MSG_FEC_NTF";
    Command("ethtool", 32), "ethtool/module_eeprom_get_reply" "ETHTOOL_MSG_MODULE_EEPROM_GET_REPLY";
    Command("ethtool", 33), "ethtool/stats_get_reply" "ETHTOOL_MSG_STATS_GET_REPLY";
    Command("ethtool", 34), "ethtool/phc_vclocks_get_reply" "ETHTOOL_MSG_PHC_VCLOCKS_GET_REPLY";
    Command("ethtool", 35), "ethtool/module_get_reply" "ETHTOOL_MSG_MODULE_GET_REPLY";
    Command("ethtool", 36), "ethtool/module_ntf" "ETHTOOL_MSG_MODULE_NTF";
    Command("nl80211", 3), "nl80211/new_wiphy" "NL80211_CMD_NEW_WIPHY";
    Command("nl80211", 4), "nl80211/del_wiphy" "NL80211_CMD_DEL_WIPHY";
    Command("nl80211", 7), "nl80211/new_interface" "NL80211_CMD_NEW_INTERFACE";
    Command("nl80211", 8), "nl80211/del_interface" "NL80211_CMD_DEL_INTERFACE";
    Command("nl80211", 19), "nl80211/new_station" "NL80211_CMD_NEW_STATION";
    Command("nl80211", 20), "nl80211/del_station" "NL80211_CMD_DEL_STATION";
    Command("nl80211", 33), "nl80211/trigger_scan" "NL80211_CMD_TRIGGER_SCAN";
    Command("nl80211", 34), "nl80211/new_scan_results" "NL80211_CMD_NEW_SCAN_RESULTS";
    Command("nl80211", 35), "nl80211/scan_aborted" "NL80211_CMD_SCAN_ABORTED";
    Command("nl80211", 36), "nl80211/reg_change" "NL80211_CMD_REG_CHANGE";
    Command("nl80211", 46), "nl80211/connect" "NL80211_CMD_CONNECT";
    Command("nl80211", 47), "nl80211/roam" "NL80211_CMD_ROAM";
    Command("nl80211", 48), "nl80211/disconnect" "NL80211_CMD_DISCONNECT";
    Command("wireguard", 0), "wireguard/get_device" "WG_CMD_GET_DEVICE";
    Command("tcp_metrics", 1), "tcp_metrics/get" "TCP_METRICS_CMD_GET";
}

table! { DIAG,
    First(BY_FAMILY, libc::AF_INET as u8), "inet" "SOCK_DIAG_BY_FAMILY/AF_INET";
    First(BY_FAMILY, libc::AF_INET6 as u8), "inet6" "SOCK_DIAG_BY_FAMILY/AF_INET6";
    First(BY_FAMILY, libc::AF_UNIX as u8), "unix" "SOCK_DIAG_BY_FAMILY/AF_UNIX";
    First(BY_FAMILY, libc::AF_NETLINK as u8), "netlink" "SOCK_DIAG_BY_FAMILY/AF_NETLINK";
    First(BY_FAMILY, libc::AF_PACKET as u8), "packet" "SOCK_DIAG_BY_FAMILY/AF_PACKET";
}

table! { XFRM,
    Kind(0x10), "newsa" "XFRM_MSG_NEWSA";
    Kind(0x11), "delsa" "XFRM_MSG_DELSA";
    Kind(0x13), "newpolicy" "XFRM_MSG_NEWPOLICY";
    Kind(0x14), "delpolicy" "XFRM_MSG_DELPOLICY";
    Kind(0x17), "acquire" "XFRM_MSG_ACQUIRE";
    Kind(0x18), "expire" "XFRM_MSG_EXPIRE";
    Kind(0x19), "updpolicy" "XFRM_MSG_UPDPOLICY";
    Kind(0x1a), "updsa" "XFRM_MSG_UPDSA";
    Kind(0x1b), "polexpire" "XFRM_MSG_POLEXPIRE";
    Kind(0x1c), "flushsa" "XFRM_MSG_FLUSHSA";
    Kind(0x1d), "flushpolicy" "XFRM_MSG_FLUSHPOLICY";
    Kind(0x1e), "newae" "XFRM_MSG_NEWAE";
    Kind(0x20), "report" "XFRM_MSG_REPORT";
    Kind(0x21), "migrate" "XFRM_MSG_MIGRATE";
    Kind(0x22), "newsadinfo" "XFRM_MSG_NEWSADINFO";
    Kind(0x24), "newspdinfo" "XFRM_MSG_NEWSPDINFO";
    Kind(0x26), "mapping" "XFRM_MSG_MAPPING";
}

table! { UEVENT,
    Word(0), "add" "KOBJ_ADD";
    Word(1), "remove" "KOBJ_REMOVE";
    Word(2), "change" "KOBJ_CHANGE";
    Word(3), "move" "KOBJ_MOVE";
    Word(4), "online" "KOBJ_ONLINE";
    Word(5), "offline" "KOBJ_OFFLINE";
    Word(6), "bind" "KOBJ_BIND";
    Word(7), "unbind" "KOBJ_UNBIND";
    Word(8), "udev" "UDEV_EVENT";
}
