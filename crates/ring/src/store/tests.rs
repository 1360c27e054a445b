use super::*;
use std::collections::VecDeque;
use std::vec::Vec;

#[repr(align(64))]
struct Space([u8; 4096]);

fn with_store(f: impl FnOnce(Store<'_>)) {
    let control = Control::default();
    let mut space = std::boxed::Box::new(Space([0; 4096]));
    // SAFETY: the box outlives the store and is used by it alone.
    f(unsafe { Store::new(&control, space.0.as_mut_ptr(), 4096) });
}
fn push(s: &Store<'_>, bytes: &[u8]) -> bool {
    let (a, b) = bytes.split_at(bytes.len() / 2);
    // SAFETY: both slices are readable.
    unsafe { s.push(&Meta::default(), [(a.as_ptr(), a.len()), (b.as_ptr(), b.len())]) }
}

#[test]
fn copies_keep_order_around_placed_messages() {
    with_store(|s| {
        for text in [&b"one"[..], b"two", b"three", b"four"] {
            assert!(push(&s, text));
        }
        for copy in [true, false, true] {
            s.first_unplaced().unwrap();
            s.placed(copy);
        }
        assert_eq!(s.first_unplaced().unwrap().1, b"four");
        assert_eq!(s.first_copy().unwrap().1, b"one");
        s.received();
        assert_eq!(s.first_copy().unwrap().1, b"three");
        s.received();
        assert!(s.first_copy().is_none());
        s.placed(true);
        assert_eq!(s.first_copy().unwrap().1, b"four");
        s.received();
        assert_eq!(s.used(), 0);
    });
}

/// Whatever the lengths, past other messages and after being moved behind them.
#[test]
fn ancillary_data_stays_with_its_message() {
    let received: Vec<u8> = (0..VLEN * CONTROL_LEN).map(|n| (n / 8) as u8).collect();
    with_store(|s| {
        // SAFETY: it outlives the closure.
        let s = unsafe { s.beside(received.as_ptr()) };
        for (len, at, extra) in [(0usize, 0u32, 16u32), (1, 3, 24), (7, 15, 64), (8, 7, 256), (100, 2, 0)] {
            let text = std::vec![7u8; len];
            let meta = Meta { at, extra, ..Meta::default() };
            let whole = [(text.as_ptr(), len), (core::ptr::null(), 0)];
            let from = at as usize * CONTROL_LEN;
            let want = &received[from..from + extra as usize];
            // SAFETY: a slice is readable.
            assert!(unsafe { s.push(&meta, whole) && s.push_copy(&meta, whole) });
            s.first_unplaced().unwrap();
            s.placed(true);
            for _ in 0..2 {
                let (meta, bytes, ancillary) = s.first_copy().unwrap();
                assert_eq!((bytes, ancillary, meta.extra), (&text[..], want, extra));
                s.received();
            }
        }
    });
}

/// Against a queue, with a generator of its own (an LCG): wraps many times.
#[test]
fn behaves_as_a_queue() {
    with_store(|s| {
        let (mut seed, mut model, mut next) = (7u64, VecDeque::<Vec<u8>>::new(), 0u8);
        for _ in 0..if cfg!(miri) { 300 } else { 20_000 } {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let r = (seed >> 33) as usize;
            if !r.is_multiple_of(3) {
                let bytes = std::vec![next; r % 700];
                next = next.wrapping_add(1);
                assert_eq!(s.has_room(bytes.len()), push(&s, &bytes));
                if s.unplaced() as usize > model.len() {
                    model.push_back(bytes);
                }
            } else if let Some(want) = model.pop_front() {
                let (meta, got) = s.first_unplaced().unwrap();
                assert_eq!((meta.hdr.len as usize, got), (want.len(), &want[..]));
                s.placed(r.is_multiple_of(2));
                if r.is_multiple_of(2) {
                    assert_eq!(s.first_copy().unwrap().1, &want[..]);
                    s.received();
                }
            }
            assert_eq!(s.unplaced() as usize, model.len());
        }
    });
}
