//! `select` and `pselect`: the waits of `wait`, over bit sets.

use super::announced::Announced;
use super::signals::{Gaps, Own};
use super::wait::{self, FIRST_NAP, LONGEST_NAP, Limit};
use crate::fdtable;
use crate::found;
use crate::guard;
use crate::local::Local;
use crate::next::{self, errno, set_errno};
use crate::process;
use crate::symbols::{TimeSpec, TimeVal};
use core::ffi::{c_int, c_void};
use nlmmap_ring::readiness::{ERR, IN, OUT};
use nlmmap_ring::rx::Context;

/// Descriptors that a set may have here: four times what `FD_SETSIZE` allows.
const MOST: usize = 4096;
const WORDS: usize = MOST / 64;

/// One of the three sets, by value.
#[derive(Clone, Copy)]
struct Set {
    bits: [u64; WORDS],
    given: bool,
}

impl Set {
    unsafe fn read(at: *const u64, words: usize) -> Set {
        let mut bits = [0; WORDS];
        if !at.is_null() {
            for (i, word) in bits.iter_mut().enumerate().take(words) {
                // SAFETY: the client's set covers `nr` descriptors, in words.
                *word = unsafe { at.add(i).read_unaligned() };
            }
        }
        Set { bits, given: !at.is_null() }
    }

    unsafe fn write(&self, at: *mut u64, words: usize) {
        if !at.is_null() {
            for (i, word) in self.bits.iter().enumerate().take(words) {
                // SAFETY: as in `read`.
                unsafe { at.add(i).write_unaligned(*word) };
            }
        }
    }

    fn has(&self, fd: usize) -> bool {
        self.bits.get(fd / 64).is_some_and(|w| w >> (fd % 64) & 1 != 0)
    }

    fn put(&mut self, fd: usize, on: bool) {
        if let Some(w) = self.bits.get_mut(fd / 64) {
            *w = *w & !(1 << (fd % 64)) | u64::from(on) << (fd % 64);
        }
    }

    fn pointer(&mut self) -> *mut u64 {
        if self.given { self.bits.as_mut_ptr() } else { core::ptr::null_mut() }
    }
}

/// Read, write, exceptional.
#[derive(Clone, Copy)]
struct Sets([Set; 3]);

