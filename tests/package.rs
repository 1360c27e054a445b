//! The Debian packages in a fresh root, and the daemon within the limits of its unit.

#[path = "device/cage.rs"]
#[allow(dead_code, reason = "the device tests use the rest")]
mod cage;
#[path = "package/container.rs"]
mod container;
#[path = "device/daemon.rs"]
#[allow(dead_code, reason = "the device tests use the rest")]
mod daemon;
#[path = "package/recipe.rs"]
mod recipe;
#[path = "package/root.rs"]
mod root;
mod support;
#[path = "package/unit.rs"]
mod unit;

use root::Root;

/// What the packages are for beside the command.
const FILES: &[(&str, &str)] = &[
    ("nlmmap", "/usr/share/man/man1/nlmmap.1.gz"),
    ("nlmmap", "/usr/share/man/man1/nlmmap-serve.1.gz"),
    ("nlmmap", "/usr/share/man/man1/nlmmap-policy-check.1.gz"),
    ("nlmmap", "/usr/share/man/man5/nlmmap.toml.5.gz"),
    ("nlmmap", "/usr/share/doc/nlmmap/docs/policy.md.gz"),
    ("nlmmap", "/usr/share/doc/nlmmap/docs/container.md"),
    ("nlmmap", "/usr/share/doc/nlmmap/examples/container/pod.yaml"),
    ("nlmmap", "/usr/share/doc/nlmmap/LICENSE-MIT"),
    ("nlmmap", "/usr/share/doc/nlmmap/LICENSE-APACHE.gz"),
    ("libnlmmap0", "/usr/lib/x86_64-linux-gnu/libnlmmap.so.0"),
    ("libnlmmap-dev", "/usr/include/nlmmap.h"),
    ("libnlmmap-dev", "/usr/lib/x86_64-linux-gnu/libnlmmap.so"),
    ("libnlmmap-dev", "/usr/lib/x86_64-linux-gnu/libnlmmap.a"),
    ("libnlmmap-dev", "/usr/lib/x86_64-linux-gnu/pkgconfig/nlmmap.pc"),
    ("libnlmmap-dev", "/usr/share/man/man3/nlmmap.3.gz"),
];

/// Install, use, upgrade, remove, purge.
#[test]
fn packages_come_and_go_cleanly() {
    support::need_root();
    let (first, second) = (root::packages("1"), root::packages("2"));
    let root = Root::new();
    let before = root.files();

    root.install(&first);
    assert!(root.run("getent group nlmmap").contains("nlmmap:"), "the group of the node");
    assert!(root.run("nlmmap --version").starts_with("nlmmap "));
    assert!(root.run("nlmmap run --check -- /bin/sh && echo it can").ends_with("it can\n"));
    assert!(root.run("nlmmap run -- /bin/echo it runs").contains("it runs"));
    assert!(root.run("find /etc/systemd -name '*nlmmap*'").is_empty(), "started unasked");
    assert!(root.has("run/nlmmap"), "the directory for containers");
    // Containers leave documents out (`path-exclude`): whether the pages are in the package is asked of dpkg.
    for (package, file) in FILES {
        let listed = root.run(&format!("dpkg-query --listfiles {package}"));
        assert!(listed.lines().any(|line| line == *file), "{file}:\n{listed}");
    }
    assert!(root.run("ldconfig -p").contains("libnlmmap.so.0 "), "programs find the library");

    // An administrator's configuration outlives upgrade and removal.
    root.run("echo '# ours' >> /etc/nlmmap.toml");
    root.install(&second);
    assert!(root.run("dpkg-query -W nlmmap").trim_end().ends_with("-2"));
    assert!(root.run("tail -1 /etc/nlmmap.toml").contains("ours"));
    root.run("dpkg --remove libnlmmap-dev libnlmmap0 nlmmap");
    assert!(!root.has("usr/bin/nlmmap") && !root.has("usr/lib/nlmmap"), "removed");
    assert!(root.has("etc/nlmmap.toml"), "kept");
    root.run("dpkg --purge libnlmmap-dev libnlmmap0 nlmmap");
    let left: Vec<_> = root.files().into_iter().filter(|file| !before.contains(file)).collect();
    // Policy of the distribution: groups stay, since files of theirs may.
    assert!(left.is_empty(), "left behind: {left:?}");
}
