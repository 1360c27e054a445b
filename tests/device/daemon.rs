//! A daemon of a test's own, and programs that use it.

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{compile_file, need_root, patient, repository};

pub const NLMMAP: &str = env!("CARGO_BIN_EXE_nlmmap");
/// Far more than anything here takes.
const LIMIT: u64 = 60;

pub fn uses_cuse() -> bool {
    env::var_os("NLMMAP_NODE").is_some_and(|node| node == "cuse")
}

/// Whether a test has nothing to do over a character device; said.
pub fn is_about_ring_files() -> bool {
    if uses_cuse() {
        eprintln!("skipped: this is about ring files");
    }
    uses_cuse()
}

/// A place for daemons: directories, node name, arguments.
pub struct Place {
    pub directory: TempDir,
    pub name: String,
    /// Its node is a character device.
    pub cuse: bool,
    pub args: Vec<String>,
    /// A command that becomes the daemon, with other rights than the test's.
    pub wrap: Vec<String>,
}

impl Place {
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        need_root();
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let name = format!("nlmmap-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Place { directory, name, cuse: uses_cuse(), args: Vec::new(), wrap: Vec::new() }
    }

    /// One whose daemon reads this configuration.
    pub fn with_config(text: &str) -> Place {
        let mut place = Place::new();
        place.args = vec!["--config".into(), place.configure(text).display().to_string()];
        place
    }

    /// Writes another text there: the file.
    pub fn configure(&self, text: &str) -> PathBuf {
        let config = self.path("config.toml");
        fs::write(&config, text).expect("a configuration");
        config
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where clients open the node.
    pub fn node(&self) -> PathBuf {
        if self.cuse { PathBuf::from("/dev").join(&self.name) } else { self.path("node").join(&self.name) }
    }

    /// `nlmmap serve` in this place.
    pub fn serve(&self) -> Command {
        let mut words = self.wrap.iter().map(String::as_str).chain([NLMMAP]);
        let mut command = Command::new(words.next().unwrap_or(NLMMAP));
        command.args(words).args(["serve", "--mode", "0666", "--log", "debug"]);
        if !self.args.iter().any(|arg| arg == "--node") {
            command.args(["--node", if self.cuse { "cuse" } else { "fuse" }]);
        }
        command.args(["--name", &self.name, "--runtime-dir"]).arg(self.path("run"));
        if !self.args.iter().any(|arg| arg == "--path") {
            command.arg("--path").arg(self.path("node"));
        }
        command.args(&self.args);
        command
    }

    /// Starts it, and waits until it says that it is ready.
    pub fn start(&self) -> Daemon<'_> {
        self.start_as(|_| {})
    }

    /// The same, in a cage or with another standard error.
    pub fn start_as(&self, arrange: impl FnOnce(&mut Command)) -> Daemon<'_> {
        let notify = self.path("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).expect("a notify socket");
        socket.set_read_timeout(Some(patient(LIMIT))).expect("a time-out");
        let log = fs::File::options().create(true).append(true).open(self.path("log")).expect("a log file");
        let mut command = self.serve();
        command.env("NOTIFY_SOCKET", &notify).stderr(log);
        arrange(&mut command);
        let child = command.spawn().expect("the daemon starts");
        let daemon = Daemon { place: self, child };
        let mut text = [0; 256];
        let len = loop {
            match socket.recv(&mut text) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => break result.unwrap_or_else(|e| panic!("no READY: {e}\n{}", daemon.log())),
            }
        };
        assert_eq!(&text[..len], b"READY=1\n".get(..len).unwrap_or_default(), "{}", daemon.log());
        daemon
    }
}

/// A running daemon.
pub struct Daemon<'a> {
    pub place: &'a Place,
    child: Child,
}

impl Daemon<'_> {
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// Waits until the log says this: it is written by a thread that nobody waits for.
    #[track_caller]
    pub fn says(&self, text: &str) {
        let until = Instant::now() + patient(LIMIT);
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "the log does not say {text:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the daemon runs");
    }

    pub fn wait(mut self) -> ExitStatus {
        wait(&mut self.child, &self.place.path("log").display().to_string())
    }

    /// Ends it by SIGTERM, and checks that it ended well and that nothing of it is left.
    pub fn stop(self) {
        let place = self.place;
        self.signal(Signal::SIGTERM);
        let log = self.tail();
        let status = self.wait();
        assert!(status.success(), "{status}\n{log}");
        place.is_clean();
    }

    /// `nlmmap stat --json`
    pub fn stat(&self) -> Value {
        let mut command = Command::new(NLMMAP);
        command.args(["stat", "--json", "--name", &self.place.name, "--runtime-dir"]).arg(self.place.path("run"));
        let output = command.output().expect("nlmmap stat starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("stat prints JSON")
    }

    /// Waits until so many files are open: a ring file's `close` returns before the daemon hears of it.
    pub fn wait_for_opens(&self, opens: u64) -> Value {
        let until = Instant::now() + patient(LIMIT);
        loop {
            let stat = self.stat();
            if stat["opens"] == opens || Instant::now() > until {
                assert_eq!(stat["opens"], opens, "{}", self.tail());
                return stat;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // Only after a failed assertion, or after `wait`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Place {
    /// No node, no mount, no file but those of the test.
    pub fn is_clean(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let here = self.directory.path().display().to_string();
        assert!(!mounts.contains(&here), "a mount is left");
        assert!(!self.path("node").exists(), "the mount's directory is left");
        assert!(!PathBuf::from("/dev").join(&self.name).exists(), "the node is left");
        let left: Vec<_> = fs::read_dir(self.path("run")).expect("the runtime directory").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After a failed test a dead mount may be there.
        let _ = nix::mount::umount2(&self.path("node"), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let until = Instant::now() + patient(LIMIT);
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("{what}: still running after {:?}", patient(LIMIT));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `tests/clients/NAME.c`, compiled against the header.
pub fn client(name: &str) -> Command {
    let include = format!("-I{}", repository().join("include").display());
    let program = compile_file(&format!("tests/clients/{name}.c"), &["-O1", "-Wall", "-Wextra", "-Werror", &include]);
    Command::new(program)
}

/// Runs it, bounded, and gives its output.
pub fn output(command: &mut Command) -> Output {
    fn read(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
        // Beside it: it may print more than a pipe holds.
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.read_to_end(&mut text).expect("its output");
            text
        })
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let out = read(child.stdout.take().expect("a pipe"));
    let err = read(child.stderr.take().expect("a pipe"));
    let status = wait(&mut child, &format!("{command:?}"));
    let text = |reader: std::thread::JoinHandle<Vec<u8>>| reader.join().expect("its output");
    Output { status, stdout: text(out), stderr: text(err) }
}

/// Runs it, and checks that it held. Gives what it printed.
#[track_caller]
pub fn passes(command: &mut Command, daemon: &Daemon<'_>) -> String {
    let result = output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&result.stdout), text(&result.stderr));
    assert!(result.status.success(), "{command:?}: {}\n{out}{err}\nthe daemon:\n{}", result.status, daemon.tail());
    out
}
