//! Packets of an NFQUEUE, judged through the rings, in a network namespace of our own.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sched::{CloneFlags, unshare};

use super::summary::Summary;
use super::{Missing, Stage, clients, quote, say};
use crate::program::search;
use crate::sys;

const QUEUE: &str = "7";
const PORT: &str = "4242";
/// Packets on their way at a time: a wake-up of the client finds many, and no socket buffer is ever full.
const BATCH: u32 = 50;
const BATCHES: u32 = 20;
const PACKETS: u32 = BATCH * BATCHES;

/// Sends numbered packets through the queue; the client accepts the even ones.
pub fn judged(stage: &Stage) -> anyhow::Result<()> {
    say("\n3. packets of an NFQUEUE, judged through the rings");
    let iptables = iptables()?;
    let inside = enter_namespace()?;
    say(format_args!("   in a network namespace of its own{inside}"));
    sys::loopback_up().context("cannot set the loopback interface up")?;
    let rule = format!("-I INPUT -i lo -p udp --dport {PORT} -j NFQUEUE --queue-num {QUEUE}");
    say(format_args!("   $ {} {rule}", iptables.file_name().unwrap_or_default().to_string_lossy()));
    add_rule(stage, &iptables, &rule)?;

    let total = PACKETS + 1;
    say(format_args!("   $ nlmmap run -- ./queue {QUEUE} {total}"));
    let mut client = clients::served(stage, "queue")
        .args([QUEUE, &total.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the client")?;
    let mut output = BufReader::new(client.stdout.take().context("no pipe from the client")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let traffic = match line.trim() {
        "ready" => traffic(),
        _ => Err(anyhow::anyhow!("the client did not get ready")),
    };
    let (printed, errors) = finish(client, output, traffic.is_err())?;
    let (summary, rest) = Summary::take(&errors);
    quote(&printed);
    quote(&rest);
    let (arrived, kernel) = traffic?;
    say(format_args!(
        "   sent {total} packets; {} arrived: exactly the even ones, in order, each with its bytes",
        arrived.len()
    ));
    say(format_args!("   the kernel {kernel}"));
    let Some(summary) = summary else { bail!("the library did not say what went through the rings") };
    summary.show();
    // Each packet is a message and a verdict; two requests and their acks come before.
    summary.check(1, u64::from(total) + 2)
}

fn iptables() -> Result<PathBuf, Missing> {
    const NAMES: [&str; 6] = [
        "iptables-legacy",
        "/usr/sbin/iptables-legacy",
        "/sbin/iptables-legacy",
        "iptables",
        "/usr/sbin/iptables",
        "/sbin/iptables",
    ];
    NAMES
        .iter()
        .find_map(|name| search::find(name.as_ref()).ok())
        .ok_or_else(|| Missing::new("iptables is not installed", "apt install iptables"))
}

/// Moves this process into a new network namespace; it goes away with the process and its children.
fn enter_namespace() -> anyhow::Result<&'static str> {
    if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok("");
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|e| {
        let cure = "run the demo as root, or allow user namespaces (sysctl user.max_user_namespaces)";
        Missing::new(format!("no network namespace can be made: {}", e.desc()), cure)
    })?;
    // A map of groups is allowed only after setgroups is given up (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").context("cannot give up setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("cannot map the user id")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("cannot map the group id")?;
    Ok(", inside a user namespace")
}

fn add_rule(stage: &Stage, iptables: &PathBuf, rule: &str) -> anyhow::Result<()> {
    let output = Command::new(iptables)
        .args(rule.split(' '))
        // The usual lock file may be out of reach, and nobody else is in this namespace.
        .env("XTABLES_LOCKFILE", stage.dir.join("xtables.lock"))
        .output()
        .with_context(|| format!("cannot start {}", iptables.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let cure = "apt install iptables, and a kernel with CONFIG_NETFILTER_XT_TARGET_NFQUEUE (modprobe xt_NFQUEUE)";
    Err(Missing::new(format!("iptables cannot make the rule: {text}"), cure).into())
}

/// Sends and receives; gives the numbers that arrived and what the kernel's queue counted.
fn traffic() -> anyhow::Result<(Vec<u32>, String)> {
    let receiver = UdpSocket::bind(("127.0.0.1", PORT.parse()?))?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(receiver.local_addr()?)?;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut arrived = Vec::new();
    let mut buffer = [0u8; 2048];
    for batch in 0..BATCHES {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        for number in numbers.clone() {
            sender.send(&payload(number))?;
        }
        for _ in numbers.filter(|n| n % 2 == 0) {
            arrived.push(receive(&receiver, &mut buffer).context("an accepted packet did not arrive")?);
        }
    }
    let kernel = kernel_counts()?;
    // The last one ends the client, whose queue had to be there for the counts.
    sender.send(&payload(PACKETS))?;
    arrived.push(receive(&receiver, &mut buffer).context("the last packet did not arrive")?);
    ensure!(
        arrived.iter().copied().eq((0..=PACKETS).step_by(2)),
        "other packets arrived than were accepted: {arrived:?}"
    );
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    ensure!(receive(&receiver, &mut buffer).is_err(), "a packet arrived that was not accepted");
    Ok((arrived, kernel))
}

/// A decimal number, then blanks up to a length of its own.
fn payload(number: u32) -> Vec<u8> {
    format!("{number:<width$}", width = 8 + (number as usize * 37) % 1400).into_bytes()
}

fn receive(receiver: &UdpSocket, buffer: &mut [u8]) -> anyhow::Result<u32> {
    let len = receiver.recv(buffer)?;
    let packet = buffer.get(..len).unwrap_or_default();
    let number = std::str::from_utf8(packet)?.trim_end().parse()?;
    ensure!(packet == payload(number), "packet {number} arrived with other bytes than were sent");
    Ok(number)
}

/// The queue's line: number, port id, waiting, copy mode, range, dropped for lack of room, dropped on the way to the
/// client, last packet id (`nfnetlink_queue.c`).
fn kernel_counts() -> anyhow::Result<String> {
    let text = match fs::read_to_string("/proc/self/net/netfilter/nfnetlink_queue") {
        // The file belongs to the machine's root, whoever the namespace belongs to.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return Ok("shows what it counted to root only".to_owned());
        }
        text => text.context("the kernel shows no queues")?,
    };
    let words: Vec<_> = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|w| w.first() == Some(&QUEUE))
        .context("the kernel does not show the queue")?;
    let count = |at: usize| -> anyhow::Result<u32> { Ok(words.get(at).context("a short line")?.parse()?) };
    let (queue_full, socket_full, packets) = (count(5)?, count(6)?, count(7)?);
    ensure!(packets == PACKETS, "the kernel queued {packets} packets");
    ensure!(
        queue_full + socket_full == 0,
        "the kernel dropped {queue_full} packets for lack of room, {socket_full} on the way"
    );
    Ok(format!(
        "queued {packets} packets before the last, none dropped for lack of room, none on the way to the client"
    ))
}

/// Lets the client end, or ends it, and gives the rest of what it wrote.
fn finish(mut client: Child, mut output: impl Read, failed: bool) -> anyhow::Result<(String, String)> {
    if failed {
        // It may have ended already, and is waited for below.
        let _ = client.kill();
    }
    let (mut printed, mut errors) = (String::new(), String::new());
    output.read_to_string(&mut printed)?;
    client.stderr.take().context("no pipe from the client")?.read_to_string(&mut errors)?;
    let status = client.wait()?;
    if !failed && !status.success() {
        quote(&errors);
        bail!("the client failed under nlmmap: {status}");
    }
    Ok((printed, errors))
}
