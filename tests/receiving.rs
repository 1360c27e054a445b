//! Receiving: copies by every call, tiny and odd geometries, large dumps, overruns, credentials, groups, threads.

mod support;
use support::{Mode, client};

fn copies_by(way: &str) {
    client("copy").arg(way).passes();
}

#[test]
fn copies_by_recv() {
    copies_by("recv");
}

#[test]
fn copies_by_recvfrom() {
    copies_by("recvfrom");
}

#[test]
fn copies_by_recvmsg() {
    copies_by("recvmsg");
}

#[test]
fn copies_by_recvmmsg() {
    copies_by("recvmmsg");
}

#[test]
fn copies_by_read() {
    copies_by("read");
}

#[test]
fn copies_by_readv() {
    copies_by("readv");
}

#[test]
fn copies_several_at_once_by_recvmmsg() {
    copies_by("many");
}

#[test]
fn copies_peeked() {
    copies_by("peek");
}

#[test]
fn copies_truncated() {
    copies_by("trunc");
}

#[test]
fn copies_without_blocking() {
    copies_by("dontwait");
}

#[test]
fn copies_with_a_receive_time_out() {
    copies_by("timeo");
}

#[test]
fn copies_by_a_blocking_recv() {
    copies_by("blocking");
}

#[test]
fn copies_and_valid_frames_in_one_order() {
    copies_by("between");
}

#[test]
fn frames_of_24_bytes_and_rings_of_one_frame() {
    client("tiny").passes();
}

/// 8 frames of 4096 bytes, a reader that takes its time over each.
#[test]
fn dump_of_100_000_routes_through_a_small_ring() {
    client("routes").arg("100000").arg("8").arg("4096").arg("4096").arg("200").seconds(180).passes();
}

#[test]
fn dump_of_5_000_routes_through_frames_of_16_kib() {
    client("routes").arg("5000").arg("8").arg("16384").arg("16384").passes();
}

#[test]
fn dump_asked_for_by_a_kick() {
    client("routes").arg("5000").arg("4").arg("16384").arg("8192").arg("0").arg("kick").passes();
}

#[test]
fn dump_through_frames_smaller_than_its_chunks() {
    client("routes").arg("3000").arg("4").arg("4096").arg("512").passes();
}

#[test]
fn dump_through_one_frame_of_64_kib() {
    client("routes").arg("20000").arg("1").arg("65536").arg("65536").passes();
}

#[test]
fn dump_through_a_ring_of_one_small_frame() {
    client("routes").arg("5000").arg("1").arg("4096").arg("4096").passes();
}

/// A plain loop with a buffer of a frame's size makes two calls a datagram, `poll` and `recv`; the ring's own summary counts
/// what it made.
#[test]
fn receiving_makes_no_more_system_calls_than_poll_and_recv() {
    let routes = client("routes").arg("50000").arg("32").arg("16384").arg("16384");
    for mode in [Mode::Default, Mode::Strict] {
        let outcome = routes.clone().log("info").run(Some(mode));
        assert!(outcome.success(), "{}", outcome.describe());
        let number = |word: &str| -> u64 {
            let before = outcome.stderr.split(&format!(" {word}")).next().unwrap_or_default();
            let number = before.rsplit([' ', ',']).next().unwrap_or_default();
            number.parse().unwrap_or_else(|_| panic!("no number of {word} in the summary: {}", outcome.stderr))
        };
        let (datagrams, calls) = (number("frames").max(number("datagrams")), number("system calls"));
        assert!(datagrams > 50, "{}", outcome.stderr);
        assert!(
            calls <= 2 * datagrams + 64,
            "{mode:?}: {calls} system calls for {datagrams} datagrams: {}",
            outcome.stderr
        );
    }
}

#[test]
fn overrun_is_told_once_and_recovered_from() {
    client("overrun").passes();
}

#[test]
fn overrun_with_no_enobufs_is_not_told() {
    client("overrun").arg("no-enobufs").passes();
}

/// As many messages and as few `ENOBUFS` as ordinary sockets have of the same flood.
fn beside_plain_sockets(sockets: u32) {
    client("beside").arg(sockets.to_string()).passes();
}

#[test]
fn one_ring_loses_and_tells_no_more_than_a_plain_socket() {
    beside_plain_sockets(1);
}

#[test]
fn eight_rings_lose_and_tell_no_more_than_plain_sockets() {
    beside_plain_sockets(8);
}

#[test]
fn sixty_four_rings_lose_and_tell_no_more_than_plain_sockets() {
    beside_plain_sockets(64);
}

#[test]
fn credentials_and_groups_are_true() {
    client("creds").passes();
}

#[test]
fn ancillary_data_only_for_those_who_asked() {
    client("ancillary").passes();
}

/// What `recvmsg` alone can tell of where an event came from, asked for in three ways.
#[test]
fn namespaces_of_events_are_told() {
    for when in ["before", "after", "raw"] {
        client("nsid").arg(when).passes();
    }
}

#[test]
fn groups_above_32() {
    client("groups").may_lack().passes();
}

#[test]
fn skip_and_workers_that_release_in_any_order() {
    client("skip").passes();
}

#[test]
fn skip_at_the_head_is_never_written_over() {
    client("skip_head").passes();
}

#[test]
fn several_threads_wait() {
    client("threads").arg("wait").passes();
}

