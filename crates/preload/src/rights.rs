//! What this process may.

use nlmmap_ring::sys;
use syscalls::Sysno;

/// This thread's effective, permitted and inheritable capabilities, the lower half of each and then the upper.
fn capabilities() -> Option<[u32; 6]> {
    let mut header = [0x2008_0522u32, 0];
    let mut sets = [0u32; 6];
    let args = [header.as_mut_ptr() as usize, sets.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: capget version 3 reads a header of 8 bytes and writes two sets of 12 bytes.
    let got = unsafe { sys::call(Sysno::capget, args) };
    got.is_ok().then_some(sets)
}

/// Whether the kernel of 4.5 would have let this process set rings.
pub fn may_set_rings() -> bool {
    capabilities().is_some_and(|sets| sets[0] & 1 << 12 != 0) && in_initial_user_namespace()
}

/// Whether this process may do nothing that other processes of its user may not.
pub fn is_like_others_of(user: u32) -> bool {
    user == 0 || capabilities().is_some_and(|sets| sets[1] | sets[4] == 0)
}

fn in_initial_user_namespace() -> bool {
    let mut text = [0u8; 64];
    let path = c"/proc/self/ns/user";
    let args = [path.as_ptr() as usize, text.as_mut_ptr() as usize, text.len(), 0, 0, 0];
    // SAFETY: a C string and a buffer of the stated length.
    match unsafe { sys::call(Sysno::readlink, args) } {
        // PROC_USER_INIT_INO
        Ok(n) => text.get(..n) == Some(b"user:[4026531837]"),
        // Without /proc nothing says otherwise.
        Err(_) => true,
    }
}
