//! What this process may, as far as 4.5 would have asked.

use nlmmap_ring::sys;
use syscalls::Sysno;

/// Whether the kernel of 4.5 would have let this process set rings.
pub fn may_set_rings() -> bool {
    let mut header = [0x2008_0522u32, 0];
    let mut sets = [0u32; 6];
    // SAFETY: capget version 3 reads a header of 8 bytes and writes two sets of 12 bytes.
    let got =
        unsafe { sys::call(Sysno::capget, [header.as_mut_ptr() as usize, sets.as_mut_ptr() as usize, 0, 0, 0, 0]) };
    got.is_ok() && sets[0] & 1 << 12 != 0 && in_initial_user_namespace()
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
