//! Seccomp filters from lists: calls that are allowed, some with a look at one argument. Everything else answers `EPERM`.

use std::io;

const LD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const REFUSE: u32 = 0x0005_0000 | libc::EPERM as u32;
/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Where the low half of an argument begins.
const LOW: u32 = if cfg!(target_endian = "big") { 4 } else { 0 };

/// `AUDIT_ARCH_*` of this machine, where it is known.
pub const MACHINE: Option<u32> = if cfg!(target_arch = "x86_64") {
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

/// Calls whose argument of this number, with this mask, has to be one of these.
pub struct Look {
    pub calls: &'static [libc::c_long],
    pub argument: u32,
    pub mask: u32,
    pub values: &'static [u32],
}

fn step(code: u16, yes: u8, no: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: yes, jf: no, k }
}

fn program(machine: u32, allowed: &[&[libc::c_long]], looks: &[&[Look]]) -> Vec<libc::sock_filter> {
    let mut program = vec![
        step(LD_WORD, 0, 0, ARCH),
        step(JEQ, 1, 0, machine),
        // The numbers of another machine's calls mean other calls.
        step(RET, 0, 0, KILL),
        step(LD_WORD, 0, 0, NR),
    ];
    for &number in allowed.iter().copied().flatten() {
        program.push(step(JEQ, 0, 1, number as u32));
        program.push(step(RET, 0, 0, ALLOW));
    }
    for look in looks.iter().copied().flatten() {
        for &number in look.calls {
            // Behind the look: each value has two steps, then the refusal.
            program.push(step(JEQ, 0, 3 + 2 * look.values.len() as u8, number as u32));
            program.push(step(LD_WORD, 0, 0, ARGUMENTS + 8 * look.argument + LOW));
            program.push(step(AND, 0, 0, look.mask));
            for &value in look.values {
                program.push(step(JEQ, 0, 1, value));
                program.push(step(RET, 0, 0, ALLOW));
            }
            program.push(step(RET, 0, 0, REFUSE));
        }
    }
    program.push(step(RET, 0, 0, REFUSE));
    program
}

/// Who is confined from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The calling thread, and those it starts.
    Thread,
    /// Every thread of the process.
    Process,
}

/// Makes everything impossible but these calls. Sets `no_new_privs`, too.
pub fn confine(who: Who, allowed: &[&[libc::c_long]], looks: &[&[Look]]) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_ulong = 1;
    const TSYNC: libc::c_ulong = 1;
    // SAFETY: numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let Some(machine) = MACHINE else {
        return Ok(());
    };
    let program = program(machine, allowed, looks);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let flags = if who == Who::Process { TSYNC } else { 0 };
    // SAFETY: SECCOMP_SET_MODE_FILTER reads a program of the stated length.
    match unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const filter) } {
        0 => Ok(()),
        // With TSYNC: a thread that has a filter of its own.
        thread if thread > 0 => Err(io::Error::other(format!("thread {thread} has another filter"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a process that was forked for it, and confined by `begin`, sees of calls: the errno of each, 0 for success.
#[cfg(test)]
pub fn tried<const N: usize>(begin: impl FnOnce() -> io::Result<()>, calls: [fn() -> libc::c_long; N]) -> [i32; N] {
    use std::io::Read;
    use std::os::fd::FromRawFd;
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr()) }, 0);
    // SAFETY: the child makes system calls alone, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut answers = [-1i32; N];
        if begin().is_ok() {
            for (answer, call) in answers.iter_mut().zip(calls) {
                let result = call();
                // SAFETY: the address of this thread's errno.
                *answer = if result < 0 { unsafe { *libc::__errno_location() } } else { 0 };
            }
        }
        // SAFETY: a local, and the end of the process.
        unsafe {
            libc::send(ends[1], answers.as_ptr().cast(), size_of_val(&answers), 0);
            libc::_exit(0);
        }
    }
    // SAFETY: both ends are ours.
    let (mut read, write) = unsafe { (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1])) };
    drop(write);
    let mut bytes = Vec::new();
    read.read_to_end(&mut bytes).unwrap();
    // SAFETY: a child of ours.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    assert_eq!(bytes.len(), 4 * N, "the child was killed");
    std::array::from_fn(|at| i32::from_ne_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap()))
}
