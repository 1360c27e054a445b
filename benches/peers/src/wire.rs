//! Messages by hand, the same for every library here.

pub const PACKET: u16 = 3 << 8;
pub const VERDICT: u16 = 3 << 8 | 1;
pub const CONFIG: u16 = 3 << 8 | 2;
pub const REQUEST: u16 = 1;
pub const ACK: u16 = 4;
pub const CREATE: u16 = 0x400;
/// `struct nfgenmsg` of queue 5.
pub const QUEUE: [u8; 4] = [0, 0, 0, 5];

pub fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = ((4 + data.len()) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

pub fn message(kind: u16, flags: u16, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut out = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]);
    out.extend(body);
    out
}

/// The two requests that bind queue 5 and ask for whole packets.
pub fn configuration() -> [Vec<u8>; 2] {
    let bind = attribute(1, &[1, 0, 0, 2]);
    let copy = attribute(2, &[0, 0, 0xff, 0xff, 2]);
    let most = attribute(3, &100_000u32.to_be_bytes());
    [message(CONFIG, REQUEST | ACK, &[&QUEUE, &bind]), message(CONFIG, REQUEST | ACK, &[&QUEUE, &copy, &most])]
}

/// The id of a packet.
pub fn packet_id(message: &[u8]) -> u32 {
    assert_eq!(u16::from_ne_bytes([message[4], message[5]]), PACKET);
    assert_eq!(u16::from_ne_bytes([message[22], message[23]]), 1);
    u32::from_be_bytes([message[24], message[25], message[26], message[27]])
}

/// A verdict that accepts.
pub fn verdict(id: u32) -> [u8; 32] {
    let mut out = [0; 32];
    out[..4].copy_from_slice(&32u32.to_ne_bytes());
    out[4..6].copy_from_slice(&VERDICT.to_ne_bytes());
    out[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    out[16..20].copy_from_slice(&QUEUE);
    out[20..22].copy_from_slice(&12u16.to_ne_bytes());
    out[22..24].copy_from_slice(&2u16.to_ne_bytes());
    out[24..28].copy_from_slice(&1u32.to_be_bytes());
    out[28..].copy_from_slice(&id.to_be_bytes());
    out
}

/// Looks at every attribute of a connection's event, and wants its original tuple.
pub fn look_at_event(message: &[u8]) {
    let mut rest = message.get(20..).unwrap_or_default();
    let mut has_tuple = false;
    while let [a, b, c, d, ..] = *rest {
        let (len, kind) = (u16::from_ne_bytes([a, b]) as usize, u16::from_ne_bytes([c, d]) & 0x3fff);
        if len < 4 || len > rest.len() {
            break;
        }
        has_tuple |= kind == 1;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    assert!(has_tuple);
}

fn tuple(kind: u16, flow: u16, reply: bool) -> Vec<u8> {
    const NESTED: u16 = 0x8000;
    let (mut addresses, mut ports) = ([[10, 0, 0, 1], [10, 0, 0, 2]], [1000 + flow, 7]);
    if reply {
        addresses.reverse();
        ports.reverse();
    }
    let [source, destination] = addresses;
    let ip = [attribute(1, &source), attribute(2, &destination)].concat();
    let proto = [attribute(1, &[17]), attribute(2, &ports[0].to_be_bytes()), attribute(3, &ports[1].to_be_bytes())];
    attribute(kind | NESTED, &[attribute(1 | NESTED, &ip), attribute(2 | NESTED, &proto.concat())].concat())
}

/// Requests that make `flows` connections, or change the mark of those that are there: one event each.
pub fn connections(flows: u16, mark: u32) -> Vec<u8> {
    let timeout = attribute(7, &600u32.to_be_bytes());
    let mark = attribute(8, &mark.to_be_bytes());
    let one = |flow| {
        message(
            1 << 8,
            REQUEST | CREATE,
            &[&[2, 0, 0, 0], &tuple(1, flow, false), &tuple(2, flow, true), &timeout, &mark],
        )
    };
    (0..flows).flat_map(one).collect()
}
