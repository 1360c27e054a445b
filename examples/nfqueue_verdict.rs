//! Judges the packets of an NFQUEUE: accepts all but those to one UDP or TCP port.
//!
//! ```text
//! iptables -A INPUT -p udp -j NFQUEUE --queue-num 5
//! cargo run --example nfqueue_verdict -- 5 9999
//! ```
//!
//! The loop has no batches and no kicks in it, and is fast all the same: `recv` hands out what one system call has received,
//! and sends the verdicts that wait, many in one datagram, before it makes another.

use std::env;
use std::error::Error;

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};
use nlmmap::{Family, RingSocket};

// linux/netfilter/nfnetlink_queue.h
const SUBSYSTEM: u8 = 3;
const PACKET: u8 = 0;
const VERDICT: u8 = 1;
const CONFIG: u8 = 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_PACKET_HDR: u16 = 1;
const NFQA_VERDICT_HDR: u16 = 2;
const NFQA_PAYLOAD: u16 = 10;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// One message of the queue's subsystem.
fn request(queue: u16, kind: u8, flags: u16, attribute: u16, value: Vec<u8>) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let inner = NetfilterMessageInner::Other {
        subsys: NetfilterSubsystem::Other(SUBSYSTEM),
        message_type: kind,
        attributes: vec![DefaultNla::new(attribute, value)],
    };
    let body = NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, queue), inner);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(body));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Sends a request and looks at its acknowledgement.
fn configure(socket: &RingSocket, queue: u16, attribute: u16, value: Vec<u8>) -> Result<(), Box<dyn Error>> {
    socket.send(&request(queue, CONFIG, NLM_F_ACK, attribute, value))?;
    let answer = socket.recv()?;
    match NetlinkMessage::<NetfilterMessage>::deserialize(&answer)?.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io().into()),
        _ => Ok(()),
    }
}

/// The destination port of an IPv4 packet of UDP or TCP.
fn port(packet: &[u8]) -> Option<u16> {
    let words = usize::from(packet.first()? & 15);
    let is_ported = matches!(packet.get(9)?, 6 | 17);
    let bytes = packet.get(words * 4 + 2..words * 4 + 4)?;
    is_ported.then(|| u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: nfqueue_verdict QUEUE REFUSED-PORT";
    let numbers: Result<Vec<u16>, _> = env::args().skip(1).map(|word| word.parse()).collect();
    let [queue, refused] = numbers.map_err(|_| usage)?[..] else { return Err(usage.into()) };
    let socket = RingSocket::builder(Family::NETFILTER).build()?;
    // NFQNL_CFG_CMD_BIND; NFQNL_COPY_PACKET of at most 65535 bytes.
    configure(&socket, queue, NFQA_CFG_CMD, vec![1, 0, 0, 0])?;
    configure(&socket, queue, NFQA_CFG_PARAMS, vec![0, 0, 0xff, 0xff, 2])?;
    println!("judging queue {queue}");
    let mut verdict = request(queue, VERDICT, 0, NFQA_VERDICT_HDR, vec![0; 8]);
    loop {
        let message = match socket.recv() {
            Ok(message) => message,
            // The kernel has dropped packets that found no room here.
            Err(nlmmap::Error::Overrun) => continue,
            Err(error) => return Err(error.into()),
        };
        if !message.is_from_kernel() || message.get(4..6) != Some(&[PACKET, SUBSYSTEM]) {
            continue;
        }
        let (mut id, mut judgement) = (None, ACCEPT);
        for attribute in NlasIterator::new(message.get(20..).unwrap_or_default()) {
            let attribute = attribute?;
            match (attribute.kind(), attribute.value()) {
                (NFQA_PACKET_HDR, [a, b, c, d, ..]) => id = Some([*a, *b, *c, *d]),
                (NFQA_PAYLOAD, packet) if port(packet) == Some(refused) => judgement = DROP,
                _ => {}
            }
        }
        if let Some(id) = id {
            // struct nfqnl_msg_verdict_hdr is the last of the message.
            verdict[24..28].copy_from_slice(&judgement.to_be_bytes());
            verdict[28..32].copy_from_slice(&id);
            socket.send(&verdict)?;
        }
    }
}
