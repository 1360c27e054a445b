//! Netlink families, the parts of NETFILTER, and namespaces, each tried with a call that changes nothing.

use nix::errno::Errno;

use super::{Check, State};
use crate::sys;

/// Each family that programs of the ring's time used, by a socket.
pub fn families() -> Vec<Check> {
    const FAMILIES: [(&str, i32, &str); 10] = [
        ("ROUTE", libc::NETLINK_ROUTE, "CONFIG_NET"),
        ("USERSOCK", libc::NETLINK_USERSOCK, "CONFIG_NET"),
        ("SOCK_DIAG", libc::NETLINK_SOCK_DIAG, "CONFIG_INET_DIAG (modprobe inet_diag)"),
        ("NETFILTER", libc::NETLINK_NETFILTER, "CONFIG_NETFILTER_NETLINK (modprobe nfnetlink)"),
        ("KOBJECT_UEVENT", libc::NETLINK_KOBJECT_UEVENT, "CONFIG_NET"),
        ("GENERIC", libc::NETLINK_GENERIC, "CONFIG_NET"),
        ("XFRM", libc::NETLINK_XFRM, "CONFIG_XFRM_USER (modprobe xfrm_user)"),
        ("AUDIT", libc::NETLINK_AUDIT, "CONFIG_AUDIT"),
        ("CONNECTOR", libc::NETLINK_CONNECTOR, "CONFIG_CONNECTOR"),
        ("CRYPTO", libc::NETLINK_CRYPTO, "CONFIG_CRYPTO_USER (modprobe crypto_user)"),
    ];
    let check = |(name, protocol, option): (&'static str, i32, &str)| match sys::netlink(protocol) {
        Ok(_) => Check::new("families", name, State::Ok, "a socket can be made"),
        Err(Errno::EPROTONOSUPPORT) => {
            Check::new("families", name, State::No, "this kernel does not have it (EPROTONOSUPPORT)")
                .cure(format!("a kernel with {option}, for programs that use it"))
        }
        Err(error) => Check::new("families", name, State::No, format!("socket: {error}"))
            .cure("allow AF_NETLINK sockets (a seccomp filter or RestrictAddressFamilies forbids them)"),
    };
    let mut checks: Vec<_> = FAMILIES.map(check).into();
    // Without the first of them there is no netlink at all.
    if let Some(first) = checks.first_mut() {
        first.needed = true;
    }
    checks
}

/// The parts of NETFILTER that send most: asked for with a request that changes nothing.
pub fn netfilter() -> Vec<Check> {
    // nfgenmsg: family, version, resource id; for the queue one attribute CFG_CMD = PF_UNBIND, a no-op since 3.8
    const UNBIND_QUEUE: [u8; 12] = [0, 0, 0, 0, 8, 0, 1, 0, 4, 0, 0, 2];
    // A configuration without a command, for a group that nobody has: ENODEV.
    const NO_GROUP: [u8; 4] = [0, 0, 0xff, 0xff];
    // IPCTNL_MSG_CT_GET_STATS asks for counters only.
    const STATS: [u8; 4] = [0, 0, 0, 0];
    let ask = |name, kind: u16, body: &[u8], expected: Result<(), Errno>, option: &str| {
        let check = |state, why: String| Check::new("netfilter", name, state, why);
        match sys::acknowledged(libc::NETLINK_NETFILTER, kind, body) {
            answer if answer == expected => check(State::Ok, "the kernel answers".to_owned()),
            Err(Errno::EPERM) => check(State::Maybe, "cannot be asked without CAP_NET_ADMIN (EPERM)".to_owned())
                .cure("sudo nlmmap doctor"),
            Ok(()) => check(State::Maybe, "the kernel answers in an unknown way".to_owned()),
            Err(error) => check(State::No, format!("the kernel does not have it ({error:?})"))
                .cure(format!("a kernel with {option}, for programs that use it")),
        }
    };
    let (queue, log, conntrack) = (
        "CONFIG_NETFILTER_NETLINK_QUEUE (modprobe nfnetlink_queue)",
        "CONFIG_NETFILTER_NETLINK_LOG (modprobe nfnetlink_log)",
        "CONFIG_NF_CT_NETLINK (modprobe nf_conntrack_netlink)",
    );
    vec![
        ask("nfqueue", 3 << 8 | 2, &UNBIND_QUEUE, Ok(()), queue),
        ask("nflog", 4 << 8 | 1, &NO_GROUP, Err(Errno::ENODEV), log),
        ask("conntrack", 1 << 8 | 5, &STATS, Ok(()), conntrack),
    ]
}

/// What the demo's third part and many tests need.
pub fn namespaces() -> Check {
    let check = |state, why: &str| Check::new("namespaces", "network", state, why);
    if sys::try_unshare(libc::CLONE_NEWNET).is_ok() {
        return check(State::Ok, "can be made");
    }
    match sys::try_unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) {
        Ok(()) => check(State::Ok, "can be made, inside a user namespace"),
        Err(error) => check(State::No, &format!("cannot be made ({error:?})")).cure(
            "run as root, or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)",
        ),
    }
}