impl Sets {
    /// Calls `f` for each socket with a receive ring in any set.
    fn each(&self, nr: usize, mut f: impl FnMut(usize, &'static Local)) {
        let [r, w, x] = &self.0;
        for word in 0..nr.div_ceil(64).min(WORDS) {
            let mut any = [r, w, x].iter().fold(0, |any, s| any | s.bits.get(word).copied().unwrap_or(0));
            while any != 0 {
                let fd = word * 64 + any.trailing_zeros() as usize;
                any &= any - 1;
                if fd < nr
                    && let Some(local) = fdtable::borrow(fd as c_int)
                {
                    if local.endpoint.rx().is_some() {
                        f(fd, local);
                    }
                    local.leave_confirmed();
                }
            }
        }
    }

    /// What memory says of `fd`, as bits of the three sets.
    fn answer(&self, fd: usize, local: &Local) -> [bool; 3] {
        let events = wait::events(local);
        let [r, w, _] = &self.0;
        [r.has(fd) && events & (IN | ERR) != 0, w.has(fd) && events & (OUT | ERR) != 0, false]
    }
}

/// The client's call, on these sets and with this limit.
type Call<'a> = dyn Fn(&mut Sets, Limit, Option<u64>, &Own) -> c_int + 'a;

unsafe fn select_any(
    nr: usize,
    at: [*mut u64; 3],
    limit: Limit,
    // Not generic: a second copy of all this would be a twentieth of the library.
    call: &Call<'_>,
) -> c_int {
    let words = nr.div_ceil(64);
    // SAFETY: the client's sets cover `nr` descriptors.
    let asked = unsafe { Sets([Set::read(at[0], words), Set::read(at[1], words), Set::read(at[2], words)]) };
    let saved = errno();
    let mut nap = FIRST_NAP;
    let mut gaps = Gaps::new();
    loop {
        let (mut ready, mut lost) = (false, false);
        asked.each(nr, |fd, local| {
            let wants = wait::wants_service(local);
            if (wants || asked.answer(fd, local) != [false; 3]) && !fdtable::confirm(fd as c_int, local) {
                lost = true;
                return;
            }
            if wants {
                wait::service(local, fd as c_int, Context::Wait);
            }
            ready |= asked.answer(fd, local) != [false; 3];
            guard::note_call(local);
        });
        let (mut got, mut blocked) = (asked, false);
        if lost && process::is_vfork_child() {
            // The table stays its parent's: the kernel knows what the child's numbers are.
            let result = call(&mut got, limit, None, &Own::NONE);
            if result >= 0 {
                for (set, at) in got.0.iter().zip(at) {
                    // SAFETY: the client's sets cover `nr` descriptors.
                    unsafe { set.write(at, words) };
                }
            }
            return result;
        }
        let result;
        if ready {
            found::test_cancel();
            // The others', and what has come to those of ours that memory has nothing for, without sleeping.
            result = call(&mut got, Limit::new(Some(0)), None, &Own::NONE);
        } else {
            let mut announced = Announced::new();
            asked.each(nr, |fd, local| {
                announced.to(local);
                ready |= asked.answer(fd, local) != [false; 3];
                blocked |= wait::must_look_again(local);
                if wait::is_blocked(local) {
                    got.0.iter_mut().for_each(|s| s.put(fd, false));
                }
            });
            let own = gaps.before(blocked);
            result = announced.sleep(
                &own,
                || {
                    if announced.has_more() {
                        asked.each(nr, |_, local| announced.withdraw_from(local));
                    }
                },
                || if ready { 0 } else { call(&mut got, limit, blocked.then_some(nap), &own) },
            );
            if ready {
                continue;
            }
            nap = (nap * 2).min(LONGEST_NAP);
        }
        if result < 0 {
            return result;
        }
        if result == 0 && !ready {
            // select leaves its sets empty when the time is up.
            got.0.iter_mut().for_each(|s| s.bits = [0; WORDS]);
        }
        asked.each(nr, |fd, local| {
            let [r, w, x] = &got.0;
            let told = r.has(fd) || w.has(fd) || x.has(fd);
            if (told || blocked || asked.answer(fd, local) != [false; 3]) && !fdtable::confirm(fd as c_int, local) {
                return;
            }
            if told || blocked {
                // An error shows in the write set too; whose it is, the socket says.
                wait::fetch_error(local, fd as c_int);
                wait::service(local, fd as c_int, Context::Wait);
            }
            let answer = asked.answer(fd, local);
            got.0.iter_mut().zip(answer).for_each(|(s, on)| s.put(fd, on));
        });
        let count: u32 = got.0.iter().flat_map(|s| s.bits).map(u64::count_ones).sum();
        if count > 0 || limit.is_zero() || limit.left() == Some(0) {
            for (set, at) in got.0.iter().zip(at) {
                // SAFETY: as above.
                unsafe { set.write(at, words) };
            }
            set_errno(saved);
            return count as c_int;
        }
    }
}

/// Whether any socket of the sets has a receive ring.
unsafe fn concerns_us(nr: c_int, at: [*mut u64; 3]) -> bool {
    if fdtable::live() == 0 || nr <= 0 || nr as usize > MOST {
        return false;
    }
    let words = (nr as usize).div_ceil(64);
    for set in at.into_iter().filter(|s| !s.is_null()) {
        for word in 0..words {
            // SAFETY: the client's set covers `nr` descriptors.
            let mut bits = unsafe { set.add(word).read_unaligned() };
            while bits != 0 {
                if fdtable::is_adopted((word * 64) as c_int + bits.trailing_zeros() as c_int) {
                    return true;
                }
                bits &= bits - 1;
            }
        }
    }
    false
}

pub unsafe fn select(nr: c_int, r: *mut u64, w: *mut u64, x: *mut u64, limit: *mut TimeVal) -> c_int {
    // SAFETY: the caller's duty.
    if !unsafe { concerns_us(nr, [r, w, x]) } {
        // SAFETY: handed on as it came.
        return unsafe { next::select(nr, r, w, x, limit) };
    }
    // SAFETY: null or readable, the caller's duty.
    let nanos = unsafe { limit.as_ref() }.map(|t| {
        (t.tv_sec.max(0) as u64).saturating_mul(1_000_000_000).saturating_add((t.tv_usec.max(0) as u64) * 1000)
    });
    let until = Limit::new(nanos);
    // SAFETY: as above.
    let result = unsafe {
        select_any(nr as usize, [r, w, x], until, &|sets, limit, most, own| {
            if !own.set().is_null() {
                let left = limit.left_spec(most);
                let left = left.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
                let [r, w, x] = &mut sets.0;
                return next::pselect(nr, r.pointer(), w.pointer(), x.pointer(), left, own.set());
            }
            let mut left =
                limit.left_spec(most).map(|t| TimeVal { tv_sec: t.tv_sec, tv_usec: (t.tv_nsec + 999) / 1000 });
            let left = left.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
            let [r, w, x] = &mut sets.0;
            next::select(nr, r.pointer(), w.pointer(), x.pointer(), left)
        })
    };
    // SAFETY: as above. Linux tells the time that is left.
    if let (Some(limit), Some(left)) = (unsafe { limit.as_mut() }, until.left()) {
        limit.tv_sec = (left / 1_000_000_000) as i64;
        limit.tv_usec = (left % 1_000_000_000 / 1000) as i64;
    }
    result
}

pub unsafe fn pselect(
    nr: c_int,
    r: *mut u64,
    w: *mut u64,
    x: *mut u64,
    limit: *const TimeSpec,
    mask: *const c_void,
) -> c_int {
    // SAFETY: the caller's duty.
    if !unsafe { concerns_us(nr, [r, w, x]) } {
        // SAFETY: handed on as it came.
        return unsafe { next::pselect(nr, r, w, x, limit, mask) };
    }
    // SAFETY: as above.
    unsafe {
        select_any(nr as usize, [r, w, x], Limit::spec(limit), &|sets, limit, most, own| {
            let left = limit.left_spec(most);
            let left = left.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
            let [r, w, x] = &mut sets.0;
            next::pselect(nr, r.pointer(), w.pointer(), x.pointer(), left, own.unless(mask))
        })
    }
}
