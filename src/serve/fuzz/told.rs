//! For the fuzz target `told`: what others tell the daemon and the command beside requests. `/metrics` is asked by anybody on this
//! machine, packets come from workers that are in their clients' hands, pages and copies from any program that has rings.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno as Os;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nlmmap_ring::card::{Page, Totals};
use nlmmap_ring::tap::{self, Tap};

use crate::see::copies::Copies;
use crate::see::live::History;
use crate::see::{cause, pcapng, prometheus, seen};
use crate::serve::memory;
use crate::serve::metrics::http::{self, Answer};
use crate::serve::stat::Snapshot;
use crate::serve::worker::wire::{self, Receiver};

/// Descriptors with one packet, at most.
const FDS: usize = 24;

/// One input: its first byte says to whom it is told.
pub fn run(bytes: &[u8]) {
    let Some((&whom, bytes)) = bytes.split_first() else { return };
    match whom % 5 {
        0 => metrics(bytes),
        1 => packets(bytes),
        2 => answer(bytes),
        3 => page(bytes),
        _ => copies(bytes),
    }
}

/// A request, as it comes in: once it is answered it has been said, whatever comes after it.
fn metrics(bytes: &[u8]) {
    let bytes = bytes.get(..http::HEAD).unwrap_or(bytes);
    let mut said = None;
    for len in 0..=bytes.len() {
        let answer = http::judge(bytes.get(..len).unwrap_or_default());
        if let Some(Answer::Metrics(_)) = said {
            assert_eq!(answer, said);
        }
        said = answer;
    }
    match said {
        Some(Answer::Refusal(status, more, text)) => {
            let whole = http::refusal(status, more, text);
            assert!(whole.starts_with(b"HTTP/1.1 4") && whole.ends_with(text.as_bytes()));
        }
        Some(Answer::Metrics(_)) => assert!(bytes.windows(4).any(|end| end == b"\r\n\r\n" || end.contains(&b'\n'))),
        None => {}
    }
}

/// Descriptors of this process.
fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Packets, each of a length and so many descriptors: those that come are what was sent, none stays open.
fn packets(mut bytes: &[u8]) {
    let Ok((front, back)) = wire::channel() else { return };
    let (before, mut receiver) = (open(), Receiver::new());
    let memory = memory::new().unwrap_or_else(|error| panic!("{error}"));
    let any: [&OwnedFd; 3] = [&front, &back, &memory];
    while let Some((&[len, fds, which], rest)) = bytes.split_first_chunk() {
        let (now, rest) = rest.split_at(rest.len().min(usize::from(len) * 2));
        bytes = rest;
        let number = |i: usize| any.get((i + usize::from(which)) % any.len()).map_or(-1, |fd| fd.as_raw_fd());
        let numbers: Vec<i32> = (0..usize::from(fds) % FDS).map(number).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &rights };
        let parts = [IoSlice::new(now)];
        if now.is_empty() || sendmsg::<()>(back.as_raw_fd(), &parts, control, MsgFlags::MSG_DONTWAIT, None).is_err() {
            break;
        }
        match receiver.receive(front.as_fd()) {
            Ok(Some(packet)) => {
                assert!(packet.fds.len() <= numbers.len(), "more descriptors than were sent");
                // What a capture does with memory that it is handed.
                let judged = packet.fds.iter().filter(|fd| memory::judge(fd, tap::LEN).is_ok()).count();
                assert_eq!(judged, 0, "memory that can be taken away");
            }
            Ok(None) => panic!("the channel has ended"),
            Err(error) => assert_eq!(error, Os::EBADMSG),
        }
    }
    drop(memory);
    assert_eq!(open(), before, "descriptors stay open");
}

/// Lines for Prometheus: nobody can put one of his own there.
fn check(text: &str) {
    for line in text.lines() {
        assert!(line.starts_with("nlmmap_") || line.starts_with("# "), "{line:?}");
    }
}

/// What a daemon has answered, or somebody in its place.
fn answer(bytes: &[u8]) {
    let Ok(snapshot) = serde_json::from_slice::<Snapshot>(bytes) else { return };
    check(&prometheus::text(Some(&snapshot), std::iter::empty()));
    let again = serde_json::to_vec(&snapshot).unwrap_or_else(|error| panic!("{error}"));
    assert!(serde_json::from_slice::<Snapshot>(&again).is_ok());
}

/// An endpoint's page, or what a command's endpoints add up to: two looks, the second at other words.
fn page(bytes: &[u8]) {
    let (mut page, mut totals) = (Page::default(), Totals::default());
    let mut history = History::default();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let now = Instant::now();
    for (i, part) in [first, second].into_iter().enumerate() {
        // Words that differ are few, wherever they are.
        for word in part.chunks_exact(6) {
            let at = usize::from(u16::from_ne_bytes([word[0], word[1]])) * 4 % size_of::<Page>();
            if let Some(to) = page.bytes_mut().get_mut(at..at + 4) {
                to.copy_from_slice(&word[2..]);
            }
            if let Some(to) = totals.bytes_mut().get_mut(at..at + 4) {
                to.copy_from_slice(&word[2..]);
            }
        }
        page.card.version.store(nlmmap_ring::card::VERSION, std::sync::atomic::Ordering::Relaxed);
        let Some(seen) = seen::read(&page) else { panic!("of this version") };
        assert!(!seen.command.chars().any(char::is_control));
        assert!(seen.rx.is_none_or(|ring| seen.occupied <= ring.frames));
        history.note(now + Duration::from_millis(250 * i as u64), &seen);
        let (_, _) = (history.rates(), history.lag());
        history.minute(20);
        cause::causes(&seen);
        check(&prometheus::text(None, std::iter::once(("1.1", &seen))));
    }
    for record in &totals.records {
        let seen = seen::recorded(record);
        cause::causes(&seen);
        let _ = seen.counts.and(&seen.counts).calls_saved();
    }
}

/// A file of copies, written by somebody else.
fn copies(bytes: &[u8]) {
    let Some((&[head, skew], bytes)) = bytes.split_first_chunk() else { return };
    let file = File::from(memory::new().unwrap_or_else(|error| panic!("{error}")));
    let mut tap = Tap::default();
    *tap.version.get_mut() = tap::VERSION;
    // What was written, more, less, or anything.
    let ready = match head % 4 {
        0 | 1 => bytes.len() as u64 & !63,
        2 => bytes.len() as u64 + u64::from(skew),
        _ => u64::from(skew) << (head / 4 % 64),
    };
    *tap.head.get_mut() = ready;
    let whole = file.set_len(tap::LEN as u64).and_then(|()| file.write_all_at(tap.bytes_mut(), 0));
    whole
        .and_then(|()| file.write_all_at(bytes, nlmmap_ring::sys::PAGE as u64))
        .unwrap_or_else(|error| panic!("{error}"));
    let mut copies = Copies::new(file);
    let mut to = Vec::new();
    for _ in 0..8 {
        let more = copies.each(|passed| {
            let packet = pcapng::Packet {
                interface: 0,
                time: passed.record.time,
                way: pcapng::Way::In,
                family: 0,
                bytes: passed.bytes,
                whole: passed.record.whole,
                comment: "",
                dropped: 0,
            };
            if to.len() < 1 << 20 { pcapng::packet(&mut to, &packet) } else { Err(io::Error::other("enough")) }
        });
        if !matches!(more, Ok(true)) {
            break;
        }
    }
    let _ = copies.dropped();
}
