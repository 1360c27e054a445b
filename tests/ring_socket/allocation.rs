//! No allocation a message: an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use nlmmap::{Destination, Family, RingSocket};

use crate::wire::*;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's duty.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's duty.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Allocations that `f` makes on this thread.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    f();
    COUNT.get() - before
}

#[test]
fn messages_cost_no_allocation() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1, "the counter counts");
    let (a, b, portid) = pair(|b| b);
    let to = Destination { portid, groups: 0 };
    let (small, large) = (pattern(1, 100), pattern(2, 30_000));
    let count = allocations(|| {
        for number in 0..1000 {
            a.send_to(if number % 10 == 0 { &large } else { &small }, to).unwrap();
            let message = b.recv().unwrap();
            assert!(message.credentials().is_some() && !message.is_from_kernel());
        }
        for _ in 0..20 {
            a.send_to(&small, to).unwrap();
        }
        for message in b.recv_batch().unwrap() {
            assert_eq!(message.unwrap().len(), 100);
        }
        while b.try_recv().unwrap().is_some() {}
    });
    assert_eq!(count, 0);
}

#[test]
fn requests_and_dumps_cost_no_allocation() {
    let socket = RingSocket::builder(Family::ROUTE).build().unwrap();
    let request = message(18, NLM_F_REQUEST | NLM_F_DUMP, 7, &[&[0; 16]]);
    let count = allocations(|| {
        for _ in 0..50 {
            socket.send(&request).unwrap();
            while !socket.recv().unwrap().parts().any(|part| kind(part) == NLMSG_DONE) {}
        }
    });
    assert_eq!(count, 0);
}