#[test]
fn several_threads_receive() {
    client("threads").arg("receive").passes();
}

#[test]
fn several_threads_kick() {
    client("threads").arg("kick").passes();
}

#[test]
fn bytes_behind_a_message_are_nobody_elses() {
    client("leak").passes();
}

#[test]
fn multicasts_fan_out_to_rings_and_plain_sockets() {
    client("fanout").passes();
}

#[test]
fn multicasts_pass_a_tap() {
    client("fanout").arg("tap").may_lack().only(Mode::Default).passes();
}

/// What a client that never reads says with this level of log: the library's lines, without process and descriptor numbers.
fn lines_of(mode: Mode, level: &str, end: &str) -> Vec<String> {
    let outcome = client("recv_lost").arg(end).log(level).run(Some(mode));
    assert!(outcome.success(), "{mode:?} {level} {end}: {}", outcome.describe());
    let text = |line: &str| line.split_once(": ").map(|(_, text)| text.to_string());
    outcome.stderr.lines().filter(|line| line.starts_with("nlmmap[")).filter_map(text).collect()
}

/// 13 acknowledgements into a ring of 8 frames in 2 blocks.
#[test]
fn first_message_that_a_full_ring_loses_or_holds_is_told() {
    let ring = "the ring is full (8 frames of 1024 bytes, 8192 bytes; none released); release frames sooner, or set at least \
                12 frames (3 blocks, 12288 bytes)";
    for (mode, what) in [(Mode::Default, "messages wait in the socket"), (Mode::Strict, "1 message(s) lost so far")] {
        let lines = lines_of(mode, "warn", "return");
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = &lines[0];
        assert!(line.starts_with("warn: fd ") && line.ends_with(&format!(": {what}: {ring}")), "{line}");
        for level in ["off", "error"] {
            assert_eq!(lines_of(mode, level, "return"), Vec::<String>::new(), "{mode:?} {level}");
        }
    }
}

#[test]
fn a_loss_of_the_kernels_is_told() {
    for mode in [Mode::Default, Mode::Strict] {
        let lines = lines_of(mode, "warn", "flood");
        assert!(lines.iter().any(|line| line.contains("the kernel has lost messages (1 times so far)")), "{lines:?}");
        assert!(lines.len() < 20, "{lines:?}");
    }
    // The ring's own losses, told before, do not hide the kernel's first.
    let lines = lines_of(Mode::Strict, "warn", "lose-flood");
    assert!(lines.iter().any(|line| line.contains(": 1 message(s) lost so far: the ring is full")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("the kernel has lost messages (1 times so far)")), "{lines:?}");
}

#[test]
fn counters_are_told_however_the_program_ends() {
    for mode in [Mode::Default, Mode::Strict] {
        for (end, said) in [
            ("close", " closed: "),
            ("return", " open at exit: "),
            ("exit", " open at exit: "),
            ("_exit", " open at exit: "),
        ] {
            let lines = lines_of(mode, "info", end);
            let told: Vec<_> = lines.iter().filter(|line| line.contains("family 0, rx 8 frames")).collect();
            assert!(told.len() == 1 && told[0].contains(said), "{mode:?} {end}: {lines:?}");
        }
        // What nobody is left to say, and what is not this process's to say.
        for end in ["exec", "child"] {
            let lines = lines_of(mode, "info", end);
            assert!(!lines.iter().any(|line| line.contains("family 0")), "{mode:?} {end}: {lines:?}");
        }
    }
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    for mode in [Mode::Default, Mode::Strict] {
        assert_eq!(lines_of(mode, "debug", "full-pipe"), Vec::<String>::new());
    }
}

/// Every call and every state of the ring, in one way to end a blocking receive.
fn blocked_until(end: &str) {
    client("recv_ends").arg(end).passes();
}

#[test]
fn blocked_not_at_all() {
    blocked_until("at-once");
}

#[test]
fn blocked_until_the_time_is_up() {
    blocked_until("time");
}

#[test]
fn blocked_until_the_time_is_up_while_frames_come() {
    blocked_until("under-fire");
}

#[test]
fn blocked_until_a_signal() {
    blocked_until("signal");
}

#[test]
fn blocked_until_a_signal_that_restarts_nothing_with_a_time_limit() {
    blocked_until("limited-signal");
}

#[test]
fn blocked_beyond_a_signal_that_restarts() {
    blocked_until("restart");
}

#[test]
fn blocked_until_a_message_or_an_error() {
    blocked_until("message");
}

#[test]
fn blocked_until_cancelled() {
    blocked_until("cancelled");
}

#[test]
fn blocked_until_a_handler_jumps() {
    blocked_until("jump");
}

#[test]
fn blocked_beyond_the_last_close() {
    blocked_until("close");
}

#[test]
fn blocked_beyond_a_shutdown() {
    blocked_until("shutdown");
}

#[test]
fn receives_answer_as_on_a_plain_socket() {
    client("recv_same").passes();
}

#[test]
fn receives_beside_waits_by_the_library() {
    for wait in ["poll", "select", "epoll_wait"] {
        client("recv_beside").arg(wait).passes();
    }
}

#[test]
fn receives_beside_waits_by_raw_calls() {
    for wait in ["raw-ppoll", "raw-epoll"] {
        client("recv_beside").arg(wait).passes();
    }
}
