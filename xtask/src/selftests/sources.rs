//! Debian's sources of what is installed: Perl's and bash's tests are in no package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The unpacked source of a package, fetched once.
pub fn of(package: &str, home: &Path) -> Result<PathBuf, String> {
    let (place, done) = (home.join(package), home.join(package).join("done"));
    if !done.is_file() {
        let _ = fs::remove_dir_all(&place);
        fetch(package, &place)?;
        fs::write(&done, "").map_err(|e| format!("{}: {e}", done.display()))?;
    }
    Ok(place.join("source"))
}

fn fetch(package: &str, place: &Path) -> Result<(), String> {
    let fault = |e: std::io::Error| format!("{}: {e}", place.display());
    let os = fs::read_to_string("/etc/os-release").map_err(|e| format!("/etc/os-release: {e}"))?;
    let word =
        |name: &str| os.lines().find_map(|line| line.strip_prefix(name)).map(|word| word.trim_matches('"').to_owned());
    let suite = match (word("ID="), word("VERSION_CODENAME=")) {
        (Some(id), Some(suite)) if id == "debian" => suite,
        _ => return Err(format!("the source of {package} is fetched on Debian only")),
    };
    fs::create_dir_all(place.join("lists/partial")).map_err(fault)?;
    // Lists of its own: what this machine's apt knows stays as it is.
    let list = place.join("sources.list");
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(&list, format!("deb-src [signed-by={key}] http://deb.debian.org/debian {suite} main\n"))
        .map_err(fault)?;
    let options = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=/dev/null".into(),
        format!("Dir::State::lists={}", place.join("lists").display()),
        "Dir::Cache::pkgcache=".into(),
        "Dir::Cache::srcpkgcache=".into(),
    ];
    for args in [&["update"][..], &["source", "--download-only", package]] {
        let mut apt = Command::new("apt-get");
        for option in &options {
            apt.args(["-o", option]);
        }
        let output = apt.args(args).current_dir(place).output().map_err(|e| format!("apt-get: {e}"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("apt-get {}: {}", args.join(" "), why.lines().last().unwrap_or("failed")));
        }
    }
    let files = fs::read_dir(place).map_err(fault)?.flatten().map(|entry| entry.path());
    let archive = files
        .filter(|path| path.to_string_lossy().contains(".orig.tar."))
        .find(|path| !path.to_string_lossy().ends_with(".asc"));
    let archive = archive.ok_or(format!("no archive of {package} has come"))?;
    fs::create_dir_all(place.join("source")).map_err(fault)?;
    let mut tar = Command::new("tar");
    tar.arg("--extract")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(place.join("source"))
        .arg("--strip-components=1");
    match tar.arg("--no-same-owner").status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("{} cannot be unpacked", archive.display())),
    }
}
