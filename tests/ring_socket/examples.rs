//! The examples that people start from, on real input.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nlmmap::{Family, RingSocket};

use crate::wire::*;

/// Where the examples are, built once. `NLMMAP_EXAMPLES` names those built before, for machines without cargo.
fn examples() -> PathBuf {
    if let Some(built) = std::env::var_os("NLMMAP_EXAMPLES") {
        return PathBuf::from(built);
    }
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory").to_owned();
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "--package", "nlmmap", "--examples", "--target-dir"]).arg(&target);
        let status = command.current_dir(crate::support::repository()).status().expect("cargo starts");
        assert!(status.success(), "the examples do not build");
        target.join("debug/examples")
    });
    built.clone()
}

/// A running example, and the lines it prints.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// In the namespace of this thread.
    pub fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the example starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines }
    }

    pub fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("the example prints a line")
    }

    /// Until one holds what is looked for.
    pub fn line_with(&self, what: &str) -> String {
        std::iter::repeat_with(|| self.line()).find(|line| line.contains(what)).expect("an endless iterator")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Packets to the refused port are dropped, all others pass.
pub fn judges(command: &mut Command) {
    judges_with(command, &[]);
}

pub fn judges_with(command: &mut Command, more: &[&std::ffi::OsStr]) {
    in_namespace(|| {
        sh("ip link set lo up; iptables-legacy -A OUTPUT -p udp -j NFQUEUE --queue-num 7");
        let judge = Running::start(command.args(["7", "9999"]).args(more));
        assert_eq!(judge.line(), "judging queue 7");
        let receivers = [9998, 9999].map(|port| UdpSocket::bind(("127.0.0.1", port)).unwrap());
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for number in 0..200 {
            let port = if number % 3 == 0 { 9999 } else { 9998 };
            sender.send_to(&pattern(number, 80), ("127.0.0.1", port)).unwrap();
        }
        receivers[0].set_read_timeout(Some(LIMIT)).unwrap();
        let mut bytes = [0; 100];
        for number in (0..200).filter(|n| n % 3 != 0) {
            assert_eq!(receivers[0].recv(&mut bytes).expect("it was accepted"), 80);
            assert_eq!(u32_at(&bytes, 0), number);
        }
        // The last packet that passed was judged after all that were refused, but one.
        receivers[1].set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(receivers[1].recv(&mut bytes).is_err(), "a packet to the refused port has passed");
    });
}

#[test]
fn nfqueue_verdict() {
    judges(&mut Command::new(examples().join("nfqueue_verdict")));
}

#[test]
fn nfqueue_verdict_says_what_is_wrong() {
    let run = |arguments: &[&str]| {
        let output = Command::new(examples().join("nfqueue_verdict")).args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(&[]).contains("usage: nfqueue_verdict"));
    assert!(run(&["1", "x"]).contains("usage: nfqueue_verdict"));
}

#[test]
fn conntrack_flows() {
    in_namespace(|| {
        // The second rule makes the kernel track connections here.
        sh("ip link set lo up; echo 1 > /proc/sys/net/netfilter/nf_conntrack_events
            iptables-legacy -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT");
        let mut flows = Running::start(Command::new(examples().join("conntrack_flows")).stderr(Stdio::piped()));
        // It has joined its groups once it says so.
        let mut said = String::new();
        BufReader::new(flows.child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "waiting for connections\n");
        let receiver = UdpSocket::bind("127.0.0.1:9999").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&flows.line()).expect("JSON");
        assert_eq!(line["event"], "new");
        assert_eq!((&line["source"], &line["destination"]), (&"127.0.0.1".into(), &"127.0.0.1".into()));
        assert_eq!((&line["protocol"], &line["destination_port"]), (&17.into(), &9999.into()));
        assert_eq!(line["source_port"], sender.local_addr().unwrap().port());
        // IPCTNL_MSG_CT_DELETE of all.
        let socket = RingSocket::builder(Family::NETFILTER).build().unwrap();
        socket.send(&message(1 << 8 | 2, NLM_F_REQUEST | NLM_F_ACK, 1, &[&[2, 0, 0, 0]])).unwrap();
        assert_eq!(acknowledgement(&next(&socket)), 0);
        let line: serde_json::Value = serde_json::from_str(&flows.line_with("9999")).expect("JSON");
        assert_eq!(line["event"], "end");
    });
}

#[test]
fn link_monitor() {
    in_namespace(|| {
        sh("ip link add nlm0 type bridge");
        let monitor = Running::start(&mut Command::new(examples().join("link_monitor")));
        assert_eq!(monitor.line(), "lo: down, 65536 bytes");
        assert_eq!(monitor.line(), "nlm0: down, 1500 bytes");
        sh("ip link set nlm0 up mtu 1400");
        assert_eq!(monitor.line_with("1400"), "nlm0: down, 1400 bytes");
        assert_eq!(monitor.line_with("up"), "nlm0: up, 1400 bytes");
        // Many at once: more than one wake-up brings.
        sh("for i in $(seq 1 150); do echo link add nlx$i type bridge; done | ip -batch -");
        for number in 1..=150 {
            let name = format!("nlx{number}:");
            assert!(monitor.line_with(&name).starts_with(&name));
        }
        sh("ip link del nlm0");
        assert_eq!(monitor.line_with("gone"), "nlm0: gone");
    });
}
