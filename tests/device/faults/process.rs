//! What can be asked of a process or thread that is traced.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

/// After so many times that a process has come to it, a place has shown what it does: one of many that a daemon has, and the one
/// supervisor, before each of whose calls a client waits.
pub const ENOUGH: u32 = 300;
pub const ENOUGH_OF_ONE: u32 = 8;

pub struct Process {
    pub memory: File,
    /// How often it has come to breakpoints of a record.
    pub come: HashMap<u64, u32>,
    /// Bytes that were where breakpoints are.
    pub bytes: HashMap<u64, u8>,
}

pub fn ptrace(request: libc::c_uint, pid: i32, data: usize) -> io::Result<()> {
    // SAFETY: requests that take numbers only, or the address of a structure that lives (`registers`).
    if unsafe { libc::ptrace(request, pid, 0usize, data) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub fn registers(pid: i32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: integers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, pid, (&raw mut registers) as usize)?;
    Ok(registers)
}

pub fn set_registers(pid: i32, registers: &libc::user_regs_struct) {
    let _ = ptrace(libc::PTRACE_SETREGS, pid, std::ptr::from_ref(registers) as usize);
}

/// The system call that a thread is stopped before; those on a listener of seccomp's by what is asked of it.
pub fn name_of(now: &libc::user_regs_struct) -> Option<&'static str> {
    let name = syscalls::Sysno::new(now.orig_rax as usize)?.name();
    Some(match now.rsi as u32 {
        0xc050_2100 if name == "ioctl" => "NOTIF_RECV",
        0xc018_2101 if name == "ioctl" => "NOTIF_SEND",
        0x4008_2102 if name == "ioctl" => "NOTIF_ID_VALID",
        0x4018_2103 if name == "ioctl" => "NOTIF_ADDFD",
        0x4008_2104 if name == "ioctl" => "NOTIF_SET_FLAGS",
        _ => name,
    })
}

/// Kills the process of a thread: whether that is dead then, but for its reaping.
pub fn kill_and_see(tid: i32) -> bool {
    // SAFETY: numbers only.
    if tid <= 0 || unsafe { libc::syscall(libc::SYS_tkill, tid, libc::SIGKILL) } != 0 {
        return false;
    }
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        match field(tid, "State:") {
            Some(state) if !state.starts_with(['Z', 'X']) => thread::sleep(Duration::from_micros(100)),
            _ => return true,
        }
    }
    true
}

/// Whether a thread that is stopped at a system call is before it.
pub fn enters(pid: i32) -> bool {
    const ENTRY: u8 = 1;
    let mut info = [0u8; 128];
    // SAFETY: the kernel writes as much as it is told at most.
    let done = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, info.len(), info.as_mut_ptr()) };
    done > 0 && info[0] == ENTRY
}

/// Whether a thread has stopped by an `int3`, not by a step.
pub fn is_breakpoint(pid: i32) -> bool {
    // SAFETY: integers.
    let mut about: libc::siginfo_t = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETSIGINFO, pid, (&raw mut about) as usize).is_ok() && about.si_code == libc::SI_KERNEL
}

pub fn field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_string()))
}

impl Process {
    pub fn insert(&mut self, base: u64, at: u64) {
        let mut byte = [0];
        if !self.bytes.contains_key(&at)
            && self.memory.read_exact_at(&mut byte, base + at).is_ok()
            && self.memory.write_all_at(&[0xcc], base + at).is_ok()
        {
            self.bytes.insert(at, byte[0]);
        }
    }

    pub fn remove(&mut self, base: u64, at: u64) {
        if let Some(byte) = self.bytes.remove(&at) {
            let _ = self.memory.write_all_at(&[byte], base + at);
        }
    }

    pub fn remove_all(&mut self, base: u64) {
        for at in self.bytes.keys().copied().collect::<Vec<_>>() {
            self.remove(base, at);
        }
    }
}
