//! `cargo xtask package`: what a registry would get, and that it builds from those files alone.

use std::collections::BTreeSet;
use std::fs;

use crate::cargo;

/// The crates that are published, each with files that must be in it: what they are read by, and what they may be used by.
const CRATES: [(&str, &[&str]); 3] = [
    ("cuse-rs", &["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "src/lib.rs"]),
    ("nlmmap-ring", &["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "src/lib.rs"]),
    (
        "nlmmap",
        &[
            "Cargo.toml",
            "README.md",
            "LICENSE-MIT",
            "LICENSE-APACHE",
            "CHANGELOG.md",
            "src/lib.rs",
            "src/main.rs",
            "examples/nfqueue_verdict.rs",
            "include/nlmmap.h",
        ],
    ),
];

/// Bytes of one package at most: a mistake in a list of files shows here.
const MOST: u64 = 2 << 20;

/// Packs the crates, builds each from what was packed, with the others as packed too, and looks at what is in them.
pub fn all() -> Result<bool, String> {
    let target = cargo::target_dir()?.join("packaged");
    let directory = target.to_str().ok_or("the target directory's name is not UTF-8")?;
    // What is committed or not does not matter for what is checked here.
    let mut words = vec!["package", "--quiet", "--locked", "--allow-dirty", "--target-dir", directory];
    for (name, _) in CRATES {
        words.extend(["--package", name]);
    }
    forget_earlier();
    // Nor what was built of them: cargo takes a version for the same as ever.
    let _ = fs::remove_dir_all(&target);
    if !cargo::run(&words)? {
        return Ok(false);
    }
    for (name, needed) in CRATES {
        check(name, needed)?;
        let file = target.join(format!("package/{name}-{}.crate", env!("CARGO_PKG_VERSION")));
        let size = fs::metadata(&file).map_err(|error| format!("{}: {error}", file.display()))?.len();
        println!("{name}: {} KiB, built from its own files", size.div_ceil(1024));
        if size > MOST {
            return Err(format!("{}: {size} bytes, more than {MOST}", file.display()));
        }
    }
    Ok(true)
}

fn check(name: &str, needed: &[&str]) -> Result<(), String> {
    let list = cargo::output(&["package", "--list", "--allow-dirty", "--offline", "--package", name])?;
    let files: BTreeSet<&str> = list.lines().collect();
    match needed.iter().find(|file| !files.contains(**file)) {
        Some(file) => Err(format!("{name} would be published without {file}")),
        None => Ok(()),
    }
}

/// Removes what cargo has unpacked of our crates before: it knows them by version, which an earlier state of them has too, and would
/// build against that.
fn forget_earlier() {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".cargo")));
    let Some(Ok(registries)) = home.map(|home| fs::read_dir(home.join("registry/src"))) else { return };
    // Registries of this machine have no host in their name; what came from elsewhere stays.
    for registry in registries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"-")) {
        for (name, _) in CRATES {
            let _ = fs::remove_dir_all(registry.path().join(format!("{name}-{}", env!("CARGO_PKG_VERSION"))));
        }
    }
}
