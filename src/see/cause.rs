//! Why messages were lost or late, and what helps: in words.

use super::seen::Seen;

/// What the kernel charges to the receive buffer for a small message, at least.
const SMALLEST_CHARGE: u64 = 768;
/// A ring of more frames than this is no cure.
const MOST_FRAMES: u64 = 1 << 20;

/// What is wrong, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Cause {
    pub what: String,
    pub cure: String,
}

/// Frames that would have held what was there when most waited behind the full ring, as a power of two.
pub fn frames_wanted(seen: &Seen) -> Option<u64> {
    let ring = seen.rx?;
    let waiting = seen.counts.held_bytes / SMALLEST_CHARGE;
    let wanted = u64::from(ring.frames).saturating_add(waiting).checked_next_power_of_two()?;
    (waiting > 0 && wanted <= MOST_FRAMES).then_some(wanted.max(u64::from(ring.frames) * 2))
}

/// All that is to be said of an endpoint, the worst first.
pub fn causes(seen: &Seen) -> Vec<Cause> {
    let c = &seen.counts;
    let mut all = Vec::new();
    let mut say = |what: String, cure: String| all.push(Cause { what, cure });
    let larger = || {
        let (frames, size) = seen.rx.map_or((0, 0), |ring| (ring.frames, ring.frame_size));
        match frames_wanted(seen) {
            Some(wanted) => format!(
                "ask for {wanted} frames of {size} bytes instead of {frames} (nm_frame_nr): that many would have held what \
                 was there; or release frames faster"
            ),
            None => format!("ask for more than {frames} frames (nm_frame_nr), or release frames faster"),
        }
    };
    if c.lost_by_kernel > 0 && (c.held > 0 || c.filled > 0) {
        say(
            format!("the socket overflowed {} times while the ring was full", c.lost_by_kernel),
            format!("{}; a larger SO_RCVBUF bridges short stops", larger()),
        );
    } else if c.lost_by_kernel > 0 {
        say(
            format!("the socket overflowed {} times though the ring had room: bursts came faster than they were moved", c.lost_by_kernel),
            "raise SO_RCVBUF (SO_RCVBUFFORCE, or sysctl net.core.rmem_max), or wait for messages in poll instead of working \
             between them"
                .to_owned(),
        );
    }
    if c.lost_unread > 0 {
        say(
            format!("{} messages were lost because those before them were not read", c.lost_unread),
            "read every frame of status NL_MMAP_STATUS_COPY by recv: its message is in no frame".to_owned(),
        );
    }
    let lost_full = c.overruns.saturating_sub(c.lost_by_kernel).saturating_sub(c.lost_unread);
    if lost_full > 0 {
        say(format!("{lost_full} messages found the ring full and were lost"), larger());
    }
    if c.lost_by_kernel == 0 && lost_full == 0 && c.held > 0 {
        say(format!("messages waited behind a full ring ({} looks); none of them was lost", c.held), larger());
    }
    if let Some(ring) = seen.rx
        && c.rx_copies > 0
        && c.rx_copies >= c.rx_frames / 10
    {
        say(
            format!(
                "{} of {} messages did not fit a frame of {} bytes",
                c.rx_copies,
                c.rx_copies.saturating_add(c.rx_frames),
                ring.frame_size
            ),
            if seen.strict {
                "multicasts and answers travel by COPY in strict mode, as in Linux 4.5: run it without --strict"
                    .to_owned()
            } else {
                "ask for larger frames (nm_frame_size): the largest message and 16 bytes".to_owned()
            },
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::seen::{self, Ring};
    use super::*;
    use nlmmap_ring::card::Record;

    fn seen(change: impl Fn(&mut Seen)) -> Vec<Cause> {
        let mut seen = seen::recorded(&Record::default());
        seen.rx = Some(Ring { block_size: 65536, blocks: 1, frame_size: 2048, frames: 32 });
        change(&mut seen);
        causes(&seen)
    }

    #[test]
    fn nothing_is_said_of_what_is_well() {
        assert_eq!(seen(|s| s.counts.rx_frames = 1000), []);
    }

    #[test]
    fn each_loss_has_its_own_cure() {
        let all = seen(|s| {
            (s.counts.overruns, s.counts.lost_by_kernel, s.counts.lost_unread) = (10, 3, 2);
            (s.counts.held, s.counts.held_bytes) = (7, 768 * 100);
        });
        let all: Vec<_> = all.iter().map(|c| (c.what.as_str(), c.cure.as_str())).collect();
        assert!(
            all[0].0.contains("overflowed 3 times while the ring was full") && all[0].1.contains("ask for 256 frames")
        );
        assert!(all[1].0.starts_with("2 messages were lost because") && all[1].1.contains("COPY"));
        assert!(all[2].0.starts_with("5 messages found the ring full"));
        let burst = seen(|s| (s.counts.overruns, s.counts.lost_by_kernel) = (1, 1));
        assert!(burst[0].cure.contains("SO_RCVBUF") && burst.len() == 1);
    }
}
