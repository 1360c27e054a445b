//! A hostile client beside a witness, who must notice nothing: each request of his is answered once, in order, in time.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cage::{MemoryCage, limit_descriptors};
use crate::daemon::{Daemon, Place, client, passes};
use crate::support::patient;

/// Seconds that a request of a witness may take at most. Generous: the machine may be busy; an attack that works makes it minutes.
pub const PATIENCE: u64 = 10;
const NOBODY: u32 = 65534;

/// A client that goes on beside the test. Ended with it.
pub struct Beside(pub Child);

impl Beside {
    pub fn start(command: &mut Command) -> Beside {
        Beside(command.stdout(Stdio::piped()).spawn().expect("a client"))
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let out = self.0.stdout.as_mut().expect("a pipe");
        // Byte by byte: nothing behind the line is taken.
        let mut byte = [0];
        while !line.ends_with('\n') && out.read(&mut byte).expect("its output") == 1 {
            line.push(char::from(byte[0]));
        }
        line
    }

    /// Waits for its end.
    pub fn succeeds(&mut self) -> bool {
        self.0.wait().expect("it ends").success()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn witness(place: &Place, seconds: u32) -> Beside {
    let mut witness = Beside::start(client("device_witness").arg(place.node()).arg(seconds.to_string()));
    assert_eq!(witness.line(), "ready\n");
    witness
}

/// The witness's report: nothing lost, nothing late.
#[track_caller]
pub fn unharmed(mut witness: Beside, daemon: &Daemon<'_>) {
    let line = witness.line();
    let status = witness.0.wait().expect("it ends");
    assert!(status.success(), "the witness: {status}\n{}", daemon.tail());
    let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.trim().parse().ok()).collect();
    assert!(
        numbers.len() == 4 && numbers[0] >= 10.0 && numbers[3] < patient(PATIENCE).as_secs_f64() * 1e6,
        "{line}\n{}",
        daemon.tail()
    );
}

fn greedy(place: &Place, uid: u32, args: &[&str]) -> Beside {
    Beside::start(client("device_greedy").arg(place.node()).args(args).uid(uid).gid(uid))
}

#[test]
fn rings_that_do_not_fit_into_the_memory_are_refused_and_kill_nobody() {
    // By the defaults, and with limits far beyond what there is.
    for config in ["", "[limits]\nring_bytes = 8589934592\nring_bytes_per_open = 67108864\n"] {
        let Some(cage) = MemoryCage::new(300 << 20) else {
            return;
        };
        let place = Place::with_config(config);
        let daemon = place.start_as(|command| cage.put(command));
        let witness = witness(&place, 3);
        // Five of 64 MiB, as an attacker would; and then as many of 16 MiB as there is room for.
        let mut large = greedy(&place, NOBODY, &["rings", "64"]);
        let got = large.line();
        assert!(got.ends_with("then ENOMEM\n"), "{got}");
        let mut small = greedy(&place, NOBODY, &["rings", "16"]);
        assert!(small.line().ends_with("then ENOMEM\n"));
        let stat = daemon.stat();
        let bytes = stat["ring_bytes"].as_u64().expect("a number");
        assert!(bytes > 0 && bytes < 252 << 20, "{stat}");
        let log = daemon.log();
        daemon.says("exceed the ");
        assert_eq!(log.contains("ring_bytes = 8589934592, but this machine"), !config.is_empty(), "{log}");
        unharmed(witness, &daemon);
        drop((large, small));
        daemon.wait_for_opens(0);
        passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
        daemon.stop();
    }
}

#[test]
fn one_user_cannot_take_all_descriptors_and_root_finds_some() {
    let place = Place::new();
    let daemon = place.start_as(|command| limit_descriptors(command, 1024));
    let witness = witness(&place, 3);
    let mut first = greedy(&place, NOBODY, &["opens"]);
    assert!(first.line().ends_with("then EMFILE\n"));
    let mut second = greedy(&place, NOBODY - 1, &["opens"]);
    assert!(second.line().ends_with("then ENFILE\n"));
    // The node, and the control socket, for whoever comes to look.
    let stat = daemon.stat();
    assert!(stat["descriptors"].as_u64() < Some(900), "{stat}");
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    daemon.says("the limit descriptors_per_uid = 448: raise");
    daemon.says("the limit descriptors = 896: raise LimitNOFILE= of the unit");
    unharmed(witness, &daemon);
    drop((first, second));
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn too_few_descriptors_are_said_at_the_start() {
    let place = Place::with_config("[limits]\nopens = 5000\n");
    let daemon = place.start_as(|command| limit_descriptors(command, 1024));
    daemon.says("opens = 5000, but 896 descriptors are enough for 298: raise LimitNOFILE=");
    daemon.stop();
}

#[test]
fn nobody_waits_for_a_log_that_nobody_reads() {
    let place = Place::with_config("[limits]\nopens_per_uid = 1\n");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    fill(&writer);
    let daemon = place.start_as(|command| {
        command.stderr(writer.try_clone().expect("a descriptor"));
    });
    drop(writer);
    let witness = witness(&place, 2);
    // Two users, one of them refused again and again; at `--log debug` each open is a line as well.
    let mut held = greedy(&place, NOBODY, &["opens"]);
    assert!(held.line().ends_with("then EMFILE\n"));
    let mut flood = greedy(&place, NOBODY, &["refused", "20000"]);
    assert!(flood.0.wait().expect("it ends").success());
    unharmed(witness, &daemon);
    drop(held);
    let before = Instant::now();
    daemon.stop();
    assert!(before.elapsed() < patient(30));
    drop(reader);
}

#[test]
fn what_a_log_could_not_hold_is_told_once_it_is_read() {
    let place = Place::with_config("[limits]\nopens_per_uid = 2\n");
    let daemon = place.start();
    let mut held = greedy(&place, NOBODY, &["opens"]);
    assert!(held.line().ends_with("then EMFILE\n"));
    let mut flood = greedy(&place, NOBODY, &["refused", "3000"]);
    assert!(flood.0.wait().expect("it ends").success());
    // Another user's refusal is not lost in the flood.
    let mut other = greedy(&place, NOBODY - 1, &["opens"]);
    assert!(other.line().ends_with("then EMFILE\n"));
    let until = Instant::now() + patient(20);
    while !daemon.log().contains("further refusals were not logged") {
        assert!(Instant::now() < until, "{}", daemon.tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    let of = |uid: u32| {
        let log = daemon.log();
        log.lines().filter(|l| l.contains("refused: ") && l.contains(&format!("uid={uid}"))).count()
    };
    // The log has a thread of its own.
    while of(NOBODY - 1) == 0 {
        assert!(Instant::now() < until, "{}", daemon.tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(of(NOBODY) < 500, "{} lines", of(NOBODY));
    assert_eq!(of(NOBODY - 1), 1, "{}", daemon.tail());
    drop((held, other));
    daemon.wait_for_opens(0);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
}

#[test]
fn a_killed_reader_of_a_shared_open_file_is_gone_soon() {
    let place = Place::new();
    let daemon = place.start();
    passes(client("device_shared").arg(place.node()).uid(NOBODY), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn holes_in_rings_hurt_nobody() {
    let place = Place::new();
    let daemon = place.start();
    let witness = witness(&place, 2);
    passes(client("device_holes").arg(place.node()).uid(NOBODY), &daemon);
    unharmed(witness, &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// Memory of a process, its own and shared, in KiB.
fn memory(pid: u64) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the worker's status");
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    of("RssAnon:") + of("RssShmem:")
}

/// Of messages that no frame holds and nobody receives an open file keeps about a mebibyte; the rest waits in its socket, where the
/// kernel bounds it as on a socket of the client's own.
#[test]
fn copies_that_nobody_receives_take_a_bounded_memory() {
    const OPENS: u64 = 16;
    let place = Place::new();
    let daemon = place.start();
    let used = |mib: &str| {
        let mut command = client("device_unread");
        command.arg(place.node()).args([&OPENS.to_string(), mib]).uid(NOBODY).stdin(Stdio::piped());
        let mut client = Beside::start(&mut command);
        let line = client.line();
        let taken: u64 =
            line.trim().strip_prefix("full ").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
        let stat = daemon.stat();
        let worker = stat["endpoints"][0]["worker"].as_u64().expect("a worker");
        let used = memory(worker);
        // Or else a machine that gives large pages unasked makes megabytes of every bit of it.
        let status = fs::read_to_string(format!("/proc/{worker}/status")).expect("the worker's status");
        assert!(status.contains("THP_enabled:\t0\n"), "{status}");
        drop(client.0.stdin.take());
        assert!(client.succeeds());
        daemon.wait_for_opens(0);
        (taken * 6000, used)
    };
    let ((_, few), (taken, many)) = (used("0"), used("64"));
    assert!(taken > 1 << 20, "more was sent than is kept: {taken}");
    assert!(taken < 16 << 20, "the kernel bounds the rest: {taken}");
    assert!(many < few + OPENS * 2048, "{OPENS} open files: {few} KiB, and {many} KiB with messages");
    daemon.stop();
}

#[test]
fn long_messages_for_policy_hold_nobody_up() {
    let rule = format!("[[policy.rule]]\nusers = [{NOBODY}]\nfamily = \"route\"\nsend = [\"getlink\"]\n");
    let place = Place::with_config(&rule);
    let daemon = place.start();
    let witness = witness(&place, 2);
    let mut judged: Vec<Beside> = (0..4).map(|_| greedy(&place, NOBODY, &["judged", "12"])).collect();
    unharmed(witness, &daemon);
    for client in &mut judged {
        assert!(client.0.wait().expect("it ends").success(), "{}", daemon.tail());
    }
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// Fills a pipe to the last byte.
fn fill(writer: &std::io::PipeWriter) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("flags");
    for size in [4096, 1] {
        while nix::unistd::write(writer, &vec![b'.'; size]).is_ok() {}
    }
    fcntl(writer, FcntlArg::F_SETFL(OFlag::empty())).expect("flags");
}
