//! The system calls a worker may make: those of the engine and of memory. No file is opened, no process looked at.

use std::io;

const LD_WORD: u16 = 0x20;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const REFUSE: u32 = 0x0005_0000 | libc::EPERM as u32;
/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
/// The low half of the first argument.
const FIRST: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

/// `AUDIT_ARCH_*` of this machine, where it is known.
const MACHINE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else if cfg!(target_arch = "riscv64") {
    Some(0xc000_00f3)
} else if cfg!(target_arch = "s390x") {
    Some(0x8000_0016)
} else {
    None
};

const ALLOWED: &[libc::c_long] = &[
    // Messages.
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendto,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fstat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_sysinfo,
    // Time, and the worker itself.
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_getpriority,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn step(code: u16, yes: u8, no: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: yes, jf: no, k }
}

fn program(machine: u32) -> Vec<libc::sock_filter> {
    let mut program = vec![
        step(LD_WORD, 0, 0, ARCH),
        step(JEQ, 1, 0, machine),
        // The numbers of another machine's calls mean other calls.
        step(RET, 0, 0, KILL),
        step(LD_WORD, 0, 0, NR),
    ];
    for &number in ALLOWED {
        program.push(step(JEQ, 0, 1, number as u32));
        program.push(step(RET, 0, 0, ALLOW));
    }
    // Those whose first argument has to be this.
    for (number, first) in [(libc::SYS_socket, libc::AF_NETLINK), (libc::SYS_sched_setattr, 0)] {
        program.extend([
            step(JEQ, 0, 4, number as u32),
            step(LD_WORD, 0, 0, FIRST),
            step(JEQ, 0, 1, first as u32),
            step(RET, 0, 0, ALLOW),
            step(RET, 0, 0, REFUSE),
        ]);
    }
    program.push(step(RET, 0, 0, REFUSE));
    program
}

/// Whether this machine's calls are known, so that workers are confined.
pub const fn is_known() -> bool {
    MACHINE.is_some()
}

/// From now on this thread makes no other calls: they answer `EPERM`. Needs `no_new_privs`.
pub fn confine() -> io::Result<()> {
    let Some(machine) = MACHINE else {
        return Ok(());
    };
    let program = program(machine);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: SECCOMP_SET_MODE_FILTER reads a program of the stated length.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const filter) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
