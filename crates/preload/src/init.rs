//! The constructor, in order:
//!
//! 1. resolve every `next` name by `dlsym`, here and nowhere else: a failed look-up inside a hook allocates, and an allocator
//!    whose own calls lead back to us would never return
//! 2. find the few C library functions we use ourselves
//! 3. read `NLMMAP_STRICT`, `NLMMAP_LOG`, `NLMMAP_VIEW` and `NLMMAP_DEVICE` from the environment, once
//!
//! A program may ask for rings before that ([`be_ready`]): then the environment is read there, and what else is missing is found
//! at its first use.

use crate::elf::weak;
use crate::found::{CONSTRUCTED, PTHREAD_CREATE, PTHREAD_DETACH, STRICT, TESTCANCEL};
use crate::{fork, guard, log, next, shown};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

type DlSym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

fn symbol(dlsym: usize, handle: usize, name: &CStr) -> usize {
    if dlsym == 0 {
        return 0;
    }
    // SAFETY: the address of dlsym, with its C signature.
    let f = unsafe { core::mem::transmute::<usize, DlSym>(dlsym) };
    // SAFETY: handle is RTLD_NEXT or RTLD_DEFAULT; the name is a C string.
    unsafe { f(handle as *mut c_void, name.as_ptr()) as usize }
}

const RTLD_NEXT: usize = usize::MAX;

extern "C" fn construct(_argc: c_int, _argv: *const *const c_char, env: *const *const c_char) {
    let dlsym = weak!("dlsym");
    next::resolve(|name| symbol(dlsym, RTLD_NEXT, name));
    // RTLD_NEXT and not a direct reference: these must be the C library's own.
    for (slot, name) in [
        (&PTHREAD_CREATE, c"pthread_create"),
        (&PTHREAD_DETACH, c"pthread_detach"),
        (&TESTCANCEL, c"pthread_testcancel"),
        (&crate::cancel::PUSH, c"_pthread_cleanup_push"),
        (&crate::cancel::POP, c"_pthread_cleanup_pop"),
    ] {
        slot.store(symbol(dlsym, RTLD_NEXT, name), Ordering::Relaxed);
    }
    fork::announce();
    crate::process::construct(
        symbol(dlsym, RTLD_NEXT, c"__register_atfork"),
        symbol(dlsym, RTLD_NEXT, c"pthread_atfork"),
    );
    // Only glibc hands constructors the program's arguments and environment; others leave whatever was in the registers.
    let glibc = symbol(dlsym, 0, c"gnu_get_libc_version") != 0;
    let env = if glibc { env } else { environ() };
    read_environment(env);
    if let Some(value) = variable(env, b"NLMMAP_DEVICE=") {
        crate::device::node::configure(value);
    }
    CONSTRUCTED.store(true, Ordering::Release);
    guard::catch_up();
}

/// Whether the environment has been read.
static READ: AtomicBool = AtomicBool::new(false);

/// Makes sure of what serving rings depends on, in a call that may come before the constructor.
pub fn be_ready() {
    if !READ.load(Ordering::Acquire) {
        let env = environ();
        read_environment(if env.is_null() { first_environment() } else { env });
    }
}

fn read_environment(env: *const *const c_char) {
    if let Some(value) = variable(env, b"NLMMAP_STRICT=") {
        STRICT.store(!matches!(value, b"" | b"0"), Ordering::Relaxed);
    }
    if let Some(value) = variable(env, b"NLMMAP_LOG=") {
        log::set_level(value);
        if log::is_heard(log::Level::Warn) {
            crate::trouble::begin();
        }
    }
    shown::configure(variable(env, b"NLMMAP_VIEW="), variable(env, b"XDG_RUNTIME_DIR="));
    READ.store(true, Ordering::Release);
}

/// The C library's `environ`; null before glibc has been initialized.
fn environ() -> *const *const c_char {
    let environ = weak!("environ") as *const *const *const c_char;
    // SAFETY: null, or the C library's variable.
    unsafe { environ.as_ref() }.map_or(core::ptr::null(), |e| *e)
}

/// The environment as the kernel has put it on the stack, behind the arguments: where glibc's loader says that the stack began.
fn first_environment() -> *const *const c_char {
    let end = weak!("__libc_stack_end") as *const *const usize;
    // SAFETY: null, or glibc's variable.
    let start = unsafe { end.as_ref() }.map_or(core::ptr::null(), |e| *e);
    if start.is_null() {
        return core::ptr::null();
    }
    // SAFETY: the count of arguments, the arguments, a null pointer, the environment.
    unsafe {
        let behind = start.add(1).wrapping_add(start.read());
        if behind.read() == 0 { behind.add(1).cast() } else { core::ptr::null() }
    }
}

/// A variable's value.
fn variable(env: *const *const c_char, name: &[u8]) -> Option<&'static [u8]> {
    let mut at = env;
    while !at.is_null() {
        // SAFETY: the environment ends with a null pointer.
        let entry = unsafe { at.read() };
        if entry.is_null() {
            break;
        }
        // SAFETY: each entry is a C string that outlives the constructor (the stack of the program's start).
        let text = unsafe { CStr::from_ptr(entry) }.to_bytes();
        if let Some(value) = text.strip_prefix(name) {
            return Some(value);
        }
        // SAFETY: not yet at the null pointer.
        at = unsafe { at.add(1) };
    }
    None
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static CONSTRUCTOR: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = construct;
