//! The seccomp filter: which calls stop for the supervisor, judged by number and argument alone (docs/supervisor.md).

use std::ops::Range;

use libc::{c_long, sock_filter};
use nlmmap_ring::abi::{NETLINK_RX_RING, NETLINK_TX_RING, SOL_NETLINK};

use super::notify::Call;

/// `AUDIT_ARCH_X86_64`
const ARCH: u32 = 0xc000_003e;

/// Linux 5.11.
pub const SYS_EPOLL_PWAIT2: c_long = 441;

const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ABOVE: u16 = 0x25;
const ANY_OF: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Calls that stop on a supervised number, and in which argument it is. What is not here (`bind`, `close`, names) is the kernel's.
const BY_NUMBER: [(c_long, u32); 20] = [
    (libc::SYS_read, 0),
    (libc::SYS_write, 0),
    (libc::SYS_readv, 0),
    (libc::SYS_writev, 0),
    (libc::SYS_sendto, 0),
    (libc::SYS_recvfrom, 0),
    (libc::SYS_sendmsg, 0),
    (libc::SYS_recvmsg, 0),
    (libc::SYS_sendmmsg, 0),
    (libc::SYS_recvmmsg, 0),
    (libc::SYS_getsockopt, 0),
    (libc::SYS_dup, 0),
    (libc::SYS_dup2, 0),
    (libc::SYS_dup3, 0),
    (libc::SYS_fcntl, 0),
    (libc::SYS_epoll_ctl, 2),
    (libc::SYS_epoll_wait, 0),
    (libc::SYS_epoll_pwait, 0),
    (SYS_EPOLL_PWAIT2, 0),
    (libc::SYS_mmap, 4),
];

/// Calls after which a thread may have other rights than the supervisor.
pub const RIGHTS: [c_long; 13] = [
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Its flags lie in memory.
    libc::SYS_clone3,
];

/// Whether a call is about the file at a number, and the kernel would do it otherwise: it waits in `epoll`, and replaces a number, itself.
pub fn is_about_a_file(nr: i32) -> bool {
    let nr = c_long::from(nr);
    let by_number = BY_NUMBER.iter().any(|(of, _)| *of == nr);
    let kernels = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait, SYS_EPOLL_PWAIT2, libc::SYS_dup2, libc::SYS_dup3];
    let others = [libc::SYS_setsockopt, libc::SYS_poll, libc::SYS_ppoll, libc::SYS_select, libc::SYS_pselect6];
    by_number && !kernels.contains(&nr) || others.contains(&nr)
}

/// Whether it is a `setsockopt` of a ring.
pub fn asks_for_ring(call: &Call) -> bool {
    c_long::from(call.nr) == libc::SYS_setsockopt
        && call.int(1) == SOL_NETLINK
        && matches!(call.int(2), NETLINK_RX_RING | NETLINK_TX_RING)
}

const fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The low half of an argument; all those that are looked at are ints.
const fn argument(index: u32) -> sock_filter {
    op(LOAD, 16 + 8 * index, 0, 0)
}

const ALLOW: sock_filter = op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
const NOTIFY: sock_filter = op(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0);

/// Stops if the descriptor in this argument is among the supervised numbers.
fn number(numbers: &Range<u32>, index: u32) -> Vec<sock_filter> {
    vec![argument(index), op(AT_LEAST, numbers.start, 0, 2), op(AT_LEAST, numbers.end, 1, 0), NOTIFY, ALLOW]
}

/// Stops on a ring option of any number, and on every option of a supervised one.
fn option(numbers: &Range<u32>) -> Vec<sock_filter> {
    let mut body = vec![
        argument(1),
        op(EQUAL, SOL_NETLINK as u32, 0, 4),
        argument(2),
        op(EQUAL, NETLINK_RX_RING as u32, 1, 0),
        op(EQUAL, NETLINK_TX_RING as u32, 0, 1),
        NOTIFY,
    ];
    body.extend(number(numbers, 0));
    body
}

