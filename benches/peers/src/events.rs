//! Events of connection tracking: bursts of 1000 wait in the socket, and are received. Making them is not measured.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nlmmap::{Family, RingSocket};

use crate::meter::Meter;
use crate::wire::{connections, look_at_event};
use crate::{Failure, Outcome, foreign, run};

const BURST: u64 = 1000;
const UPDATES: u32 = 2;

static TAKEN: AtomicU64 = AtomicU64::new(0);

pub const WAYS: &[&str] =
    &["libnetfilter_conntrack", "libmnl", "netlink-sys", "neli", "RingSocket", "RingSocket, batch"];

struct Source {
    socket: RingSocket,
    mark: u32,
    meter: Meter,
}

impl Source {
    fn burst(&mut self) -> Result<(), Failure> {
        self.mark += 1;
        self.socket.send(&connections(BURST as u16, self.mark))?;
        self.socket.kick()?;
        if self.socket.try_recv()?.is_some() {
            return Err("a connection cannot be changed".into());
        }
        Ok(())
    }
}

thread_local! {
    static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// Makes the next burst, while the clocks stand still.
extern "C" fn refill() {
    SOURCE.with_borrow_mut(|source| {
        let source = source.as_mut().expect("made by `measure`");
        source.meter.pause();
        source.burst().expect("connections can be changed");
        source.meter.go();
    });
}

/// Counts one; whether more are wanted.
fn took(count: u64) -> bool {
    let taken = TAKEN.fetch_add(1, Relaxed) + 1;
    if taken < count && taken.is_multiple_of(BURST) {
        refill();
    }
    taken < count
}

pub fn measure(way: &str, count: u64) -> Outcome {
    run("echo 1 > /proc/sys/net/netfilter/nf_conntrack_events")?;
    let mut source =
        Source { socket: RingSocket::builder(Family::NETFILTER).build()?, mark: 0, meter: Meter::default() };
    source.burst()?;
    SOURCE.set(Some(source));
    receive(way, count)?;
    let mut source = SOURCE.take().ok_or("the source")?;
    source.meter.report(TAKEN.load(Relaxed));
    Ok(())
}

fn receive(way: &str, count: u64) -> Outcome {
    match way {
        "libnetfilter_conntrack" => {
            // SAFETY: the counter lives for ever.
            foreign(unsafe { crate::peer_libnetfilter_conntrack(count, TAKEN.as_ptr(), refill) })
        }
        // SAFETY: as above.
        "libmnl" => foreign(unsafe { crate::peer_libmnl_events(count, TAKEN.as_ptr(), refill) }),
        "netlink-sys" => {
            let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.set_rx_buf_sz(512i32 << 20)?;
            socket.add_membership(UPDATES)?;
            let mut buf = Vec::with_capacity(65536);
            refill();
            loop {
                buf.clear();
                socket.recv_from(&mut buf, 0)?;
                look_at_event(&buf);
                if !took(count) {
                    return Ok(());
                }
            }
        }
        "neli" => {
            use neli::consts::socket::NlFamily;
            use neli::socket::synchronous::NlSocketHandle;
            use neli::types::Buffer;
            use neli::utils::Groups;
            let socket = NlSocketHandle::connect(NlFamily::Netfilter, None, Groups::empty())?;
            socket.set_recv_buffer_size(512 << 20)?;
            socket.add_mcast_membership(Groups::new_groups(&[UPDATES]))?;
            refill();
            loop {
                let (messages, _) = socket.recv::<u16, Buffer>()?;
                for message in messages {
                    let message = message?;
                    let body = message.get_payload().ok_or("an event")?;
                    // As the others do: from the nlmsghdr on.
                    let mut whole = [0u8; 512];
                    let body: &[u8] = body.as_ref();
                    let len = (16 + body.len()).min(whole.len());
                    whole[16..len].copy_from_slice(&body[..len - 16]);
                    look_at_event(&whole[..len]);
                    if !took(count) {
                        return Ok(());
                    }
                }
            }
        }
        "RingSocket" | "RingSocket, batch" => {
            let socket = RingSocket::builder(Family::NETFILTER).groups([UPDATES]).receive_buffer(512 << 20).build()?;
            refill();
            if way == "RingSocket" {
                loop {
                    look_at_event(&socket.recv()?);
                    if !took(count) {
                        return Ok(());
                    }
                }
            }
            loop {
                for event in socket.recv_batch()? {
                    look_at_event(&event?);
                    if !took(count) {
                        return Ok(());
                    }
                }
            }
        }
        _ => Err("no such way".into()),
    }
}
