//! Sending: kicks, ordinary sends on ring sockets, replies that are there when the call returns.

mod support;
use support::{Build, client};

fn reply_at_once_after(way: &str) {
    client("reply_at_once").arg(way).passes();
}

#[test]
fn reply_is_in_the_ring_when_sendto_returns() {
    reply_at_once_after("sendto");
}

#[test]
fn reply_is_in_the_ring_when_send_returns() {
    reply_at_once_after("send");
}

#[test]
fn reply_is_in_the_ring_when_sendmsg_returns() {
    reply_at_once_after("sendmsg");
}

#[test]
fn reply_is_in_the_ring_when_sendmmsg_returns() {
    reply_at_once_after("sendmmsg");
}

#[test]
fn reply_is_in_the_ring_when_write_returns() {
    reply_at_once_after("write");
}

#[test]
fn reply_is_in_the_ring_when_a_kick_by_sendto_returns() {
    reply_at_once_after("kick");
}

#[test]
fn reply_is_in_the_ring_when_a_kick_by_send_returns() {
    reply_at_once_after("kick-send");
}

#[test]
fn reply_is_in_the_ring_when_a_kick_by_sendmsg_returns() {
    reply_at_once_after("kick-sendmsg");
}

#[test]
fn reply_is_in_the_ring_when_a_kick_by_write_returns() {
    reply_at_once_after("kick-write");
}

#[test]
fn a_kick_waits_for_a_receiver_without_room() {
    for how in ["slow", "restart", "nonblock", "limit", "signal"] {
        client("kick_full").arg(how).passes();
    }
}

#[test]
fn kicks_that_are_refused_leave_their_frame() {
    client("kick_refused").passes();
}

#[test]
fn musl_kicks_that_are_refused_leave_their_frame() {
    client("kick_refused").build(Build::Musl).passes();
}

#[test]
fn kicks_consume_stop_fail_and_leave_frames_as_the_kernel_did() {
    client("kick").passes();
}

#[test]
fn loader_of_many_requests_a_frame_gets_every_ack_once() {
    client("loader").passes();
}

#[test]
fn ordinary_sends_on_ring_sockets() {
    client("plain_send").passes();
}

#[test]
fn options_memberships_and_pollout() {
    client("options").passes();
}

#[test]
fn frame_is_read_once_while_a_thread_rewrites_it() {
    client("toctou").passes();
}

#[test]
fn the_first_message_of_a_process_has_its_credentials() {
    client("stranger").passes();
}
