//! The seccomp filter: which calls stop for the supervisor, judged by number and argument alone (docs/supervisor.md).

use libc::{c_long, sock_filter};

/// `AUDIT_ARCH_X86_64`
const ARCH: u32 = 0xc000_003e;
const RX_RING: u32 = 6;
const TX_RING: u32 = 7;

const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ABOVE: u16 = 0x25;
const RETURN: u16 = 0x06;

/// Calls that name a descriptor, and in which argument.
const BY_NUMBER: [(c_long, u32); 24] = [
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
    (libc::SYS_bind, 0),
    (libc::SYS_connect, 0),
    (libc::SYS_getsockname, 0),
    (libc::SYS_getpeername, 0),
    (libc::SYS_getsockopt, 0),
    (libc::SYS_close, 0),
    (libc::SYS_ioctl, 0),
    (libc::SYS_dup, 0),
    (libc::SYS_dup2, 0),
    (libc::SYS_dup3, 0),
    (libc::SYS_fcntl, 0),
    (libc::SYS_epoll_ctl, 2),
    (libc::SYS_mmap, 4),
    (libc::SYS_setsockopt, 0),
];

/// What a group of calls is judged by.
enum Rule {
    /// A descriptor among the supervised numbers, in this argument.
    Number(u32),
    /// A ring option, or a supervised number.
    Option,
    /// `socket(AF_NETLINK)`
    Netlink,
    /// A `select` that reaches up to the supervised numbers.
    Select,
    Always,
}

const fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The low half of an argument; all those that are looked at are ints.
const fn argument(index: u32) -> sock_filter {
    op(LOAD, 16 + 8 * index, 0, 0)
}

/// The filter for descriptors from `base` on.
pub fn build(base: u32) -> Vec<sock_filter> {
    let allow = op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
    let notify = op(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0);
    // Another architecture's numbers, and x32's, mean other calls.
    let mut all = vec![op(LOAD, 4, 0, 0), op(EQUAL, ARCH, 1, 0), allow, op(LOAD, 0, 0, 0)];
    let mut rules: Vec<(c_long, Rule)> = vec![
        (libc::SYS_poll, Rule::Always),
        (libc::SYS_ppoll, Rule::Always),
        (libc::SYS_socket, Rule::Netlink),
        (libc::SYS_select, Rule::Select),
        (libc::SYS_pselect6, Rule::Select),
    ];
    rules.extend(BY_NUMBER.iter().map(|&(nr, index)| match nr {
        libc::SYS_setsockopt => (nr, Rule::Option),
        _ => (nr, Rule::Number(index)),
    }));
    for (nr, rule) in rules {
        // A number is at least `base` and no negative int.
        let number = |index| vec![argument(index), op(AT_LEAST, base, 0, 2), op(AT_LEAST, 1 << 31, 1, 0), notify, allow];
        let body = match rule {
            Rule::Always => vec![notify],
            Rule::Number(index) => number(index),
            Rule::Netlink => vec![argument(0), op(EQUAL, libc::AF_NETLINK as u32, 0, 1), notify, allow],
            Rule::Select => vec![argument(0), op(ABOVE, base, 0, 2), op(AT_LEAST, 1 << 31, 1, 0), notify, allow],
            Rule::Option => {
                let mut body = vec![
                    argument(1),
                    op(EQUAL, nlmmap_ring::abi::SOL_NETLINK as u32, 0, 4),
                    argument(2),
                    op(EQUAL, RX_RING, 1, 0),
                    op(EQUAL, TX_RING, 0, 1),
                    notify,
                ];
                body.extend(number(0));
                body
            }
        };
        all.push(op(EQUAL, nr as u32, 0, body.len() as u8));
        all.extend(body);
    }
    all.push(allow);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel does.
    fn judge(filter: &[sock_filter], nr: c_long, args: [u64; 6]) -> bool {
        let mut data = Vec::new();
        data.extend((nr as u32).to_ne_bytes());
        data.extend(ARCH.to_ne_bytes());
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
                RETURN => return step.k == libc::SECCOMP_RET_USER_NOTIF,
                code => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn only_supervised_numbers_stop() {
        let filter = build(768);
        let stops = |nr, args| judge(&filter, nr, args);
        for (nr, index) in BY_NUMBER {
            let with = |fd: u64| {
                let mut args = [0; 6];
                args[index as usize] = fd;
                stops(nr, args)
            };
            assert!(!with(3) && !with(767) && !with(0xffff_ffff) && !with(u64::MAX), "{nr}");
            assert!(with(768) && with(1023), "{nr}");
        }
        assert!(stops(libc::SYS_setsockopt, [3, 270, 6, 0, 0, 0]) && stops(libc::SYS_setsockopt, [3, 270, 7, 0, 0, 0]));
        assert!(!stops(libc::SYS_setsockopt, [3, 270, 1, 0, 0, 0]) && !stops(libc::SYS_setsockopt, [3, 1, 6, 0, 0, 0]));
        assert!(stops(libc::SYS_socket, [16, 3, 0, 0, 0, 0]) && !stops(libc::SYS_socket, [2, 1, 0, 0, 0, 0]));
        assert!(stops(libc::SYS_select, [769, 0, 0, 0, 0, 0]) && !stops(libc::SYS_select, [768, 0, 0, 0, 0, 0]));
        assert!(stops(libc::SYS_poll, [0; 6]) && !stops(libc::SYS_openat, [900; 6]));
    }
}
