//! Mapping the rings into a client: its own `mmap`, made with other descriptors.
//!
//! A mapping is made by the process that is to have it, and the number in its call leads to a socket. So the thread, which waits in
//! that call, is traced for some tens of microseconds: the wait is interrupted, the memory is mapped from numbers that are lent for
//! that, and the thread goes on behind its call with the address. The number keeps its socket all the time.
//!
//! A call that no signal ends (`Grip`) no tracer interrupts either: it is answered that it was interrupted, after the thread was told to
//! stop. So that is what it does first, before it looks at any signal.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::notify::{AGAIN, Call, Listener};

type Regs = libc::user_regs_struct;

/// `PTRACE_GETSIGMASK`, `PTRACE_SETSIGMASK`
const GET_MASK: libc::c_uint = 0x420a;
const SET_MASK: libc::c_uint = 0x420b;
const EVENT_STOP: i32 = 128;
const ERESTARTSYS: u64 = 512;
const PLACE: u64 = (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u64;

/// What became of it.
pub enum Mapped {
    /// The thread has gone on: with an address, or with the kernel's error.
    Gone(Result<u64, Errno>),
    /// It waits in its call still, and cannot be traced.
    Refused(Errno),
}

/// Traces a thread for a moment, and lets it go on as if nothing had been.
pub fn try_out(tid: u32) -> Result<(), Errno> {
    Traced::seize(tid)?.stop()
}

/// A traced thread; let go when this is dropped.
struct Traced {
    tid: i32,
    /// It stands still: only then it can be let go.
    stands: bool,
    mask: Option<u64>,
    /// What it goes on with.
    regs: Option<Regs>,
    /// A signal that it was stopped for.
    signal: i32,
}

fn ptrace(request: libc::c_uint, tid: i32, address: usize, data: usize) -> Result<(), Errno> {
    // SAFETY: each caller's request reads or writes only what its data points to.
    Errno::result(unsafe { libc::ptrace(request, tid, address, data) }).map(drop)
}

impl Traced {
    fn seize(tid: u32) -> Result<Traced, Errno> {
        let tid = tid.cast_signed();
        // Without its tracer it would go on with registers that are not its own.
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        ptrace(libc::PTRACE_SEIZE, tid, 0, options as usize)?;
        Ok(Traced { tid, stands: false, mask: None, regs: None, signal: 0 })
    }

    /// Makes it stand still.
    fn stop(&mut self) -> Result<(), Errno> {
        ptrace(libc::PTRACE_INTERRUPT, self.tid, 0, 0)?;
        self.comes_to_stand()
    }

    /// Waits until it stands still, which it was told to.
    fn comes_to_stand(&mut self) -> Result<(), Errno> {
        let (signal, event) = self.stopped()?;
        self.stands = true;
        if event != EVENT_STOP {
            // A signal of its own came first: it goes its way.
            self.signal = signal;
        }
        Ok(())
    }

    /// Waits for its next stop: signal and event.
    fn stopped(&self) -> Result<(i32, i32), Errno> {
        let mut status = 0;
        loop {
            // SAFETY: the status is a local.
            match Errno::result(unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL) }) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
                Ok(_) if libc::WIFSTOPPED(status) => return Ok((libc::WSTOPSIG(status), status >> 16)),
                Ok(_) => return Err(Errno::ESRCH),
            }
        }
    }

    fn registers(&self) -> Result<Regs, Errno> {
        // SAFETY: all zeroes are registers.
        let mut regs: Regs = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, self.tid, 0, (&raw mut regs).addr())?;
        Ok(regs)
    }

    fn set_registers(&self, regs: &Regs) -> Result<(), Errno> {
        ptrace(libc::PTRACE_SETREGS, self.tid, 0, std::ptr::from_ref(regs).addr())
    }

    /// Interrupts the call that it waits in: its registers behind that.
    fn interrupt(&mut self, listener: &Listener, call: &Call) -> Result<Regs, Errno> {
        ptrace(libc::PTRACE_INTERRUPT, self.tid, 0, 0)?;
        // `ENOENT` where it has come out of it by that.
        let _ = listener.reply(call.id, AGAIN);
        self.comes_to_stand()?;
        if self.signal != 0 {
            // The call comes again.
            return Err(Errno::EINTR);
        }
        let regs = self.registers()?;
        let is_interrupted = regs.orig_rax == libc::SYS_mmap as u64 && regs.rax == ERESTARTSYS.wrapping_neg();
        if !is_interrupted {
            return Err(Errno::EINTR);
        }
        self.block_signals()?;
        Ok(regs)
    }

    fn block_signals(&mut self) -> Result<(), Errno> {
        let (mut mask, all) = (0u64, u64::MAX);
        ptrace(GET_MASK, self.tid, size_of::<u64>(), (&raw mut mask).addr())?;
        ptrace(SET_MASK, self.tid, size_of::<u64>(), (&raw const all).addr())?;
        self.mask = Some(mask);
        Ok(())
    }

    /// Closes what was lent for a call that a signal has ended meanwhile, wherever the thread is by now. `ip`: behind the
    /// instruction of a call.
    fn take_back(&mut self, ip: u64, numbers: &[i32]) -> Result<(), Errno> {
        if numbers.is_empty() {
            return Ok(());
        }
        if !self.stands {
            self.stop()?;
        }
        // Signals go their way first: the thread stands before the first instruction of a handler, or goes on with its call.
        while self.signal != 0 {
            ptrace(libc::PTRACE_INTERRUPT, self.tid, 0, 0)?;
            ptrace(libc::PTRACE_CONT, self.tid, 0, std::mem::take(&mut self.signal) as usize)?;
            let (signal, event) = self.stopped()?;
            if event != EVENT_STOP {
                self.signal = signal;
            }
        }
        let regs = self.registers()?;
        self.block_signals()?;
        for number in numbers {
            let args = [number.cast_unsigned().into(), 0, 0, 0, 0, 0];
            let _ = self.call(&Regs { rip: ip, ..regs }, libc::SYS_close, args);
        }
        // Only from a stop of the kind that it was in does the kernel make the interrupted call again, if it is to.
        ptrace(libc::PTRACE_INTERRUPT, self.tid, 0, 0)?;
        ptrace(libc::PTRACE_CONT, self.tid, 0, 0)?;
        while self.stopped()?.1 != EVENT_STOP {
            ptrace(libc::PTRACE_CONT, self.tid, 0, 0)?;
        }
        self.regs = Some(regs);
        Ok(())
    }

    /// Lets it make a call, from where it has made its own.
    fn call(&self, regs: &Regs, nr: libc::c_long, args: [u64; 6]) -> Result<u64, Errno> {
        let mut regs = *regs;
        // Back to the instruction, of two bytes; and no call is to be made again.
        regs.rip = regs.rip.wrapping_sub(2);
        regs.orig_rax = u64::MAX;
        regs.rax = nr as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        self.set_registers(&regs)?;
        // To its entry, and to its end.
        for _ in 0..2 {
            ptrace(libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
            while self.stopped()?.0 != libc::SIGTRAP | 0x80 {
                ptrace(libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
            }
        }
        let result = self.registers()?.rax.cast_signed();
        if (-4095..0).contains(&result) { Err(Errno::from_raw(-result as i32)) } else { Ok(result.cast_unsigned()) }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if !self.stands && self.stop().is_err() {
            // It has ended, and stays a zombie until its tracer has seen that.
            let _ = self.stopped();
            return;
        }
        if let Some(regs) = &self.regs {
            let _ = self.set_registers(regs);
        }
        if let Some(mask) = self.mask {
            let _ = ptrace(SET_MASK, self.tid, size_of::<u64>(), (&raw const mask).addr());
        }
        if ptrace(libc::PTRACE_DETACH, self.tid, 0, self.signal as usize).is_err() {
            let _ = self.stopped();
        }
    }
}

/// Answers a stopped `mmap` with a mapping of these files, one behind the other. `lowest`: supervised numbers begin there.
pub fn map<F: AsFd>(listener: &Listener, call: &Call, files: &[(F, usize)], lowest: i32) -> Mapped {
    let mut traced = match Traced::seize(call.tid) {
        Ok(traced) => traced,
        Err(error) => return Mapped::Refused(error),
    };
    let (mut numbers, mut failed) = (Vec::new(), None);
    for (file, _) in files {
        match listener.lend(call.id, file.as_fd()) {
            Ok(number) => numbers.push(number),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if numbers.iter().any(|number| *number >= lowest) {
        failed = Some(Errno::EMFILE);
    }
    // `ENOENT`: a signal has ended the call already.
    let regs = if failed == Some(Errno::ENOENT) { Err(Errno::EINTR) } else { traced.interrupt(listener, call) };
    let regs = match regs {
        Ok(regs) => regs,
        Err(error) => return Mapped::Gone(traced.take_back(call.ip, &numbers).and(Err(error))),
    };
    let mapped = match failed {
        None => map_all(&traced, &regs, &call.args, files, &numbers),
        Some(error) => Err(error),
    };
    // Each call takes two turns of the thread, for which everybody else waits.
    if let [first, second] = numbers[..]
        && second == first + 1
    {
        let _ = traced.call(&regs, libc::SYS_close_range, [first as u64, second as u64, 0, 0, 0, 0]);
    } else {
        for number in &numbers {
            let _ = traced.call(&regs, libc::SYS_close, [number.cast_unsigned().into(), 0, 0, 0, 0, 0]);
        }
    }
    let rax = match mapped {
        Ok(at) => at,
        Err(error) => i64::from(-(error as i32)).cast_unsigned(),
    };
    traced.regs = Some(Regs { rax, orig_rax: u64::MAX, ..regs });
    Mapped::Gone(mapped)
}

fn map_all<F>(
    traced: &Traced,
    regs: &Regs,
    args: &[u64; 6],
    files: &[(F, usize)],
    numbers: &[i32],
) -> Result<u64, Errno> {
    let [at, whole, prot, flags, ..] = *args;
    let shared = flags & !(libc::MAP_TYPE as u64) | libc::MAP_SHARED as u64;
    let (Some(first), Some((_, first_len))) = (numbers.first(), files.first()) else { return Err(Errno::EINVAL) };
    // A place for all, of which the first file has the beginning.
    let args = [at, whole, prot, shared, first.cast_unsigned().into(), 0];
    let at = traced.call(regs, libc::SYS_mmap, args)?;
    let mut to = at + *first_len as u64;
    for (number, (_, len)) in numbers.iter().zip(files).skip(1) {
        let fixed = shared & !PLACE | libc::MAP_FIXED as u64;
        let args = [to, *len as u64, prot, fixed, number.cast_unsigned().into(), 0];
        if let Err(error) = traced.call(regs, libc::SYS_mmap, args) {
            let _ = traced.call(regs, libc::SYS_munmap, [at, whole, 0, 0, 0, 0]);
            return Err(error);
        }
        to += *len as u64;
    }
    Ok(at)
}
