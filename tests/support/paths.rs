//! Where things are: the repository, the preload library, compiled clients, scratch files.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The repository's root. `NLMMAP_ROOT` moves it for test binaries that run elsewhere than they were built.
pub fn repository() -> PathBuf {
    env::var_os("NLMMAP_ROOT").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// The target directory this test binary was built into.
fn target() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().unwrap_or(tmp).to_path_buf()
}

/// Compiled clients; `NLMMAP_CLIENTS` names a directory that came with them, for machines without a compiler.
pub fn clients_dir() -> PathBuf {
    env::var_os("NLMMAP_CLIENTS").map_or_else(|| target().join("clients"), PathBuf::from)
}

/// A fresh path for a temporary file, on a file system that exists wherever the binary runs.
pub fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nr = NEXT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("nlmmap-test-{}-{nr}-{name}", std::process::id()))
}

/// The preload library: what `NLMMAP_PRELOAD` names, or a release build made here, once.
pub fn preload() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = env::var_os("NLMMAP_PRELOAD") {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "NLMMAP_PRELOAD names {}, which is no file", path.display());
            return path;
        }
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--release", "--package", "nlmmap-preload", "--target-dir"])
            .arg(target())
            .current_dir(repository())
            .status()
            .expect("cargo starts");
        assert!(status.success(), "the preload library does not build");
        target().join("release/libnlmmap_preload.so")
    })
}
