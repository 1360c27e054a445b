//! Configurations that are wrong: none starts a daemon, none replaces one, and each is told with file, line, rule and what was
//! probably meant, in the same words by the daemon, by `policy check` and in the log.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::daemon::{NLMMAP, Place, output};
use crate::lifecycle::wait_for;

const GOOD: &str = "\
[[policy.rule]]
name = \"links\"
users = [1001]
family = \"route\"
send = [\"getlink\"]
";

/// Behind the good rule, whose five lines come first: what is wrong with these lines.
const BAD: [(&str, &str); 27] = [
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [\"rot\"]\nfamily = \"route\"\n",
        "8: rule \"x\": no user is called \"rot\"; did you mean \"root\"?",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\ngroups = [\"rooot\"]\nfamily = \"route\"\n",
        "8: rule \"x\": no group is called \"rooot\"; did you mean \"root\"?",
    ),
    (
        "[[policy.rule]]\nusers = [\"no-such-user-anywhere\"]\nfamily = \"route\"\n",
        "7: rule \"#2\": no user is called \"no-such-user-anywhere\"",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\ncgroups = [\"system.slice\"]\nfamily = \"route\"\n",
        "8: rule \"x\": \"system.slice\" is no control group: use its path, as in /proc/PID/cgroup",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"rote\"\n",
        "9: rule \"x\": no family \"rote\" is known here; did you mean \"route\"?",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\nsend = [\"getlnk\"]\n",
        "10: rule \"x\": the family route has no message \"getlnk\" that is known here; did you mean \"getlink\"?",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\nsend = [\n  \"getlink\",\n  \"RTM_GETADR\",\n]\n",
        "12: rule \"x\": the family route has no message \"RTM_GETADR\" that is known here; did you mean \"RTM_GETADDR\"?",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\nsend = [\"newqdisc\"]\n",
        "10: rule \"x\": newqdisc can never be granted: what is inside depends on a driver",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\nsend = [\"queue*\"]\n",
        "10: rule \"x\": no message of the family route begins with \"queue\"",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\njoin = [\"lnik\"]\n",
        "10: rule \"x\": the family route has no group \"lnik\"; did you mean \"link\"?",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"generic\"\njoin = [\"notify\"]\n",
        "10: rule \"x\": \"notify\" is no group of a generic family: use \"FAMILY/GROUP\"",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\nsend = [\"getlink\"]\nreceive = [\"newlnk\"]\n",
        "11: rule \"x\": the family route is sent no message \"newlnk\" that is known here; did you mean \"newlink\"?",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"netfilter\"\nsend = [\"queue/*\"]\n",
        "6: rule \"x\": it does not say which: queues",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"netfilter\"\nsend = [\"queue/*\"]\nqueues = [65536]\n",
        "11: rule \"x\": 65536 is no queue number: use 0 to 65535, \"FIRST-LAST\", or \"*\"",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\nsend = [\"getlink\"]\nrate = 0\n",
        "11: rule \"x\": 0 is no rate: messages a second",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nfamily = \"route\"\nsend = [\"getlink\"]\n",
        "6: rule \"x\": it does not say to whom: users, groups or cgroups (users = [\"*\"] is everybody)",
    ),
    ("[[policy.rule]]\nname = \"x\"\nusers = [1]\nsend = [\"getlink\"]\n", "6: rule \"x\": it has no family"),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = [1]\nfamily = \"route\"\n",
        "6: rule \"x\": it grants nothing: send or join",
    ),
    (
        "[[policy.rule]]\nname = \"links\"\nusers = [1]\nfamily = \"route\"\nsend = [\"getlink\"]\n",
        "7: rule \"links\": another rule has this name",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nuser = [1]\n",
        "8: rule \"x\": no key \"user\" is known here; did you mean \"users\"?",
    ),
    (
        "[[policy.rule]]\nname = \"x\"\nusers = \"root\"\n",
        "8: rule \"x\": users: invalid type: string \"root\", expected a sequence",
    ),
    ("[policy]\nunmatched = \"refuse\"\n", "7: unmatched = \"refuse\": use \"own\" or \"deny\""),
    ("[policy]\nunmached = \"deny\"\n", "7: no key \"unmached\" is known here; did you mean \"unmatched\"?"),
    ("[limits]\nopen = 5\n", "7: no key \"open\" is known here; did you mean \"opens\"?"),
    ("[limits]\nopens = -5\n", "7: opens: invalid value: integer `-5`, expected u32"),
    ("[limit]\n", "6: no key \"limit\" is known here; did you mean \"limits\"?"),
    ("[metrics]\nlisten = \"0.0.0.0:80\"\n", "6: [metrics] listen = \"0.0.0.0:80\": 0.0.0.0 is no loopback address"),
];

/// The last words of the daemon, of `policy check`, and of a daemon that was told to read it.
#[test]
fn none_starts_a_daemon_and_none_replaces_one() {
    let place = Place::with_config(GOOD);
    let config = place.path("config.toml");
    let daemon = place.start();
    let stranger = Place::new();
    let mut kept = 0;
    let mut refuse = |wrong: &str| {
        let mut serve = stranger.serve();
        let started = output(serve.arg("--config").arg(&config));
        let mut check = Command::new(NLMMAP);
        let checked = output(check.args(["policy", "check"]).arg(&config));
        for (what, result) in [("serve", started), ("check", checked)] {
            let said = String::from_utf8_lossy(&result.stderr).into_owned();
            assert_eq!(result.status.code(), Some(2), "{what}: {wrong}: {said}");
            assert!(said.contains(wrong) && result.stdout.is_empty(), "{what} does not say {wrong:?}:\n{said}");
        }
        daemon.signal(Signal::SIGHUP);
        kept += 1;
        wait_for(|| daemon.log().matches("configuration kept as it was").count() == kept, || daemon.log());
        let log = daemon.log();
        let last = log.lines().rfind(|line| line.contains("kept as it was")).unwrap_or_default();
        assert!(last.contains(wrong), "the log does not say {wrong:?}:\n{last}");
    };
    for (lines, wrong) in BAD {
        place.configure(&format!("{GOOD}{lines}"));
        refuse(&format!("{}:{wrong}", config.display()));
    }
    let file = config.display();
    place.configure(&format!("{GOOD}[[policy.rule]]\nname = \"x\nusers = [1]\n"));
    refuse(&format!("{file}:7: rule \"#2\": "));
    place.configure(&format!("{GOOD}[[policy.rule]\n"));
    refuse(&format!("{file}:6: "));
    place.configure("log = \"loud\"\n");
    refuse(&format!("{file}:1: log = \"loud\": use error, warn, info, debug or trace"));
    fs::write(&config, b"# caf\xe9\n").expect("a file");
    refuse(&format!("{file}: it is not text (UTF-8)"));
    fs::remove_file(&config).expect("a file");
    refuse(&format!("{file}: No such file or directory"));
    fs::create_dir(&config).expect("a directory");
    refuse(&format!("{file}: Is a directory"));
    fs::remove_dir(&config).expect("a directory");
    // Who may change the policy may have anything.
    place.configure(GOOD);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o646)).expect("its mode");
    daemon.signal(Signal::SIGHUP);
    daemon.says("configuration read");
    daemon.says("others than root may change it, and so grant themselves anything: chown root, chmod go-w");
    assert!(!stranger.path("run").join(&stranger.name).exists() && !stranger.node().exists(), "something was started");
    assert_eq!(daemon.log().matches("configuration read").count(), 1);
    daemon.wait_for_opens(0);
    daemon.stop();
}