/// The filter for these descriptors. `watch_rights`: the supervisor has rights that a client may give up.
pub fn build(numbers: &Range<u32>, watch_rights: bool) -> Vec<sock_filter> {
    let netlink = vec![argument(0), op(EQUAL, libc::AF_NETLINK as u32, 0, 1), NOTIFY, ALLOW];
    // A `select` that reaches up to the supervised numbers; its first argument is the last number and one.
    let select = vec![argument(0), op(ABOVE, numbers.start, 0, 2), op(AT_LEAST, 1 << 31, 1, 0), NOTIFY, ALLOW];
    let mut rules: Vec<(c_long, Vec<sock_filter>)> = vec![
        (libc::SYS_poll, vec![NOTIFY]),
        (libc::SYS_ppoll, vec![NOTIFY]),
        (libc::SYS_epoll_create, vec![NOTIFY]),
        (libc::SYS_epoll_create1, vec![NOTIFY]),
        (libc::SYS_socket, netlink),
        (libc::SYS_select, select.clone()),
        (libc::SYS_pselect6, select),
        (libc::SYS_setsockopt, option(numbers)),
    ];
    rules.extend(BY_NUMBER.map(|(nr, index)| (nr, number(numbers, index))));
    if watch_rights {
        rules.extend(RIGHTS.map(|nr| (nr, vec![NOTIFY])));
        let new_user = vec![argument(0), op(ANY_OF, libc::CLONE_NEWUSER as u32, 0, 1), NOTIFY, ALLOW];
        rules.push((libc::SYS_clone, new_user));
    }
    // Another architecture's numbers mean other calls; x32's are far above ours.
    let mut all = vec![op(LOAD, 4, 0, 0), op(EQUAL, ARCH, 1, 0), ALLOW, op(LOAD, 0, 0, 0)];
    for (nr, body) in rules {
        all.push(op(EQUAL, nr as u32, 0, body.len() as u8));
        all.extend(body);
    }
    all.push(ALLOW);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel does: whether the call stops.
    fn judge(filter: &[sock_filter], arch: u32, nr: c_long, args: [u64; 6]) -> bool {
        let mut data = Vec::new();
        data.extend((nr as u32).to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
        let (mut at, mut value) = (0, 0u32);
        loop {
            let step = filter[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
            match step.code {
                LOAD => value = u32::from_ne_bytes(data[step.k as usize..][..4].try_into().unwrap()),
                EQUAL => at += jump(value == step.k),
                AT_LEAST => at += jump(value >= step.k),
                ABOVE => at += jump(value > step.k),
                ANY_OF => at += jump(value & step.k != 0),
                RETURN => return step.k == libc::SECCOMP_RET_USER_NOTIF,
                code => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn only_supervised_numbers_stop() {
        let filter = build(&(768..1024), false);
        let stops = |nr, args| judge(&filter, ARCH, nr, args);
        for (nr, index) in BY_NUMBER {
            let with = |fd: u64| {
                let mut args = [0; 6];
                args[index as usize] = fd;
                stops(nr, args)
            };
            assert!(!with(3) && !with(767) && !with(1024) && !with(0xffff_ffff) && !with(u64::MAX), "{nr}");
            assert!(with(768) && with(1023), "{nr}");
        }
        assert!(stops(libc::SYS_setsockopt, [3, 270, 6, 0, 0, 0]) && stops(libc::SYS_setsockopt, [3, 270, 7, 0, 0, 0]));
        assert!(!stops(libc::SYS_setsockopt, [3, 270, 1, 0, 0, 0]) && !stops(libc::SYS_setsockopt, [3, 1, 6, 0, 0, 0]));
        assert!(stops(libc::SYS_setsockopt, [800, 1, 16, 0, 0, 0]));
        assert!(stops(libc::SYS_socket, [16, 3, 0, 0, 0, 0]) && !stops(libc::SYS_socket, [2, 1, 0, 0, 0, 0]));
        assert!(stops(libc::SYS_select, [769, 0, 0, 0, 0, 0]) && !stops(libc::SYS_select, [768, 0, 0, 0, 0, 0]));
        assert!(stops(libc::SYS_poll, [0; 6]) && !stops(libc::SYS_openat, [900; 6]));
        assert!(!stops(libc::SYS_close, [800; 6]) && !stops(libc::SYS_bind, [800; 6]));
        assert!(!judge(&filter, 0x4000_0003, libc::SYS_poll, [0; 6]), "another architecture");
    }

    #[test]
    fn waits_in_the_kernel_and_changes_of_rights_are_about_no_file() {
        for nr in [
            libc::SYS_poll,
            libc::SYS_select,
            libc::SYS_setsockopt,
            libc::SYS_read,
            libc::SYS_mmap,
            libc::SYS_epoll_ctl,
        ] {
            assert!(is_about_a_file(nr as i32), "{nr}");
        }
        for nr in [libc::SYS_epoll_wait, SYS_EPOLL_PWAIT2, libc::SYS_socket, libc::SYS_epoll_create1, libc::SYS_clone] {
            assert!(!is_about_a_file(nr as i32), "{nr}");
        }
        assert!(RIGHTS.iter().all(|nr| !is_about_a_file(*nr as i32)));
    }

    #[test]
    fn changes_of_rights_stop_where_there_are_any() {
        let (with, without) = (build(&(768..1024), true), build(&(768..1024), false));
        for nr in RIGHTS {
            assert!(judge(&with, ARCH, nr, [0; 6]) && !judge(&without, ARCH, nr, [0; 6]), "{nr}");
        }
        let clone = |filter, flags: i32| judge(filter, ARCH, libc::SYS_clone, [flags as u64, 0, 0, 0, 0, 0]);
        assert!(clone(&with, libc::CLONE_NEWUSER | libc::SIGCHLD) && !clone(&with, libc::SIGCHLD));
        assert!(!clone(&without, libc::CLONE_NEWUSER));
    }
}
