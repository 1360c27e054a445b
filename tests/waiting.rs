//! Waiting for frames: library calls, raw system calls, spinning, several sockets, and waiting that costs nothing.

mod support;
use support::{Build, Mode, client};

fn wait_by(way: &str) {
    client("wait").arg(way).passes();
}

#[test]
fn poll() {
    wait_by("poll");
}

#[test]
fn ppoll() {
    wait_by("ppoll");
}

#[test]
fn select() {
    wait_by("select");
}

#[test]
fn pselect() {
    wait_by("pselect");
}

#[test]
fn epoll_wait() {
    wait_by("epoll_wait");
}

#[test]
fn epoll_pwait() {
    wait_by("epoll_pwait");
}

#[test]
fn epoll_pwait2() {
    client("wait").arg("epoll_pwait2").may_lack().passes();
}

#[test]
fn raw_poll() {
    wait_by("raw-poll");
}

#[test]
fn raw_ppoll() {
    wait_by("raw-ppoll");
}

#[test]
fn raw_epoll() {
    wait_by("raw-epoll");
}

#[test]
fn musl_epoll_wait() {
    client("wait").build(Build::Musl).arg("epoll_wait").passes();
}

#[test]
fn musl_select() {
    client("wait").build(Build::Musl).arg("select").passes();
}

#[test]
fn epoll_level() {
    client("epoll_modes").arg("level").passes();
}

#[test]
fn epoll_edge() {
    client("epoll_modes").arg("edge").passes();
}

#[test]
fn epoll_oneshot() {
    client("epoll_modes").arg("oneshot").passes();
}

#[test]
fn epoll_modified_registration() {
    client("epoll_modes").arg("modified").passes();
}

#[test]
fn epoll_registered_through_a_dup() {
    client("epoll_modes").arg("dup").passes();
}

#[test]
fn epoll_nested_in_other_waits() {
    client("epoll_modes").arg("nested").passes();
}

#[test]
fn epoll_registered_before_the_rings_were_set() {
    client("epoll_modes").arg("before-rings").passes();
    client("epoll_modes").arg("dup-before-rings").passes();
}

#[test]
fn several_sockets_and_a_pipe_in_poll() {
    client("several").arg("poll").passes();
}

#[test]
fn several_sockets_and_a_pipe_in_select() {
    client("several").arg("select").passes();
}

#[test]
fn several_sockets_and_a_pipe_in_epoll() {
    client("several").arg("epoll").passes();
}

#[test]
fn several_sockets_and_a_pipe_in_raw_epoll() {
    client("several").arg("raw-epoll").passes();
}

#[test]
fn select_with_time_out_zero_in_a_loop() {
    client("select_loop").passes();
}

#[test]
fn spinning_for_messages() {
    client("spin").arg("messages").passes();
}

#[test]
fn spinning_for_a_dump() {
    // 4.5 went on with a dump only when polled, so strict mode has no more than the first frame to show.
    client("spin").arg("dump").only(Mode::Default).passes();
}

#[test]
fn spinning_for_a_dump_larger_than_the_ring() {
    client("spin").arg("long-dump").only(Mode::Default).passes();
}

#[test]
fn idle_in_poll_costs_nothing() {
    client("idle").arg("poll").passes();
}

#[test]
fn idle_in_epoll_costs_nothing() {
    client("idle").arg("epoll_wait").passes();
}

#[test]
fn idle_in_raw_epoll_costs_nothing() {
    client("idle").arg("raw-epoll").passes();
}

#[test]
fn idle_with_frames_held_costs_nothing() {
    client("idle").arg("holding").passes();
}

#[test]
fn idle_without_any_call_costs_nothing() {
    client("idle").arg("sleep").passes();
}
