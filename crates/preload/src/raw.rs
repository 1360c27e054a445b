//! The system calls that stand in for functions that the rest of the chain does not have (or not yet): arguments as the C
//! library would give them to the kernel.

use crate::symbols::TimeSpec;
use nlmmap_ring::errno::Result;
use nlmmap_ring::sys;
use syscalls::Sysno;

/// Bytes of the kernel's set of signals.
const SET: usize = 8;

/// How a function's arguments are made the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// The same words.
    Same,
    /// `sigaction`: structures differ, and a handler needs somewhere to return to.
    Action,
    /// `signal`: is `sigaction`.
    Signal,
    /// The time is copied, the size of the set added.
    Ppoll,
    /// The same, checked.
    PpollChk,
    /// The set and its size behind one address.
    Pselect,
    /// The size of the set added.
    EpollPwait,
    /// Checked.
    PollChk,
    /// Checked.
    ReadChk,
    /// Checked, without an address.
    RecvChk,
    /// Checked, with one.
    RecvfromChk,
    /// The version of the structure left out.
    Fxstat,
    /// Without an address.
    Four,
    /// A range without end.
    Closefrom,
    /// `F_GETOWN` by a form that can tell errors.
    Fcntl,
}

/// The shape of a function, decided when the library is built: strings are compared by a function of the C library, and before
/// this library has been relocated there is none.
pub const fn shape(name: &str) -> Shape {
    match name.as_bytes() {
        b"sigaction" => Shape::Action,
        b"signal" => Shape::Signal,
        b"ppoll" => Shape::Ppoll,
        b"__ppoll_chk" => Shape::PpollChk,
        b"pselect" => Shape::Pselect,
        b"epoll_pwait" | b"epoll_pwait2" => Shape::EpollPwait,
        b"__poll_chk" => Shape::PollChk,
        b"__read_chk" => Shape::ReadChk,
        b"__recv_chk" => Shape::RecvChk,
        b"__recvfrom_chk" => Shape::RecvfromChk,
        b"__fxstat" | b"__fxstat64" => Shape::Fxstat,
        b"recv" | b"send" => Shape::Four,
        b"closefrom" => Shape::Closefrom,
        b"fcntl" | b"fcntl64" => Shape::Fcntl,
        _ => Shape::Same,
    }
}

/// Makes the call that stands in for a function.
///
/// # Safety
/// The duties of the C function.
#[cold]
pub unsafe fn call<const N: usize>(shape: Shape, nr: Sysno, args: [usize; N]) -> Result<usize> {
    let mut words = [0; 6];
    for (to, from) in words.iter_mut().zip(args) {
        *to = from;
    }
    let [a, b, c, d, e, f] = words;
    // The seventh argument of __recvfrom_chk.
    let g = args.get(6).copied().unwrap_or(0);
    // SAFETY: the caller's duty, here and below.
    let make = |words| unsafe { sys::call(nr, words) };
    match shape {
        Shape::Action => {
            // SAFETY: as above.
            unsafe { signals::action(a, b as *const signals::Action, c as *mut signals::Action) }.map(|()| 0)
        }
        // SAFETY: as above.
        Shape::Signal => unsafe { signals::handler(a, b) },
        // The kernel counts the time down; the C function's is the caller's to keep.
        Shape::Ppoll | Shape::PpollChk => {
            checked(shape == Shape::Ppoll || b <= e / 8);
            // SAFETY: null or readable.
            let mut time = unsafe { (c as *const TimeSpec).as_ref() }.copied();
            make([a, b, time.as_mut().map_or(0, |t| &raw mut *t as usize), d, SET, 0])
        }
        Shape::Pselect => {
            // SAFETY: null or readable.
            let mut time = unsafe { (e as *const TimeSpec).as_ref() }.copied();
            // The mask comes with its size, behind one address.
            let mask = [f, SET];
            make([a, b, c, d, time.as_mut().map_or(0, |t| &raw mut *t as usize), &raw const mask as usize])
        }
        Shape::EpollPwait => make([a, b, c, d, e, SET]),
        Shape::PollChk => {
            checked(b <= d / 8);
            make([a, b, c, 0, 0, 0])
        }
        Shape::ReadChk => {
            checked(c <= d);
            make([a, b, c, 0, 0, 0])
        }
        Shape::RecvChk => {
            checked(c <= d);
            make([a, b, c, e, 0, 0])
        }
        Shape::RecvfromChk => {
            checked(c <= d);
            make([a, b, c, e, f, g])
        }
        Shape::Fxstat => make([b, c, 0, 0, 0, 0]),
        Shape::Four => make([a, b, c, d, 0, 0]),
        Shape::Closefrom => make([if (a as i32) < 0 { 0 } else { a }, u32::MAX as usize, 0, 0, 0, 0]),
        Shape::Fcntl => owner(a, b, words, make),
        Shape::Same => make(words),
    }
}

