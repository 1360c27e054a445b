use super::*;
use crate::abi::nl_mmap_req;
use std::vec;
use std::vec::Vec;
use syscalls::Sysno;

fn geometry(blocks: u32) -> Geometry {
    let req =
        nl_mmap_req { nm_block_size: 1 << 20, nm_block_nr: blocks, nm_frame_size: 4096, nm_frame_nr: blocks * 256 };
    Geometry::check(&req, sys::PAGE as u32, u64::MAX).unwrap()
}

/// Which pages of a mapping are there (`mincore`).
fn present(base: *mut u8, len: usize) -> Vec<bool> {
    let mut pages = vec![0u8; len / sys::PAGE];
    // SAFETY: a byte for each page of a live mapping.
    unsafe { sys::call(Sysno::mincore, [base as usize, len, pages.as_mut_ptr() as usize, 0, 0, 0]) }.unwrap();
    pages.iter().map(|p| p & 1 != 0).collect()
}

/// Page faults of this thread so far (`getrusage`, RUSAGE_THREAD).
fn faults() -> i64 {
    let mut usage = [0i64; 18];
    // SAFETY: the kernel writes one rusage of 144 bytes.
    unsafe { sys::call(Sysno::getrusage, [1, usage.as_mut_ptr() as usize, 0, 0, 0, 0]) }.unwrap();
    usage[8]
}

/// Whether this kernel knows the advice.
fn can_prepare() -> bool {
    let page = sys::map_shared(sys::PAGE).unwrap();
    // SAFETY: a page of this test's own.
    unsafe {
        let can = sys::advise(page, sys::PAGE, g::MADV_POPULATE_WRITE).is_ok();
        sys::unmap(page, sys::PAGE);
        can
    }
}

/// One test, as the bound for the process is one.
#[test]
fn the_first_pages_are_there_and_no_more_than_that() {
    if !can_prepare() {
        std::eprintln!("not run here: MADV_POPULATE_WRITE (Linux 5.14)");
        return;
    }
    let endpoint = Endpoint::empty();
    endpoint.open(0, false).unwrap();
    endpoint.add_ring(Which::Rx, geometry(6)).unwrap();
    endpoint.add_ring(Which::Tx, geometry(1)).unwrap();
    let (rx, tx) = (endpoint.rx().unwrap(), endpoint.tx().unwrap());
    let there = present(rx.base(), rx.geometry().len());
    let (first, rest) = there.split_at(MOST_PREPARED / sys::PAGE);
    assert!(first.iter().all(|p| *p), "of the receive ring's first 4 MiB all is there");
    assert!(rest.iter().all(|p| !*p), "of the rest nothing is");
    assert!(present(tx.base(), 1 << 20).iter().all(|p| *p));
    assert_eq!(PREPARED.load(Ordering::Relaxed), 5 << 20);

    for (prot, write) in [(g::PROT_READ | g::PROT_WRITE, true), (g::PROT_READ, false)] {
        // SAFETY: an address of the kernel's choice.
        let at = unsafe { endpoint.map(None, endpoint.map_len(), prot) }.unwrap();
        let before = faults();
        for page in 0..MOST_PREPARED / sys::PAGE {
            let byte = at.wrapping_add(page * sys::PAGE);
            // SAFETY: inside the client's mapping, which no reference covers.
            unsafe {
                let was = byte.read_volatile();
                if write {
                    byte.write_volatile(was);
                }
            }
        }
        let cost = faults() - before;
        assert!(cost < 32, "{cost} page faults in the client's mapping");
        // SAFETY: this test's own mapping.
        unsafe { sys::unmap(at, endpoint.map_len()) };
    }
    // SAFETY: an address of the kernel's choice.
    let none = unsafe { endpoint.map(None, endpoint.map_len(), g::PROT_NONE) }.unwrap();
    // SAFETY: this test's own mapping, and its own endpoint.
    unsafe {
        sys::unmap(none, endpoint.map_len());
        endpoint.drop_ring(Which::Tx);
        assert_eq!(PREPARED.load(Ordering::Relaxed), 4 << 20);
        endpoint.reset();
    }
    assert_eq!(PREPARED.load(Ordering::Relaxed), 0);

    // Many rings: those behind the bound are there when they are touched, as any memory.
    let most = (sys::total_memory() as usize / 64).min(MOST_PREPARED_IN_ALL);
    let all: Vec<Endpoint> = (0..most / MOST_PREPARED + 2).map(|_| Endpoint::empty()).collect();
    for endpoint in &all {
        endpoint.open(0, false).unwrap();
        endpoint.add_ring(Which::Rx, geometry(4)).unwrap();
    }
    assert_eq!(PREPARED.load(Ordering::Relaxed), most & !(sys::PAGE - 1));
    let last = all.last().and_then(Endpoint::rx).unwrap();
    assert!(present(last.base(), last.geometry().len()).iter().all(|p| !*p));
    // SAFETY: nobody else uses them.
    all.iter().for_each(|endpoint| unsafe { endpoint.reset() });
    assert_eq!(PREPARED.load(Ordering::Relaxed), 0);
}
