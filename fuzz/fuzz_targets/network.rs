//! Messages reach the kernel: in a network of this process's own, and without the right to change anything there.

pub fn of_its_own() {
    // SAFETY: flags, no pointers; then two structures of the sizes that the version stands for.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNET) != 0 {
            assert_eq!(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET), 0, "no network namespace of its own");
        }
        let (header, none) = ([0x2008_0522u32, 0], [0u32; 6]);
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()), 0, "capabilities");
    }
}
