//! Puts everything that is built where a system has it: command, preload library, C library with header, `pkg-config` file and
//! manual page.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::cargo;

const USAGE: &str = "\
usage: cargo xtask install --prefix DIR [--destdir DIR] [--profile PROFILE] [--only-c]

  --prefix DIR       where it will be used, e.g. /usr/local
  --destdir DIR      put it below DIR instead, for packaging
  --profile PROFILE  a profile of cargo's other than release
  --only-c           the C library alone";

struct Options {
    prefix: PathBuf,
    destdir: Option<PathBuf>,
    profile: String,
    only_c: bool,
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options { prefix: PathBuf::new(), destdir: None, profile: "release".to_owned(), only_c: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or(format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--prefix" => options.prefix = value()?.into(),
            "--destdir" => options.destdir = Some(value()?.into()),
            "--profile" => options.profile = value()?,
            "--only-c" => options.only_c = true,
            _ => return Err(USAGE.to_owned()),
        }
    }
    if !options.prefix.is_absolute() {
        return Err(format!("--prefix has to be an absolute path\n{USAGE}"));
    }
    Ok(options)
}

pub fn main(args: &[String]) -> Result<bool, String> {
    let options = options(args)?;
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
    if !options.only_c {
        put(&built.join("nlmmap"), &root.join("bin/nlmmap"), 0o755)?;
        put(&built.join("libnlmmap_preload.so"), &root.join("lib/nlmmap/libnlmmap_preload.so"), 0o644)?;
    }
    let library = root.join(format!("lib/libnlmmap.so.{version}"));
    put(&built.join("libnlmmap.so"), &library, 0o644)?;
    put(&built.join("libnlmmap.a"), &root.join("lib/libnlmmap.a"), 0o644)?;
    for name in [format!("libnlmmap.so.{major}"), "libnlmmap.so".to_owned()] {
        let link = root.join("lib").join(name);
        let _ = fs::remove_file(&link);
        symlink(format!("libnlmmap.so.{version}"), &link).map_err(|e| format!("{}: {e}", link.display()))?;
    }
    put(&source.join("include/nlmmap.h"), &root.join("include/nlmmap.h"), 0o644)?;
    put(&source.join("docs/nlmmap.3"), &root.join("share/man/man3/nlmmap.3"), 0o644)?;
    let description = source.join("packaging/nlmmap.pc.in");
    let text = fs::read_to_string(&description).map_err(|e| format!("{}: {e}", description.display()))?;
    let text = text.replace("@prefix@", &options.prefix.display().to_string()).replace("@version@", version);
    write(&root.join("lib/pkgconfig/nlmmap.pc"), text.as_bytes(), 0o644)?;
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
