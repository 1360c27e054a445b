//! Lists the network interfaces, then tells of every change, under `tokio`.
//!
//! ```text
//! cargo run --example link_monitor
//! lo: up, 65536 bytes
//! eth0: up, 1500 bytes
//! eth0: down, 1500 bytes
//! eth1: gone
//! ```

use std::error::Error;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use nlmmap::{Family, Message, RingSocket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

// linux/rtnetlink.h
const RTNLGRP_LINK: u32 = 1;

/// Asks for all links.
fn dump_request() -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let body = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(body));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn tell(message: &Message<'_>) -> Result<(), Box<dyn Error>> {
    for part in message.parts() {
        let (link, gone) = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(part)?.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => (link, false),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => (link, true),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io().into()),
            _ => continue,
        };
        let (mut name, mut mtu) = ("?", 0);
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = value,
                LinkAttribute::Mtu(value) => mtu = *value,
                _ => {}
            }
        }
        if gone {
            println!("{name}: gone");
        } else {
            let state = if link.header.flags.contains(LinkFlags::Up) { "up" } else { "down" };
            println!("{name}: {state}, {mtu} bytes");
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let socket = RingSocket::builder(Family::ROUTE).groups([RTNLGRP_LINK]).build()?;
    socket.send(&dump_request())?;
    socket.kick()?;
    // SAFETY: a RingSocket owns its descriptor and keeps it to its end.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
    loop {
        let mut guard = socket.readable().await?;
        match guard.get_inner().try_recv() {
            Ok(Some(message)) if message.is_from_kernel() => tell(&message)?,
            Ok(Some(_)) => {}
            // Only now: what was received is not seen in the descriptor.
            Ok(None) => guard.clear_ready(),
            Err(nlmmap::Error::Overrun) => guard.get_inner().send(&dump_request())?,
            Err(error) => return Err(error.into()),
        }
    }
}
