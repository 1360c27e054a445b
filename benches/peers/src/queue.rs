//! NFQUEUE accept: numbered UDP packets on the loopback of a namespace of its own, each queued to this program and accepted.
//! Accepted packets are dropped at INPUT: what follows a verdict is no part of the comparison.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

use nfq::Verdict;
use nlmmap::{Family, Ring, RingSocket};

use crate::meter::Meter;
use crate::wire::{self, configuration, packet_id, verdict};
use crate::{Failure, Outcome, foreign, run};

const WINDOW: u64 = 1024;

static JUDGED: AtomicU64 = AtomicU64::new(0);
static GO: AtomicBool = AtomicBool::new(false);

pub const WAYS: &[&str] =
    &["libnetfilter_queue", "libmnl", "nfq", "netlink-sys", "neli", "RingSocket", "RingSocket, batch"];

extern "C" fn ready() {
    GO.store(true, SeqCst);
}

/// Packets of `size` bytes, at most [`WINDOW`] not yet judged.
fn generate(socket: &UdpSocket, size: usize, count: u64) -> Result<(), Failure> {
    socket.connect("127.0.0.1:9999")?;
    crate::set_option(socket, libc::SO_SNDBUFFORCE, 64 << 20)?;
    let mut data = vec![0u8; size];
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: size };
    // SAFETY: all-zero bytes are a valid mmsghdr.
    let mut msgs: [libc::mmsghdr; 32] = unsafe { std::mem::zeroed() };
    for msg in &mut msgs {
        (msg.msg_hdr.msg_iov, msg.msg_hdr.msg_iovlen) = (&raw mut iov, 1);
    }
    while !GO.load(SeqCst) {
        std::thread::sleep(Duration::from_micros(100));
    }
    let mut sent = 0;
    while sent < count {
        let now = (count - sent).min(32);
        if sent + now - JUDGED.load(Relaxed) > WINDOW {
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        // SAFETY: headers and data are live, with these lengths.
        let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), msgs.as_mut_ptr(), now as u32, 0) };
        if done < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        sent += done as u64;
    }
    Ok(())
}

pub fn measure(way: &str, size: usize, count: u64) -> Outcome {
    run("ip link set lo up; iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5;
        iptables-legacy -A INPUT -p udp --dport 9999 -j DROP")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let generator = std::thread::spawn(move || generate(&socket, size, count).map_err(|e| e.to_string()));
    let mut meter = Meter::default();
    meter.go();
    judge(way, count)?;
    meter.report(JUDGED.load(Relaxed));
    generator.join().map_err(|_| "the generator")??;
    Ok(())
}

fn judge(way: &str, count: u64) -> Outcome {
    match way {
        // SAFETY: the counter lives for ever.
        "libnetfilter_queue" => foreign(unsafe { crate::peer_libnetfilter_queue(count, JUDGED.as_ptr(), ready) }),
        // SAFETY: as above.
        "libmnl" => foreign(unsafe { crate::peer_libmnl_queue(count, JUDGED.as_ptr(), ready) }),
        "nfq" => with_nfq(count),
        "netlink-sys" => with_netlink_sys(count),
        "neli" => with_neli(count),
        "RingSocket" => with_ring(count),
        "RingSocket, batch" => with_batches(count),
        _ => Err("no such way".into()),
    }
}

fn with_nfq(count: u64) -> Outcome {
    // The crate does not tell its descriptor, whose receive buffer has to hold the window as the others' do: it is the next one.
    let next = std::fs::File::open("/dev/null")?;
    let fd = next.as_raw_fd();
    drop(next);
    let mut queue = nfq::Queue::open()?;
    crate::set_option(&fd, libc::SO_RCVBUFFORCE, 512 << 20)?;
    queue.bind(5)?;
    queue.set_queue_max_len(5, 100_000)?;
    ready();
    while JUDGED.load(Relaxed) < count {
        let mut message = queue.recv()?;
        message.set_verdict(Verdict::Accept);
        queue.verdict(message)?;
        JUDGED.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn with_netlink_sys(count: u64) -> Outcome {
    let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_rx_buf_sz(512i32 << 20)?;
    let kernel = netlink_sys::SocketAddr::new(0, 0);
    let mut buf = Vec::with_capacity(65536 + 4096);
    for request in configuration() {
        socket.send_to(&request, &kernel, 0)?;
        socket.recv_from(&mut buf, 0)?;
        buf.clear();
    }
    ready();
    while JUDGED.load(Relaxed) < count {
        buf.clear();
        socket.recv_from(&mut buf, 0)?;
        socket.send_to(&verdict(packet_id(&buf)), &kernel, 0)?;
        JUDGED.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn with_neli(count: u64) -> Outcome {
    use neli::consts::nl::NlmF;
    use neli::consts::socket::NlFamily;
    use neli::nl::{NlPayload, NlmsghdrBuilder};
    use neli::socket::synchronous::NlSocketHandle;
    use neli::types::Buffer;
    use neli::utils::Groups;
    let socket = NlSocketHandle::connect(NlFamily::Netfilter, None, Groups::empty())?;
    socket.set_recv_buffer_size(512 << 20)?;
    let send = |kind: u16, flags, body: &[u8]| -> Outcome {
        let payload = NlPayload::Payload(Buffer::from(body));
        let message = NlmsghdrBuilder::default().nl_type(kind).nl_flags(flags).nl_payload(payload).build()?;
        Ok(socket.send(&message)?)
    };
    for request in configuration() {
        send(wire::CONFIG, NlmF::REQUEST, &request[16..])?;
    }
    ready();
    while JUDGED.load(Relaxed) < count {
        let (messages, _) = socket.recv::<u16, Buffer>()?;
        for message in messages {
            let message = message?;
            let body = message.get_payload().ok_or("a packet")?;
            let body: &[u8] = body.as_ref();
            let id = u32::from_be_bytes([body[8], body[9], body[10], body[11]]);
            send(wire::VERDICT, NlmF::REQUEST, &verdict(id)[16..])?;
            JUDGED.fetch_add(1, Relaxed);
        }
    }
    Ok(())
}

fn ring() -> Result<RingSocket, Failure> {
    let socket = RingSocket::builder(Family::NETFILTER)
        .rx_ring(Ring::frames(128, 2048))
        .tx_ring(Ring::frames(64, 256))
        .receive_buffer(512 << 20)
        .build()?;
    for request in configuration() {
        socket.send(&request)?;
        socket.recv()?;
    }
    ready();
    Ok(socket)
}

/// As one writes it first: nothing but `recv` and `send`.
fn with_ring(count: u64) -> Outcome {
    let socket = ring()?;
    while JUDGED.load(Relaxed) < count {
        let packet = socket.recv()?;
        socket.send(&verdict(packet_id(&packet)))?;
        JUDGED.fetch_add(1, Relaxed);
    }
    socket.kick()?;
    Ok(())
}

fn with_batches(count: u64) -> Outcome {
    let socket = ring()?;
    while JUDGED.load(Relaxed) < count {
        let mut judged = 0;
        for packet in socket.recv_batch()? {
            socket.send(&verdict(packet_id(&packet?)))?;
            judged += 1;
        }
        socket.kick()?;
        JUDGED.fetch_add(judged, Relaxed);
    }
    Ok(())
}
