//! Endpoints as Prometheus reads them: the text format, version 0.0.4.

use std::fmt::Write;

use super::seen::{Seen, family};
use crate::serve::stat::Snapshot;

/// One endpoint's labels and values, in the order of [`METRICS`]; none where it is not known.
struct Row {
    labels: String,
    values: [Option<u64>; METRICS.len()],
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// Name, type, meaning.
const METRICS: [(&str, &str, &str); 15] = [
    ("rx_frames_total", COUNTER, "Frames given to the client as VALID"),
    ("rx_datagrams_total", COUNTER, "Datagrams received from the kernel's socket"),
    ("rx_copies_total", COUNTER, "Messages that travelled by COPY, which the client had to read"),
    ("overruns_total", COUNTER, "Losses, by the kernel's ENOBUFS or by a full ring"),
    ("tx_frames_total", COUNTER, "Frames sent"),
    ("system_calls_total", COUNTER, "System calls made on the real socket"),
    ("kernel_overruns_total", COUNTER, "Of the losses, those by the kernel's ENOBUFS"),
    ("unread_overruns_total", COUNTER, "Of the losses, those beside a ring with room: COPY messages were not read"),
    ("held_total", COUNTER, "Looks that found messages waiting behind a full ring"),
    ("policy_drops_total", COUNTER, "Messages that a rule of the daemon's policy does not name for receive"),
    ("rx_ring_frames", GAUGE, "Frames of the RX ring"),
    ("rx_occupied_frames", GAUGE, "RX frames filled and not known to be released"),
    ("tx_ring_frames", GAUGE, "Frames of the TX ring"),
    ("copies_waiting", GAUGE, "COPY messages that wait for the client's recv"),
    ("blocked", GAUGE, "1 while messages wait in the socket behind a full ring"),
];

/// Of the daemon as a whole.
const DAEMON: [(&str, &str); 6] = [
    ("opens", "Open files"),
    ("opens_limit", "Open files that are allowed"),
    ("ring_bytes", "Bytes of all rings"),
    ("ring_bytes_limit", "Bytes of all rings that are allowed"),
    ("descriptors", "Descriptors that open files take"),
    ("descriptors_limit", "Descriptors that open files may take"),
];

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

fn labels(all: &[(&str, &str)]) -> String {
    let each: Vec<String> = all.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    each.join(",")
}

fn of_process(id: &str, seen: &Seen) -> Row {
    let c = &seen.counts;
    let (pid, uid, fd) = (seen.pid.to_string(), seen.uid.to_string(), seen.fd.to_string());
    Row {
        labels: labels(&[
            ("source", "process"),
            ("endpoint", id),
            ("pid", &pid),
            ("uid", &uid),
            ("command", &seen.command),
            ("fd", &fd),
            ("family", &family(seen.family)),
        ]),
        values: [
            Some(c.rx_frames),
            Some(c.rx_datagrams),
            Some(c.rx_copies),
            Some(c.overruns),
            Some(c.tx_frames),
            Some(c.system_calls),
            Some(c.lost_by_kernel),
            Some(c.lost_unread),
            Some(c.held),
            None,
            seen.rx.map(|ring| ring.frames.into()),
            seen.rx.map(|_| seen.occupied.into()),
            seen.tx.map(|ring| ring.frames.into()),
            Some(seen.copies_waiting.into()),
            Some(seen.blocked.into()),
        ],
    }
}

fn of_daemon(daemon: &Snapshot) -> impl Iterator<Item = Row> {
    daemon.endpoints.iter().map(|e| Row {
        labels: labels(&[
            ("source", "daemon"),
            ("daemon", &daemon.name),
            ("endpoint", &format!("{}:{}", daemon.name, e.handle)),
            ("pid", &e.pid.to_string()),
            ("uid", &e.uid.to_string()),
            ("command", &e.command),
            ("family", &e.family.map(family).unwrap_or_default()),
        ]),
        values: [
            Some(e.rx_frames),
            Some(e.rx_datagrams),
            Some(e.rx_copies),
            Some(e.overruns),
            Some(e.tx_frames),
            Some(e.system_calls),
            Some(e.lost_by_kernel),
            Some(e.lost_unread),
            Some(e.held),
            Some(e.policy_drops),
            e.rx.as_ref().map(|ring| ring.frames.into()),
            e.rx.as_ref().map(|_| e.occupied.into()),
            e.tx.as_ref().map(|ring| ring.frames.into()),
            Some(e.copies_waiting.into()),
            Some(e.blocked.into()),
        ],
    })
}

/// All of them, metric by metric.
pub fn text<'a>(daemon: Option<&Snapshot>, processes: impl Iterator<Item = (&'a str, &'a Seen)>) -> String {
    let mut rows: Vec<Row> = processes.map(|(id, seen)| of_process(id, seen)).collect();
    rows.extend(daemon.into_iter().flat_map(of_daemon));
    let mut text = String::new();
    if let Some(daemon) = daemon {
        let limits = &daemon.limits;
        let values = [
            daemon.opens.into(),
            limits.opens.into(),
            daemon.ring_bytes,
            limits.ring_bytes,
            daemon.descriptors,
            limits.descriptors,
        ];
        let whose = labels(&[("daemon", &daemon.name), ("pid", &daemon.pid.to_string())]);
        for ((name, meaning), value) in DAEMON.iter().zip::<[u64; 6]>(values) {
            let _ = writeln!(text, "# HELP nlmmap_daemon_{name} {meaning}\n# TYPE nlmmap_daemon_{name} gauge");
            let _ = writeln!(text, "nlmmap_daemon_{name}{{{whose}}} {value}");
        }
    }
    for (i, (name, kind, meaning)) in METRICS.iter().enumerate() {
        let _ = writeln!(text, "# HELP nlmmap_{name} {meaning}\n# TYPE nlmmap_{name} {kind}");
        for Row { labels, values } in &rows {
            if let Some(value) = values.get(i).copied().flatten() {
                let _ = writeln!(text, "nlmmap_{name}{{{labels}}} {value}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::see::seen;
    use nlmmap_ring::card::Record;

    #[test]
    fn a_name_cannot_end_its_label() {
        let mut seen = seen::recorded(&Record::default());
        seen.command = "a\"} 1\nb\\".to_owned();
        let text = text(None, std::iter::once(("1.1", &seen)));
        assert!(text.contains(r#"command="a\"} 1\nb\\","#), "{text}");
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(samples.iter().all(|line| line.starts_with("nlmmap_")), "{text}");
    }
}
