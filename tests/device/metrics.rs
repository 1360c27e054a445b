//! `/metrics` of a daemon, asked by curl and by clients that mean no good.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::daemon::{Daemon, Place, client, output, passes};
use crate::support::patient;

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

/// A place with metrics on a socket file: its configuration names it.
fn place(more: &str) -> Place {
    let mut place = Place::new();
    let text = format!("[metrics]\nlisten = \"unix:{}\"\n{more}", place.path("metrics").display());
    place.args = vec!["--config".into(), place.configure(&text).display().to_string()];
    place
}

fn connect(place: &Place) -> UnixStream {
    let stream = UnixStream::connect(place.path("metrics")).expect("it listens");
    stream.set_read_timeout(Some(patient(60))).expect("a time-out");
    stream
}

/// What it answers to these bytes.
fn answer(place: &Place, bytes: &[u8]) -> String {
    let mut stream = connect(place);
    // It may have its answer, and its end, before all of it is sent.
    let _ = stream.write_all(bytes);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer, and its end");
    text
}

fn curl(words: &[&str]) -> (bool, String) {
    let result =
        output(Command::new("curl").args(["--silent", "--show-error", "--fail", "--max-time", "60"]).args(words));
    (result.status.success(), String::from_utf8_lossy(&result.stdout).into_owned())
}

/// The value of the daemon's own metric of this name.
fn value(text: &str, name: &str, daemon: &Daemon<'_>) -> Option<u64> {
    let line = format!("{name}{{daemon=\"{}\",pid=\"{}\"}} ", daemon.place.name, daemon.pid());
    text.lines().find_map(|l| l.strip_prefix(&line)).and_then(|value| value.parse().ok())
}

#[test]
fn a_socket_file_tells_of_open_files_and_goes_with_the_daemon() {
    let place = place("group = 12345\n");
    let daemon = place.start();
    let about = fs::metadata(place.path("metrics")).expect("the socket");
    assert_eq!(about.permissions().mode() & 0o777, 0o660);
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&about), 12345);
    let file = place.path("metrics").display().to_string();
    let (done, text) = curl(&["--unix-socket", &file, "http://here/metrics"]);
    assert!(done && value(&text, "nlmmap_daemon_opens", &daemon) == Some(0), "{text}");

    let mut holder = client("device_hold");
    let mut holder = holder.arg(place.node()).stdin(std::process::Stdio::piped()).spawn().expect("a client");
    daemon.wait_for_opens(1);
    std::thread::sleep(Duration::from_millis(1100));
    let (_, text) = curl(&["--unix-socket", &file, "http://here/metrics"]);
    assert_eq!(value(&text, "nlmmap_daemon_opens", &daemon), Some(1), "{text}");
    let series = format!("nlmmap_rx_frames_total{{source=\"daemon\",daemon=\"{}\",", place.name);
    assert!(text.contains(&series) && text.contains(&format!("pid=\"{}\"", holder.id())), "{text}");
    // Each has its words, and each value is a number.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        let name = name.split('{').next().unwrap_or_default();
        assert!(text.contains(&format!("# TYPE {name} ")) && value.parse::<u64>().is_ok(), "{line}");
    }
    let _ = holder.kill();
    let _ = holder.wait();

    // Of others than root, the group alone.
    let ask = |ids: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(ids).args([
            "--clear-groups",
            "curl",
            "-s",
            "--fail",
            "--unix-socket",
            &file,
            "http://here/metrics",
        ]);
        output(&mut command).status.success()
    };
    assert!(ask(&["--reuid", "4242", "--regid", "12345"]));
    assert!(!ask(&["--reuid", "4242", "--regid", "4242"]));
    daemon.stop();
    assert!(!place.path("metrics").exists(), "the socket goes with the daemon");
}

#[test]
fn what_is_asked_wrongly_is_told_so() {
    let place = place("");
    let daemon = place.start();
    let says = |bytes: &[u8], status: &str| {
        let text = answer(&place, bytes);
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    };
    let (head, body) = says(GET, "200 OK");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let (_, body) = says(b"HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK");
    assert_eq!(body, "");
    assert!(says(b"GET / HTTP/1.1\r\n\r\n", "404").1.contains("/metrics"));
    assert!(says(b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "405").0.contains("Allow: GET, HEAD"));
    says(b"\x16\x03\x01\x02\x00\x01\x00\x01", "400");
    says(format!("GET /metrics HTTP/1.1\r\nCookie: {}", "x".repeat(100_000)).as_bytes(), "431");
    says("a: b\r\n".repeat(10_000).as_bytes(), "400");
    // Nothing, and half of something.
    for bytes in [&b""[..], &GET[..20]] {
        let mut stream = connect(&place);
        stream.write_all(bytes).expect("it listens");
        stream.shutdown(Shutdown::Write).expect("an end");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the end");
        assert_eq!(text, "");
    }
    daemon.stop();
}

