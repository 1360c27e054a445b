//! What the log says of messages that are lost or held: of a socket's first one, of its tenth, its hundredth and so on, with
//! what would have held them.

use crate::local::Local;
use crate::log::warning;
use crate::table;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::control::Control;
use nlmmap_ring::endpoint::Endpoint;
use nlmmap_ring::sys::{self, SOL_SOCKET};
use nlmmap_ring::trouble::{self, Trouble};

const SO_RCVBUF: i32 = 8;

/// From here on it is told.
pub fn begin() {
    trouble::listen(tell);
}

fn is_told(times: u64) -> bool {
    let mut at = 1u64;
    while at < times {
        at = at.saturating_mul(10);
    }
    at == times
}

fn tell(endpoint: &Endpoint, trouble: Trouble) {
    let Some(local) = table::all().find(|local| core::ptr::eq(&raw const local.endpoint, endpoint)) else { return };
    let seen = match trouble {
        Trouble::Lost => &local.lost,
        Trouble::LostByKernel => &local.lost_by_kernel,
        Trouble::Held => &local.held,
    };
    let times = seen.fetch_add(1, Relaxed) + 1;
    if !is_told(times) {
        return;
    }
    let (Some(control), fd) = (endpoint.control(), local.any_fd()) else { return };
    match trouble {
        Trouble::LostByKernel => {
            let room: i32 = sys::getsockopt(fd, SOL_SOCKET, SO_RCVBUF).unwrap_or(0);
            warning!(
                "fd {fd}: the kernel has lost messages ({times} times so far): they came faster than they were read, and the \
                 socket's receive buffer of {room} bytes was full; read faster, or raise SO_RCVBUF (by default it follows the \
                 ring's size as far as net.core.rmem_max or CAP_NET_ADMIN permit)"
            );
        }
        Trouble::Lost if !endpoint.is_full() => {
            let copies = control.copies.load(Relaxed);
            warning!(
                "fd {fd}: {times} message(s) lost so far: there was no room to keep one beside the ring while {copies} COPY \
                 message(s) wait for recv; call recv for each COPY frame"
            );
        }
        Trouble::Lost => {
            warning!("fd {fd}: {times} message(s) lost so far: {}", Full { local, control, more: times });
        }
        Trouble::Held => {
            warning!("fd {fd}: messages wait in the socket: {}", Full { local, control, more: 1 });
        }
    }
}

/// The ring's size, and the size that would have held `more` messages more.
struct Full<'a> {
    local: &'a Local,
    control: &'a Control,
    more: u64,
}

impl fmt::Display for Full<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ring) = self.local.endpoint.rx() else { return Ok(()) };
        let (request, len) = (ring.geometry().request(), ring.geometry().len());
        let (nr, size, block) = (request.nm_frame_nr, request.nm_frame_size, u64::from(request.nm_block_size));
        let per_block = u64::from(nr / request.nm_block_nr.max(1));
        let blocks = (u64::from(nr) + self.more).div_ceil(per_block.max(1));
        write!(f, "the ring is full ({nr} frames of {size} bytes, {len} bytes; ")?;
        match self.control.rx_outstanding.load(Relaxed) {
            n if n < nr => write!(f, "{n} not released, one of them at its head")?,
            _ => write!(f, "none released")?,
        }
        let (frames, bytes) = (blocks * per_block, blocks * block);
        write!(f, "); release frames sooner, or set at least {frames} frames ({blocks} blocks, {bytes} bytes)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_ever_more_rarely() {
        let told: Vec<u64> = (1..20_000).filter(|n| is_told(*n)).collect();
        assert_eq!(told, [1, 10, 100, 1000, 10_000]);
    }
}
