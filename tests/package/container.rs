//! The image, and the daemon beside a workload, by a container engine: built and run as `packaging/container` says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tempfile::TempDir;

use crate::recipe::{Container, Mount, Sidecar, Source, compose, pod};
use crate::root::{Root, output, packages};
use crate::support::{Build, compile, patient, repository};

const POLICY: &str = "\
[[policy.rule]]
name = \"the collector's queue\"
users = [65534]
family = \"netfilter\"
send = [\"queue/*\"]
queues = [5]
receive = [\"queue/packet\"]
";

/// An engine with a store of its own, which goes with it.
struct Engine {
    store: TempDir,
    /// Where the recipes' host directory is, shared as `/run` is on a host with systemd.
    shared: TempDir,
}

impl Engine {
    fn new() -> Engine {
        let engine = Engine {
            store: tempfile::tempdir().expect("a directory"),
            shared: tempfile::tempdir().expect("a directory"),
        };
        // What engines ask for by default may be more than there is.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let most = hard.min(65536);
        let limits = format!("[containers]\ndefault_ulimits = [\"nofile={most}:{most}\", \"nproc=4096:4096\"]\n");
        fs::write(engine.store.path().join("containers.conf"), limits).expect("a configuration");
        fs::set_permissions(engine.shared.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        output(
            Command::new("mount")
                .args(["--bind", "--make-rshared"])
                .arg(engine.shared.path())
                .arg(engine.shared.path()),
        );
        engine
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        let store = self.store.path();
        command.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
        command.args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        command.env("CONTAINERS_CONF", store.join("containers.conf"));
        command
    }

    /// The image of the Containerfile, from a Debian and the package; and whether a container of it runs at all here.
    fn build(&self, package: &Path) -> Result<(), String> {
        let base = Root::new();
        let tar = self.store.path().join("base.tar");
        output(Command::new("tar").args(["--numeric-owner", "-C"]).arg(base.path()).arg("-cf").arg(&tar).arg("."));
        let file = repository().join("packaging/container/Containerfile");
        let from = fs::read_to_string(&file).expect("the Containerfile");
        let from = from.lines().find_map(|line| line.strip_prefix("FROM ")).expect("an image that it is made from");
        output(self.command().arg("import").arg(&tar).arg(format!("docker.io/library/{from}")));
        fs::remove_file(&tar).expect("a file of ours");
        let context = self.store.path().join("context");
        fs::create_dir(&context).expect("a directory");
        let copy = |name: &str| fs::copy(package, context.join(name)).expect("a copy of the package");
        copy("nlmmap_0.0.1-1_amd64.deb");
        copy(package.file_name().and_then(|name| name.to_str()).expect("a name"));
        let mut command = self.command();
        command.args([
            "build",
            "--pull=never",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--tag",
            "nlmmap",
            "--file",
        ]);
        output(command.arg(&file).arg(&context));
        let mut probe = self.command();
        let ran = probe.args(["run", "--rm", "--network", "none", "--entrypoint", "/bin/true", "nlmmap"]).output();
        let ran = ran.map_err(|error| error.to_string())?;
        if ran.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ran.stderr).into_owned()) }
    }

    /// `run`, with all that a recipe says of a container.
    fn run(&self, container: &Container, config: &Path) -> Command {
        let Container { privileged, user, no_capabilities, no_new_privileges, mounts, .. } = container;
        let mut command = self.command();
        command.arg("run");
        if *privileged {
            command.arg("--privileged");
        }
        if let Some(user) = user {
            command.arg("--user").arg(format!("{user}:{user}"));
        }
        if *no_capabilities {
            command.args(["--cap-drop", "ALL"]);
        }
        if *no_new_privileges {
            command.args(["--security-opt", "no-new-privileges"]);
        }
        for Mount { source, target, read_only, propagation } in mounts {
            let source = match source {
                Source::Host(_) => self.shared.path(),
                Source::Config => config,
            };
            let mode = if *read_only { "ro" } else { "rw" };
            command.arg("--volume").arg(format!("{}:{target}:{mode},{propagation}", source.display()));
        }
        command
    }

    fn said(&self, args: &[&str]) -> Output {
        self.command().args(args).stdin(Stdio::null()).output().expect("an engine")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.said(&["rm", "--all", "--force", "--time", "5"]);
        let _ = Command::new("umount").args(["--recursive", "--quiet"]).arg(self.shared.path()).status();
        for place in ["root/overlay", "run/overlay"] {
            let _ = Command::new("umount").arg("--quiet").arg(self.store.path().join(place)).status();
        }
    }
}

fn row(name: &str, container: &Container) -> String {
    let mut may = Vec::new();
    if container.privileged {
        may.push("privileged".to_owned());
    }
    may.extend(container.user.map(|user| format!("user {user}")));
    if container.no_capabilities {
        may.push("no capability".into());
    }
    if container.no_new_privileges {
        may.push("no new privileges".into());
    }
    let mounts = container.mounts.iter().map(|mount| {
        let words = [if mount.read_only { "read-only" } else { "" }, mount.propagation];
        let words: Vec<_> = words.into_iter().filter(|word| !matches!(*word, "" | "private")).collect();
        format!("`{}` {}", mount.target, words.join(" "))
    });
    format!("| {name} | {} | {} |", may.join(", "), mounts.collect::<Vec<_>>().join(", "))
}

