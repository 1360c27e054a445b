//! Copies of payload.
//!
//! A frame's payload lies 24 bytes behind a frame's beginning, and most messages begin where a page does. Where the kernel and the C
//! library copy by one instruction (`rep movsb`, from some length on) AMD's Zen 3 takes twenty times as long if the destination is 1 to 31
//! bytes ahead of the source, page for page (docs/performance.md, "Where frames begin"). Registers do not mind.

/// Copies `len` bytes.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};
    const WORD: usize = size_of::<__m128i>();
    if len < WORD {
        // SAFETY: the caller's duty.
        return unsafe { core::ptr::copy_nonoverlapping(from, to, len) };
    }
    // SAFETY: `at` and the words behind it end at `len` at most; neither address needs an alignment.
    let load = |at: usize| unsafe { _mm_loadu_si128(from.add(at).cast()) };
    // SAFETY: as above.
    let store = |at: usize, word: __m128i| unsafe { _mm_storeu_si128(to.add(at).cast(), word) };
    let mut at = 0;
    while at + 4 * WORD <= len {
        let words = [load(at), load(at + WORD), load(at + 2 * WORD), load(at + 3 * WORD)];
        for (i, word) in words.into_iter().enumerate() {
            store(at + i * WORD, word);
        }
        at += 4 * WORD;
    }
    if at + 2 * WORD <= len {
        let words = [load(at), load(at + WORD)];
        store(at, words[0]);
        store(at + WORD, words[1]);
        at += 2 * WORD;
    }
    if at + WORD <= len {
        store(at, load(at));
    }
    // The rest, and some of what has been copied.
    store(len - WORD, load(len - WORD));
}

/// Copies `len` bytes.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's duty.
    unsafe { core::ptr::copy_nonoverlapping(from, to, len) }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    #[test]
    fn every_length_is_copied_and_nothing_beside_it() {
        let from: Vec<u8> = (0..400).map(|i| (i % 251) as u8).collect();
        for len in 0..300 {
            for (a, b) in [(0, 0), (1, 24), (24, 1), (7, 7)] {
                let mut to = Vec::from([0xee; 400]);
                // SAFETY: two vectors that are longer.
                unsafe { super::copy(from.as_ptr().add(a), to.as_mut_ptr().add(b), len) };
                assert_eq!(to[b..b + len], from[a..a + len]);
                assert!(to[..b].iter().chain(&to[b + len..]).all(|&byte| byte == 0xee), "{len}");
            }
        }
    }
}