/// `F_GETOWN` of a process group is a negative number, which the kernel's answer cannot tell from an error.
fn owner(fd: usize, cmd: usize, words: [usize; 6], make: impl Fn([usize; 6]) -> Result<usize>) -> Result<usize> {
    const F_GETOWN: usize = 9;
    const F_GETOWN_EX: usize = 16;
    const F_OWNER_PGRP: i32 = 2;
    if cmd != F_GETOWN {
        return make(words);
    }
    let mut who = [0i32; 2];
    make([fd, F_GETOWN_EX, &raw mut who as usize, 0, 0, 0])?;
    let [kind, id] = who;
    Ok(if kind == F_OWNER_PGRP { id.wrapping_neg() } else { id } as isize as usize)
}

/// The promise of a checked function: a buffer that is too small ends the program, as `__chk_fail` would.
fn checked(holds: bool) {
    const SIGABRT: usize = 6;
    if holds {
        return;
    }
    // SAFETY: numbers only.
    let _ = unsafe { sys::call(Sysno::kill, [sys::getpid() as usize, SIGABRT, 0, 0, 0, 0]) };
    // SAFETY: as above. The program may have caught the signal.
    let _ = unsafe { sys::call(Sysno::exit_group, [134, 0, 0, 0, 0, 0]) };
}

/// `sigaction` and `signal` without a C library.
mod signals {
    use super::{Result, SET, Sysno, sys};
    use nlmmap_ring::errno::Errno;

    /// `struct sigaction` of glibc and musl.
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub struct Action {
        /// The handler, `SIG_DFL` (0) or `SIG_IGN` (1).
        pub handler: usize,
        /// Blocked while it runs: the kernel has 64, the C libraries keep room for 1024.
        pub mask: [u64; 16],
        /// `SA_*`
        pub flags: i32,
        /// Not the caller's to choose.
        pub restorer: usize,
    }

    /// The kernel's.
    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    struct Kernel {
        handler: usize,
        flags: usize,
        restorer: usize,
        mask: u64,
    }

    const SA_RESTORER: usize = 0x0400_0000;
    const SA_RESTART: usize = 0x1000_0000;

    /// Where a handler returns to: the kernel puts no address of its own there on this machine. By these very bytes (`mov rax,
    /// 15; syscall`) debuggers and unwinders know a handler's frame.
    #[unsafe(naked)]
    extern "C" fn restore() -> ! {
        core::arch::naked_asm!(".byte 0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05", "ud2")
    }

    fn call(number: usize, new: Option<Kernel>) -> Result<Kernel> {
        // The C libraries keep these for themselves (musl 34 as well).
        if number == 32 || number == 33 {
            return Err(Errno::INVAL);
        }
        let mut old = Kernel::default();
        let new = new.as_ref().map_or(0, |n| &raw const *n as usize);
        // SAFETY: both structures are locals of the kernel's layout.
        unsafe { sys::call(Sysno::rt_sigaction, [number, new, &raw mut old as usize, SET, 0, 0]) }?;
        Ok(old)
    }

    /// # Safety
    /// As `sigaction`.
    pub unsafe fn action(number: usize, new: *const Action, old: *mut Action) -> Result<()> {
        // SAFETY: null or readable.
        let new = unsafe { new.as_ref() }.map(|a| Kernel {
            handler: a.handler,
            flags: a.flags as u32 as usize | SA_RESTORER,
            restorer: restore as *const () as usize,
            mask: a.mask[0],
        });
        let was = call(number, new)?;
        if !old.is_null() {
            // SAFETY: writable, the caller's duty. Word by word: filling memory is a function of the C library.
            unsafe {
                (&raw mut (*old).handler).write_volatile(was.handler);
                (&raw mut (*old).flags).write_volatile((was.flags & !SA_RESTORER) as i32);
                (&raw mut (*old).restorer).write_volatile(was.restorer);
                let mask = (&raw mut (*old).mask).cast::<u64>();
                for i in 0..16 {
                    mask.add(i).write_volatile(if i == 0 { was.mask } else { 0 });
                }
            }
        }
        Ok(())
    }

    /// `signal`, as both C libraries have it: calls are restarted, the signal is blocked in its handler.
    ///
    /// # Safety
    /// As `signal`.
    pub unsafe fn handler(number: usize, handler: usize) -> Result<usize> {
        const SIG_ERR: usize = usize::MAX;
        let bit = match number {
            1..=64 => 1 << (number - 1),
            _ => return Err(Errno::INVAL),
        };
        if handler == SIG_ERR {
            return Err(Errno::INVAL);
        }
        let new =
            Kernel { handler, flags: SA_RESTORER | SA_RESTART, restorer: restore as *const () as usize, mask: bit };
        call(number, Some(new)).map(|old| old.handler)
    }
}

#[cfg(test)]
mod tests;
