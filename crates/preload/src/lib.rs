//! The `LD_PRELOAD` front end of nlmmap.
//!
//! # Contract
//! A netlink socket becomes ours at a successful `setsockopt(SOL_NETLINK, NETLINK_{RX,TX}_RING)` and not before. Its file
//! descriptor stays the real netlink socket. Every call on any other descriptor is handed on after one table look-up.
//!
//! # Shape
//! No libstd, no allocator, no thread-local storage, no libc but for `errno` and what is handed on. Two call families, never
//! mixed: [`next`] (the application's own call, given to the next object in the chain) and `nlmmap_ring::sys` (our own work,
//! a raw system call).
//!
//! | module | promise |
//! | --- | --- |
//! | [`symbols`] | the one table of interposed names |
//! | [`elf`], [`raw`] | the next definition of a name, and the system call that stands in for it |
//! | [`next`], [`entry`] | made from the table: hand-on, and (above all others) exports |
//! | [`log`] | one line to descriptor 2, when asked for |
//! | [`atomic`] | what is tried in models too |
//! | [`cancel`] | sleeps that leave nothing behind when they are left |
//! | [`found`] | what the constructor has found in the process and its environment |
//! | [`mark`] | that a fork child takes its tables over once |
//! | [`process`] | fork, vfork, which process this is |
//! | [`users`] | who is at work with an endpoint, or has it alone |
//! | [`duty`] | how client threads and the backing thread pass its work to each other |
//! | [`local`] | one endpoint in this process: data |
//! | [`table`] | descriptor to endpoint, own numbers: data |
//! | [`rights`] | what this process may |
//! | [`trouble`] | what the log says of messages that are lost or held |
//! | [`shown`] | what others may look at: a file for each endpoint |
//! | [`watch`] | the backing thread's epoll instance |
//! | [`fdtable`] | the way in, and an endpoint's life |
//! | [`device`] | sockets that are endpoints of a device node |
//! | [`guard`] | the backing thread: frames move while the client makes no calls |
//! | [`fork`] | a fork child takes its copy over |
//! | [`init`] | constructor: resolve, read the environment |
//! | [`route`] | what each hook does with a descriptor of ours |
//!
//! A module uses those above it in this table, never one below.
#![cfg_attr(not(any(test, fuzzing)), no_std)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the preload library knows x86-64 Linux only so far");

pub mod atomic;
pub mod cancel;
pub mod device;
pub mod duty;
pub mod elf;
pub mod entry;
pub mod fdtable;
pub mod fork;
pub mod found;
pub mod guard;
pub mod init;
pub mod local;
pub mod log;
pub mod mark;
pub mod next;
pub mod process;
pub mod raw;
pub mod rights;
pub mod route;
pub mod shown;
pub mod symbols;
pub mod table;
pub mod trouble;
pub mod users;
pub mod watch;

/// Read by `nlmmap run` and `nlmmap doctor` to know the library in a process: the version of this hand-shake.
#[allow(non_upper_case_globals, reason = "an exported C name")]
#[cfg_attr(not(any(test, fuzzing)), unsafe(no_mangle))]
pub static nlmmap_preload_abi: u32 = 1;

/// Nothing here panics on purpose; if it does, ending the program is the only thing that harms nobody else.
#[cfg(not(any(test, fuzzing)))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    log::panic(info);
    loop {
        // SAFETY: takes a number.
        let _ = unsafe { nlmmap_ring::sys::call(syscalls::Sysno::exit_group, [134, 0, 0, 0, 0, 0]) };
    }
}