/// Slow ones, deaf ones and many of them: messages and other askers have what is theirs, and all of it ends.
#[test]
fn hostile_clients_are_bounded_and_delay_nobody() {
    let place = place("");
    let daemon = place.start();
    // A worker, which stays for a while.
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("its table").count();
    let before = descriptors();
    let began = Instant::now();
    let mut slow: Vec<UnixStream> = (0..40).map(|_| connect(&place)).collect();
    for (i, stream) in slow.iter_mut().enumerate() {
        // An old one that was one too many is closed already.
        let _ = stream.write_all(if i % 2 == 0 { &GET[..10] } else { GET });
    }
    assert!(answer(&place, GET).starts_with("HTTP/1.1 200 OK"), "one more is answered");
    assert!(descriptors() <= before + 17, "{} descriptors, {before} before", descriptors());
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    // One that goes on and on is over in its time, as is one that says nothing.
    let mut drop = connect(&place);
    let mut ended = false;
    while !ended && began.elapsed() < patient(60) {
        ended = drop.write_all(b"x").is_err();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(ended, "a request that never ends is ended");
    let until = Instant::now() + patient(60);
    while descriptors() > before && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(descriptors() <= before, "though its clients hold their ends");
    std::mem::drop(slow);
    // A thousand at once, of which nobody reads.
    for _ in 0..1000 {
        let _ = connect(&place).write_all(GET);
    }
    assert!(answer(&place, GET).starts_with("HTTP/1.1 200 OK"));
    daemon.stop();
}

#[test]
fn a_port_is_served_and_a_change_takes_a_restart() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let mut place = Place::new();
    let text = format!("[metrics]\nlisten = \"127.0.0.1:{free}\"\n");
    place.args = vec!["--config".into(), place.configure(&text).display().to_string()];
    let daemon = place.start();
    let url = format!("http://127.0.0.1:{free}/metrics");
    assert!(value(&curl(&[&url]).1, "nlmmap_daemon_opens", &daemon).is_some());
    // The rest is read again beside it.
    place.configure(&format!("{text}[limits]\nopens = 7\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.says("configuration read");
    let until = Instant::now() + patient(60);
    while value(&curl(&[&url]).1, "nlmmap_daemon_opens_limit", &daemon) != Some(7) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(value(&curl(&[&url]).1, "nlmmap_daemon_opens_limit", &daemon), Some(7));
    place.configure("[limits]\nopens = 8\n");
    daemon.signal(Signal::SIGHUP);
    daemon.says(&format!("configuration kept as it was: [metrics] has changed, from 127.0.0.1:{free} to none"));
    assert_eq!(daemon.stat()["limits"]["opens"], 7);
    // Another daemon finds it taken.
    let mut second = Place::new();
    second.args = vec!["--config".into(), second.configure(&text).display().to_string()];
    let result = output(&mut second.serve());
    let said = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(result.status.code() == Some(3) && said.contains("cannot serve metrics at 127.0.0.1"), "{said}");
    second.is_clean();
    let mut open = TcpStream::connect(("127.0.0.1", free)).expect("it listens");
    daemon.stop();
    let mut text = Vec::new();
    assert!(matches!(open.read_to_end(&mut text), Ok(0) | Err(_)), "a connection ends with the daemon");
}

#[test]
fn a_place_that_is_anothers_or_reaches_further_is_refused() {
    let mut place = Place::new();
    let file = place.path("config.toml").display().to_string();
    place.args = vec!["--config".into(), file];
    let refused = |text: &str, code: i32, why: &str| {
        place.configure(text);
        let result = output(&mut place.serve());
        let said = String::from_utf8_lossy(&result.stderr).into_owned();
        assert!(result.status.code() == Some(code) && said.contains(why), "{:?}: {said}", result.status);
    };
    refused("[metrics]\nlisten = \"0.0.0.0:9765\"\n", 2, "no loopback address");
    refused("[metrics]\nlisten = \"127.0.0.1:9765\"\ngroup = 0\n", 2, "a port has none");
    let taken = place.path("taken");
    let _listener = UnixListener::bind(&taken).expect("a socket");
    refused(&format!("[metrics]\nlisten = \"unix:{}\"\n", taken.display()), 3, "cure: another program is there");
    let missing = place.path("missing/metrics");
    refused(&format!("[metrics]\nlisten = \"unix:{}\"\n", missing.display()), 1, "cure: make its directory");
}