/// Both recipes say the same, and what the documents say; of the two containers only the daemon has any right.
#[test]
fn the_recipes_are_one_and_as_the_documents_have_it() {
    let (pod, compose) = (pod(), compose());
    assert_eq!(pod, compose);
    let Sidecar { daemon, workload, one_network, one_pid_namespace, in_order } = &pod;
    assert!(*one_network && *one_pid_namespace && *in_order);
    assert!(daemon.privileged && daemon.user.is_none() && daemon.image == "nlmmap");
    assert!(!workload.privileged && workload.no_capabilities && workload.no_new_privileges);
    assert!(workload.user.is_some_and(|user| user != 0));
    let shared = |container: &Container| container.mounts.iter().find(|mount| mount.source != Source::Config).cloned();
    let (theirs, ours) = (shared(daemon).expect("one"), shared(workload).expect("one"));
    assert_eq!((&theirs.source, &theirs.target), (&ours.source, &ours.target), "one directory");
    assert_eq!((theirs.propagation, ours.propagation, ours.read_only), ("rshared", "rslave", true));
    let page = fs::read_to_string(repository().join("docs/container.md")).expect("docs/container.md");
    for row in [row("daemon", daemon), row("workload", workload)] {
        assert!(page.lines().any(|line| line == row), "docs/container.md does not say:\n{row}");
    }
}

/// By a real engine: the image is built, the daemon is asked whether it works, and a legacy client of an unprivileged user, in a
/// container without any capability, judges the queue that the policy names and may nothing else.
#[test]
fn a_workload_beside_the_daemon_has_what_policy_names() {
    crate::support::need_root();
    let engine = Engine::new();
    let first = packages("1");
    let package = first.iter().find(|path| path.to_string_lossy().contains("/nlmmap_")).expect("the command's package");
    if let Err(why) = engine.build(package) {
        return eprintln!("skipped: this machine runs no container: {why}");
    }
    let recipe = compose();
    let config = engine.store.path().join("nlmmap.toml");
    fs::write(&config, POLICY).expect("a configuration");

    let mut daemon = engine.run(&recipe.daemon, &config);
    daemon.args(["--detach", "--name", "daemon", "--network", "none", &recipe.daemon.image]);
    output(&mut daemon);
    let log = || {
        let said = engine.said(&["logs", "daemon"]);
        String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr)
    };
    let probe: Vec<&str> =
        ["exec", "daemon"].into_iter().chain(recipe.daemon.probe.iter().map(String::as_str)).collect();
    let until = std::time::Instant::now() + patient(60);
    while !engine.said(&probe).status.success() {
        assert!(std::time::Instant::now() < until, "it does not work:\n{}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
    let pid = engine.said(&["inspect", "--format", "{{.State.Pid}}", "daemon"]);
    let pid = String::from_utf8_lossy(&pid.stdout).trim().to_owned();

    // The network that both are in: packets to judge.
    let rules = "ip link set lo up && iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5";
    let net = format!("--net=/proc/{pid}/ns/net");
    let made = Command::new("nsenter").args([&net, "sh", "-ec", rules]).status().expect("nsenter");
    let queues = format!("/proc/{pid}/net/netfilter/nfnetlink_queue");
    if !made.success() || !Path::new(&queues).exists() {
        return eprintln!("skipped: this kernel has no queues");
    }
    for (client, args, holds) in [
        ("nfqueue", &["accept", "2000"][..], "a legacy client judges its queue"),
        ("unprivileged", &[], "one that changes links is refused"),
    ] {
        let program = compile(client, Build::Plain);
        let mut run = engine.run(&recipe.workload, &config);
        assert!(recipe.one_network && recipe.one_pid_namespace);
        run.args(["--rm", "--network", "container:daemon", "--pid", "container:daemon", "--preserve-fds", "1"]);
        run.arg("--volume").arg(format!("{}:/client:ro", program.display()));
        run.args([
            "--entrypoint",
            "/usr/bin/nlmmap",
            "nlmmap",
            "run",
            "--device",
            "/run/nlmmap/node/nlmmap",
            "--",
            "/client",
        ]);
        run.args(args);
        // The queue's own account of packets, which only root may open.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 3<\"$0\" && exec \"$@\"", &queues]).arg(run.get_program()).args(run.get_args());
        shell.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = shell.output().expect("a container");
        let text = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{holds}: {}\n{text}\nthe daemon:\n{}", ran.status, log());
    }

    let stopped = engine.said(&["stop", "--time", "20", "daemon"]);
    assert!(stopped.status.success(), "{stopped:?}");
    let code = engine.said(&["inspect", "--format", "{{.State.ExitCode}}", "daemon"]);
    assert_eq!(String::from_utf8_lossy(&code.stdout).trim(), "0", "{}", log());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let left = mounts.lines().filter(|line| line.contains(&format!("{}/", engine.shared.path().display()))).count();
    assert_eq!(left, 0, "a mount is left");
    let files: Vec<_> = fs::read_dir(engine.shared.path()).expect("the directory").flatten().collect();
    assert!(files.is_empty(), "{files:?}");
}
