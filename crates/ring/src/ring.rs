//! The kernel role's moves in one ring: head, look-ups, the rule for dumps. Pure over [`Frames`], so that models run it.
//!
//! Names and quirks are those of Linux 4.4 `af_netlink.c` (`netlink_current_frame`, `netlink_forward_ring`,
//! `netlink_dump_space`, `netlink_has_valid_frame`).

use crate::abi::status;
use crate::memory::Frames;

/// Steps the head over frames the client has marked `SKIP`, once around at most (`netlink_forward_ring`).
#[inline]
pub fn forward_ring<F: Frames>(frames: &F, head: u32) -> u32 {
    let mut pos = head;
    for _ in 0..frames.frame_nr() {
        if frames.status(pos) != status::SKIP {
            return pos;
        }
        pos = frames.next(pos);
    }
    head
}

/// How many frames from `head` on are `UNUSED`, without a gap, counted up to `most`.
#[inline]
pub fn unused_run<F: Frames>(frames: &F, head: u32, most: u32) -> u32 {
    let most = most.min(frames.frame_nr());
    let (mut pos, mut run) = (head, 0);
    while run < most && frames.status(pos) == status::UNUSED {
        pos = frames.next(pos);
        run += 1;
    }
    run
}

/// Whether another part of a running dump may be taken: the head frame and the one half a ring further are `UNUSED`
/// (`netlink_dump_space`, its wrap by `frame_max` included).
pub fn dump_space<F: Frames>(frames: &F, head: u32) -> bool {
    let frame_max = frames.frame_nr() - 1;
    let mut half = head + frame_max / 2;
    if half > frame_max {
        half -= frame_max;
    }
    frames.status(head) == status::UNUSED && frames.status(half) == status::UNUSED
}

/// Looks for a `VALID` frame among those filled since `oldest`, newest first, and returns the position of the oldest frame
/// that is not yet `UNUSED` (`head` when there is none) beside the answer.
///
/// `netlink_has_valid_frame` walks the whole ring. Frames behind `oldest` were seen `UNUSED` after we filled them, so only a
/// client that writes `VALID` into its own receive frames could tell the difference.
pub fn valid_frame<F: Frames>(frames: &F, oldest: u32, head: u32, outstanding: u32) -> (bool, u32, u32) {
    let (mut pos, mut left) = (oldest, outstanding);
    while left > 0 && frames.status(pos) == status::UNUSED {
        pos = frames.next(pos);
        left -= 1;
    }
    let mut back = head;
    for _ in 0..left {
        back = frames.prev(back);
        if frames.status(back) == status::VALID {
            return (true, pos, left);
        }
    }
    (false, pos, left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use std::vec::Vec;

    struct Array(Vec<Cell<u32>>);
    impl Array {
        fn new(s: &str) -> Array {
            Array(s.chars().map(|c| Cell::new("URVCS".find(c).unwrap() as u32)).collect())
        }
    }
    impl Frames for Array {
        fn frame_nr(&self) -> u32 {
            self.0.len() as u32
        }
        fn status(&self, pos: u32) -> u32 {
            self.0[pos as usize].get()
        }
        fn set_status(&self, pos: u32, status: u32) {
            self.0[pos as usize].set(status)
        }
    }

    #[test]
    fn forward_steps_over_skip_only() {
        assert_eq!(forward_ring(&Array::new("SSUU"), 0), 2);
        assert_eq!(forward_ring(&Array::new("VSUU"), 0), 0);
        assert_eq!(forward_ring(&Array::new("SSSS"), 1), 1);
        assert_eq!(forward_ring(&Array::new("USSS"), 1), 0);
    }

    #[test]
    fn unused_run_stops_at_the_first_taken_frame() {
        assert_eq!(unused_run(&Array::new("UUVU"), 0, 9), 2);
        assert_eq!(unused_run(&Array::new("UUVU"), 3, 9), 3);
        assert_eq!(unused_run(&Array::new("UUUU"), 2, 9), 4);
        assert_eq!(unused_run(&Array::new("VUUU"), 0, 9), 0);
        assert_eq!(unused_run(&Array::new("UUUU"), 0, 3), 3);
    }

    #[test]
    fn dump_space_needs_the_head_and_half_a_ring() {
        assert!(dump_space(&Array::new("VUUUUUUU"), 1));
        assert!(!dump_space(&Array::new("VVVVVUUU"), 5));
        assert!(dump_space(&Array::new("U"), 0));
    }

    #[test]
    fn valid_frame_tracks_the_oldest() {
        assert_eq!(valid_frame(&Array::new("UUVU"), 0, 3, 3), (true, 2, 1));
        assert_eq!(valid_frame(&Array::new("UUUU"), 0, 3, 3), (false, 3, 0));
        assert_eq!(valid_frame(&Array::new("CSUU"), 0, 2, 2), (false, 0, 2));
        assert_eq!(valid_frame(&Array::new("VSCU"), 0, 3, 3), (true, 0, 3));
    }
}
