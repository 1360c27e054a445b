//! Puts everything that is built where a system has it: command, preload library, C library with header, `pkg-config` file and
//! manual pages.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;
use crate::command::{Fault, Words, unknown};

pub const HELP: &str = "  --prefix DIR       where it will be used, e.g. /usr/local
  --libdir DIR       directory of the C library, other than PREFIX/lib
  --destdir DIR      put it below DIR instead, for packaging
  --profile PROFILE  a profile of cargo's other than release
  --only-c           the C library alone";

struct Options {
    prefix: PathBuf,
    libdir: Option<PathBuf>,
    destdir: Option<PathBuf>,
    profile: String,
    only_c: bool,
}

fn options(words: &[String]) -> Result<Options, Fault> {
    let mut options =
        Options { prefix: PathBuf::new(), libdir: None, destdir: None, profile: "release".to_owned(), only_c: false };
    let mut words = Words::of(words);
    while let Some(word) = words.next() {
        match word {
            "--prefix" => options.prefix = words.value(word)?.into(),
            "--libdir" => options.libdir = Some(words.value(word)?.into()),
            "--destdir" => options.destdir = Some(words.value(word)?.into()),
            "--profile" => options.profile = words.value(word)?.to_owned(),
            "--only-c" => options.only_c = true,
            other => return Err(unknown(other)),
        }
    }
    if options.prefix.as_os_str().is_empty() {
        return Err(Fault::wrong("--prefix is wanted: where it will be used"));
    }
    if !options.prefix.is_absolute() || options.libdir.as_ref().is_some_and(|libdir| !libdir.is_absolute()) {
        return Err(Fault::wrong("--prefix and --libdir have to be absolute paths"));
    }
    Ok(options)
}

pub fn main(words: &[String]) -> Result<bool, Fault> {
    let options = options(words)?;
    let version = env!("CARGO_PKG_VERSION");
    let major = version.split('.').next().unwrap_or(version);
    // The name that programs linked with it will ask for.
    let soname = format!("-Clink-arg=-Wl,-soname,libnlmmap.so.{major}");
    let c = ["rustc", "--package", "nlmmap-c", "--lib", "--profile", &options.profile, "--", &soname];
    if !cargo::run(&c)? {
        return Ok(false);
    }
    let rest = ["build", "--package", "nlmmap", "--package", "nlmmap-preload", "--profile", &options.profile];
    if !options.only_c && !cargo::run(&rest)? {
        return Ok(false);
    }
    let profile = if options.profile == "dev" { "debug" } else { &options.profile };
    let (built, source) = (cargo::target_dir()?.join(profile), cargo::root());
    let below = |path: &Path| match &options.destdir {
        Some(directory) => directory.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    };
    let root = below(&options.prefix);
    let used_in = options.libdir.clone().unwrap_or_else(|| options.prefix.join("lib"));
    let lib = below(&used_in);
    if !options.only_c {
        put(&built.join("nlmmap"), &root.join("bin/nlmmap"), 0o755)?;
        put(&built.join("libnlmmap_preload.so"), &root.join("lib/nlmmap/libnlmmap_preload.so"), 0o644)?;
        let pages = root.join("share/man/man1");
        let made = Command::new(built.join("nlmmap")).arg("manual").arg(&pages).status();
        if !made.map_err(|e| format!("nlmmap manual: {e}"))?.success() {
            return Ok(false);
        }
        put(&source.join("docs/nlmmap.toml.5"), &root.join("share/man/man5/nlmmap.toml.5"), 0o644)?;
    }
    let library = lib.join(format!("libnlmmap.so.{version}"));
    put(&built.join("libnlmmap.so"), &library, 0o644)?;
    put(&built.join("libnlmmap.a"), &lib.join("libnlmmap.a"), 0o644)?;
    for name in [format!("libnlmmap.so.{major}"), "libnlmmap.so".to_owned()] {
        let link = lib.join(name);
        let _ = fs::remove_file(&link);
        symlink(format!("libnlmmap.so.{version}"), &link).map_err(|e| format!("{}: {e}", link.display()))?;
    }
    put(&source.join("include/nlmmap.h"), &root.join("include/nlmmap.h"), 0o644)?;
    put(&source.join("docs/nlmmap.3"), &root.join("share/man/man3/nlmmap.3"), 0o644)?;
    let description = source.join("packaging/nlmmap.pc.in");
    let text = fs::read_to_string(&description).map_err(|e| format!("{}: {e}", description.display()))?;
    // What lies below the prefix moves with it.
    let libdir = match used_in.strip_prefix(&options.prefix) {
        Ok(below) => format!("${{prefix}}/{}", below.display()),
        Err(_) => used_in.display().to_string(),
    };
    let values =
        [("@prefix@", options.prefix.display().to_string()), ("@libdir@", libdir), ("@version@", version.to_owned())];
    let text = values.iter().fold(text, |text, (name, value)| text.replace(name, value));
    write(&lib.join("pkgconfig/nlmmap.pc"), text.as_bytes(), 0o644)?;
    println!("installed in {}", root.display());
    Ok(true)
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<(), String> {
    let bytes = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
    write(to, &bytes, mode)
}

/// A new file in the place of what is there: a program that runs keeps the old one.
fn write(to: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", to.display());
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let _ = fs::remove_file(to);
    fs::write(to, bytes).map_err(failed)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(failed)
}
