//! OpenSSH's own tests, by Debian's package of them, on the server and client that belong to it. Nothing is installed: the packages are
//! unpacked, and lie over `/usr` where a test runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cage::Cage;
use super::{Outcomes, Part};

/// Those of connections, processes, passed descriptors (`multiplex`) and closed ones that do not take long.
const BRIEF: &[&str] = &["connect", "proxy-connect", "exit-status", "stderr-data", "agent", "sftp", "dynamic-forward"];
const SECONDS: u32 = 300;
/// What is tested, and the tests.
const PROGRAMS: [&str; 3] = ["openssh-client", "openssh-server", "openssh-sftp-server"];
const TESTS: &str = "openssh-tests";

/// Lays the packages over the system, has a user and a directory for the server, which leaves files in /tmp whatever it is told, and goes on
/// with what follows.
const OVER: &str = r#"
root=$1; shift
mount -t overlay -o "lowerdir=$root/usr:/usr" overlay /usr &&
mount --bind "$root/passwd" /etc/passwd &&
{ case $PWD/ in /tmp/*) ;; *) chmod 1777 "$TMPDIR" && mount --bind "$TMPDIR" /tmp ;; esac; } &&
mount -t tmpfs tmpfs /run && mkdir -p /run/sshd /run/root &&
{ [ ! -d /etc/ssh ] || mount -t overlay -o "lowerdir=$root/etc/ssh:/etc/ssh" overlay /etc/ssh; } || exit 125
exec "$@"
"#;

pub fn parts(home: &Path, brief: bool) -> Result<Vec<Part>, String> {
    let root = unpacked(home)?;
    fs::write(root.join("passwd"), users()?).map_err(|e| format!("{}/passwd: {e}", root.display()))?;
    let makefile = root.join("usr/lib/openssh/regress/Makefile");
    let text = fs::read_to_string(&makefile).map_err(|e| format!("{}: {e}", makefile.display()))?;
    let names = listed(&text);
    if names.is_empty() {
        return Err(format!("{} names no tests", makefile.display()));
    }
    let part = |name: String| {
        let root = root.clone();
        Part { suite: "openssh", name: name.clone(), run: Box::new(move |cage| run(cage, &root, &name)) }
    };
    Ok(names.into_iter().filter(|name| !brief || BRIEF.contains(&name.as_str())).map(part).collect())
}

/// The scripts that its `make tests` runs.
fn listed(makefile: &str) -> Vec<String> {
    let mut lines = makefile.lines().skip_while(|line| !line.starts_with("LTESTS="));
    let mut names = Vec::new();
    for line in lines.by_ref() {
        let words = line.trim_start_matches("LTESTS=").trim_end_matches('\\');
        names.extend(words.split_whitespace().map(str::to_owned));
        if !line.ends_with('\\') {
            break;
        }
    }
    names
}

/// Where the packages are unpacked, once.
fn unpacked(home: &Path) -> Result<PathBuf, String> {
    let place = home.join("openssh");
    let (done, root) = (place.join("done"), place.join("root"));
    if done.is_file() {
        return Ok(root);
    }
    let fault = |e: std::io::Error| format!("{}: {e}", place.display());
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(place.join("partial")).map_err(fault)?;
    fetch(&place)?;
    for file in fs::read_dir(&place).map_err(fault)?.flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|it| it == "deb") {
            let unpack = Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&root).status();
            if !unpack.is_ok_and(|status| status.success()) {
                return Err(format!("{} cannot be unpacked", file.display()));
            }
        }
    }
    // What some packages still have beside /usr lies in it where they are installed.
    for part in ["bin", "lib", "sbin"] {
        let (from, to) = (root.join(part), root.join("usr").join(part));
        let moved =
            !from.is_dir() || Command::new("cp").arg("-aT").args([&from, &to]).status().is_ok_and(|it| it.success());
        if !moved {
            return Err(format!("{} cannot be copied", from.display()));
        }
    }
    fs::write(&done, "").map_err(fault)?;
    Ok(root)
}

/// This system's users, the server's own beside them. Who logs in has a home with nothing in it: what the shell reads there may take
/// its time, and be left in the middle of something when a test ends.
fn users() -> Result<String, String> {
    let there = fs::read_to_string("/etc/passwd").map_err(|e| format!("/etc/passwd: {e}"))?;
    let mut users: String =
        there.lines().filter(|line| !line.starts_with("root:")).map(|line| format!("{line}\n")).collect();
    users.push_str("root:x:0:0:root:/run/root:/bin/bash\n");
    if !users.lines().any(|line| line.starts_with("sshd:")) {
        users.push_str("sshd:x:64622:65534::/run/sshd:/usr/sbin/nologin\n");
    }
    Ok(users)
}

/// The packages, and what they need that is not installed here.
fn fetch(place: &Path) -> Result<(), String> {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["--quiet", "--yes"]).args(args).current_dir(place);
        command.arg("-o").arg(format!("Dir::Cache::archives={}", place.display()));
        let output = command.output().map_err(|e| format!("apt-get: {e}"))?;
        let why = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("failed").to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("apt-get {}: {why}", args.join(" "))) }
    };
    let needed = [&["install", "--download-only", "--no-install-recommends"][..], &PROGRAMS].concat();
    let all = [&["download", TESTS][..], &PROGRAMS].concat();
    if apt(&needed).and_then(|()| apt(&all)).is_err() {
        apt(&["update"])?;
        apt(&needed)?;
        apt(&all)?;
    }
    Ok(())
}

fn run(cage: &Cage, root: &Path, name: &str) -> Result<Outcomes, String> {
    // Tests write beside themselves.
    let build = cage.directory().join("openssh");
    let regress = build.join("regress");
    fs::create_dir_all(&build).map_err(|e| format!("{}: {e}", build.display()))?;
    let copied = Command::new("cp").arg("-a").arg(root.join("usr/lib/openssh/regress")).arg(&regress).status();
    if !copied.is_ok_and(|status| status.success()) {
        return Err("the tests cannot be copied".into());
    }
    let (build, there) = (build.display().to_string(), regress.display().to_string());
    let environment = [
        format!("OBJ={there}"),
        format!(".OBJDIR={there}"),
        format!(".CURDIR={there}"),
        format!("BUILDDIR={build}"),
        "TEST_SHELL=sh".into(),
        "TEST_SSH_SSHD=/usr/sbin/sshd".into(),
        "TEST_SSH_SFTPSERVER=/usr/lib/openssh/sftp-server".into(),
        "TEST_SSH_ECC=yes".into(),
        "TEST_SSH_IPV6=yes".into(),
        // The directories above are the user's own, or sticky.
        "TEST_SSH_UNSAFE_PERMISSIONS=1".into(),
    ];
    let root = root.display().to_string();
    let mut program = vec!["sh", "-c", OVER, "sh", &root, "env"];
    program.extend(environment.iter().map(String::as_str));
    program.push("sh");
    let args = ["./test-exec.sh".to_string(), there.clone(), format!("{there}/{name}.sh")];
    let run = cage.run_in(&regress, &program, &args, SECONDS)?;
    let outcome = match run.code {
        None => "hung or died",
        Some(125) => return Err(format!("OpenSSH's packages cannot be laid over /usr: {}", run.errors)),
        Some(0) if run.output.to_ascii_lowercase().contains("skipped") => "skipped",
        Some(0) => "ok",
        Some(_) => "failed",
    };
    Ok([(name.to_string(), outcome.to_string())].into())
}

#[test]
fn the_list_of_tests_is_read() {
    let makefile = "tests: a\n\nLTESTS= \tconnect \\\n\t\tproxy-connect \\\n\t\texit-status\n\nINTEROP_TESTS=\tputty\n";
    assert_eq!(listed(makefile), ["connect", "proxy-connect", "exit-status"]);
}
