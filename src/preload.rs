//! The preload library: where it is, whether it is one, and how it is put before a program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::program::elf::{self, Machine};

/// The library's file name.
pub const FILE_NAME: &str = "libnlmmap_preload.so";
/// The variable that names the library, and overrides the search.
pub const PATH_VARIABLE: &str = "NLMMAP_PRELOAD";
/// The version of the contract between this program and the library.
pub const ABI: u32 = 1;

/// The library, found and recognized.
#[derive(Clone, Debug)]
pub struct Library {
    /// Its absolute path.
    pub path: PathBuf,
    /// What it was built for.
    pub machine: Machine,
}

/// Why there is no library to use.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum LibraryError {
    #[error("the preload library {FILE_NAME} is not there (looked in {})", list(looked))]
    Missing { looked: Vec<PathBuf> },
    #[error("the preload library {} (from {PATH_VARIABLE}): {source}", path.display())]
    Named { path: PathBuf, source: io::Error },
    #[error("{} is not nlmmap's preload library: {why}", path.display())]
    Foreign { path: PathBuf, why: String },
    #[error("the preload library {} has abi {found}, this program needs {ABI}", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("the preload library's path {} holds a blank or a colon, which LD_PRELOAD cannot express", path.display())]
    Path { path: PathBuf },
}

impl LibraryError {
    /// What helps.
    pub fn cures(&self) -> Vec<String> {
        let cure = match self {
            LibraryError::Missing { .. } => {
                format!("build it beside this program (cargo build --release), or set {PATH_VARIABLE} to its path")
            }
            LibraryError::Named { .. } | LibraryError::Foreign { .. } => {
                format!("set {PATH_VARIABLE} to the path of {FILE_NAME}, or unset it")
            }
            LibraryError::Version { .. } => "build or install both from the same release".to_owned(),
            LibraryError::Path { .. } => {
                format!("copy it to a path without them, and set {PATH_VARIABLE} to that")
            }
        };
        vec![cure]
    }
}

/// Finds the library: where `NLMMAP_PRELOAD` says, else beside this program, else in `../lib/nlmmap`.
pub fn find() -> Result<Library, LibraryError> {
    if let Some(path) = env::var_os(PATH_VARIABLE).filter(|v| !v.is_empty()) {
        let named = PathBuf::from(path);
        return match named.canonicalize() {
            Ok(path) => recognize(path),
            Err(source) => Err(LibraryError::Named { path: named, source }),
        };
    }
    let looked = places();
    match looked.iter().find_map(|place| place.canonicalize().ok()) {
        Some(path) => recognize(path),
        None => Err(LibraryError::Missing { looked }),
    }
}

/// The value of `LD_PRELOAD` that adds `library` to the preloads already there. It comes last: sanitizers insist on
/// being first, and whatever another library wraps and hands on reaches ours.
pub fn with_others(library: &Path, others: Option<&OsStr>) -> OsString {
    let others = others.unwrap_or_default().as_bytes();
    let is_separator = |b: &u8| matches!(b, b':' | b' ');
    let mut value = OsString::new();
    for other in others.split(is_separator).filter(|o| !o.is_empty() && *o != library.as_os_str().as_bytes()) {
        value.push(OsStr::from_bytes(other));
        value.push(":");
    }
    value.push(library);
    value
}

fn places() -> Vec<PathBuf> {
    let Some(dir) = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())) else {
        return Vec::new();
    };
    let installed = dir.parent().unwrap_or(Path::new("/")).join("lib/nlmmap").join(FILE_NAME);
    vec![dir.join(FILE_NAME), installed]
}

fn recognize(path: PathBuf) -> Result<Library, LibraryError> {
    if path.as_os_str().as_bytes().iter().any(|b| *b == b':' || b.is_ascii_whitespace()) {
        return Err(LibraryError::Path { path });
    }
    let facts = match elf::read(&path) {
        Ok(facts) => facts,
        Err(error) => {
            return Err(LibraryError::Foreign { path, why: error.to_string() });
        }
    };
    match facts.preload_abi {
        Some(ABI) => Ok(Library { path, machine: facts.machine }),
        Some(found) => Err(LibraryError::Version { path, found }),
        None => Err(LibraryError::Foreign { path, why: "it does not export nlmmap_preload_abi".to_owned() }),
    }
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_preloads_stay_and_stay_first() {
        let add = |others: &str| {
            let value = with_others(Path::new("/l/x.so"), Some(OsStr::new(others)));
            value.into_string().unwrap()
        };
        assert_eq!(with_others(Path::new("/l/x.so"), None), "/l/x.so");
        assert_eq!(add(""), "/l/x.so");
        assert_eq!(add("libasan.so.8 /a.so"), "libasan.so.8:/a.so:/l/x.so");
        assert_eq!(add("/l/x.so:/a.so::"), "/a.so:/l/x.so");
    }
}
