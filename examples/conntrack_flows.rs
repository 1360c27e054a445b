//! Writes a line of JSON for each connection that begins or ends, from the events of connection tracking.
//!
//! ```text
//! cargo run --example conntrack_flows
//! {"destination":"192.0.2.1","destination_port":53,"event":"new","protocol":17,"source":"192.0.2.7","source_port":40961}
//! ```
//!
//! It waits by `mio`, as a program with more than one thing to wait for does.

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use nlmmap::{Family, RingSocket};
use serde_json::{Map, Value, json};

// linux/netfilter/nfnetlink.h
const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;

/// The original direction of a connection.
fn flow(event: &str, attributes: &[ConntrackAttribute]) -> Value {
    let mut line = Map::from_iter([("event".to_owned(), json!(event))]);
    let mut put = |name: &str, value: Value| drop(line.insert(name.to_owned(), value));
    let original = attributes.iter().filter_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(parts) => Some(parts),
        _ => None,
    });
    for part in original.flatten() {
        match part {
            Tuple::Ip(addresses) => addresses.iter().for_each(|address| match address {
                IPTuple::SourceAddress(address) => put("source", json!(address)),
                IPTuple::DestinationAddress(address) => put("destination", json!(address)),
                _ => {}
            }),
            Tuple::Proto(numbers) => numbers.iter().for_each(|number| match number {
                ProtoTuple::Protocol(protocol) => put("protocol", json!(u8::from(*protocol))),
                ProtoTuple::SourcePort(port) => put("source_port", json!(port)),
                ProtoTuple::DestinationPort(port) => put("destination_port", json!(port)),
                _ => {}
            }),
            _ => {}
        }
    }
    Value::Object(line)
}

fn main() -> Result<(), Box<dyn Error>> {
    let socket = RingSocket::builder(Family::NETFILTER)
        .groups([NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY])
        .receive_buffer(8 << 20)
        .build()?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(0), Interest::READABLE)?;
    let mut events = Events::with_capacity(4);
    let mut out = io::BufWriter::new(io::stdout().lock());
    eprintln!("waiting for connections");
    loop {
        // Until there is nothing left: only then does the descriptor become readable again.
        loop {
            let message = match socket.try_recv() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(nlmmap::Error::Overrun) => {
                    eprintln!("events were lost");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if !message.is_from_kernel() {
                continue;
            }
            for part in message.parts() {
                let event = NetlinkMessage::<NetfilterMessage>::deserialize(part)?;
                let NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::Conntrack(conntrack),
                    ..
                }) = event.payload
                else {
                    continue;
                };
                let line = match &conntrack {
                    ConntrackMessage::New(attributes) => flow("new", attributes),
                    ConntrackMessage::Delete(attributes) => flow("end", attributes),
                    _ => continue,
                };
                writeln!(out, "{line}")?;
            }
        }
        out.flush()?;
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
    }
}
