//! Why a program cannot be entered, and what helps: the words that a user sees.

use std::io;
use std::path::PathBuf;

use super::elf::{Machine, ReadError};
use super::search::NotRunnable;
use super::secure::Reason;

/// The way of programs that no library can enter.
const DEVICE: &str = "or change the program to open a device node instead of a socket, which needs no preload: \
                      serve one with `sudo nlmmap serve`, and see include/nlmmap.h";

const SUPERVISOR: &str = "serve it from beside: nlmmap run --via supervisor -- ...";

/// A program that cannot be entered. Its text is the cause; [`Refusal::cures`] says what can be done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Refusal {
    #[error("{}: {why}", path.display())]
    NotRunnable { path: PathBuf, why: NotRunnable },
    #[error("{}: its interpreter {}: {why}", script.display(), path.display())]
    Interpreter { script: PathBuf, path: PathBuf, why: NotRunnable },
    #[error("{}: cannot be read, so nobody can tell whether it can be entered: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: neither an ELF program nor a script", path.display())]
    NotAProgram { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Damaged { path: PathBuf, source: ReadError },
    #[error("{}: a script of scripts, deeper than the kernel follows", path.display())]
    ScriptsTooDeep { path: PathBuf },
    #[error("{}: made for {machine}, and the preload library for {library}", path.display())]
    Machine { path: PathBuf, machine: Machine, library: Machine },
    #[error("{}: statically linked: no dynamic linker runs that would load the preload library", path.display())]
    Static { path: PathBuf },
    #[error("{}: a statically linked go program: it calls the kernel without a C library", path.display())]
    StaticGo { path: PathBuf },
    #[error("{}: the preload library itself, not a program", path.display())]
    SharedObject { path: PathBuf },
    #[error("{}: its dynamic linker {}: {why}", path.display(), linker.display())]
    NoLinker { path: PathBuf, linker: PathBuf, why: NotRunnable },
    #[error("{}: {}: the dynamic linker drops LD_PRELOAD for it", path.display(), reason_text(reason))]
    Secure { path: PathBuf, reason: Reason },
    #[error("{}: {}, and a supervised program gains no rights (no_new_privs)", path.display(), reason_text(reason))]
    Gains { path: PathBuf, reason: Reason },
}

impl Refusal {
    /// What can be done instead, best first.
    pub fn cures(&self) -> Vec<String> {
        let own = |cures: &[&str]| cures.iter().map(|&c| c.to_owned()).collect();
        match self {
            Refusal::NotRunnable { path, why } | Refusal::Interpreter { path, why, .. } => match why {
                NotRunnable::Missing => own(&["check the name, or install the program"]),
                NotRunnable::Denied => vec![format!("chmod +x {}", path.display())],
                NotRunnable::NotAFile => own(&["name a program"]),
                NotRunnable::Other(_) => Vec::new(),
            },
            Refusal::Unreadable { .. } => own(&["run nlmmap as a user who may read it"]),
            Refusal::NotAProgram { .. } => own(&["give it a `#!` line that names its interpreter"]),
            Refusal::Damaged { .. } => own(&["build or install the program again"]),
            Refusal::ScriptsTooDeep { .. } => own(&["let one of its `#!` lines name a program that is no script"]),
            Refusal::Machine { library, .. } => vec![
                format!("use a build of the program for {library}"),
                "or set NLMMAP_PRELOAD to a preload library built for the program's machine".to_owned(),
            ],
            Refusal::Static { .. } => own(&[SUPERVISOR, "link the program dynamically (without -static)", DEVICE]),
            Refusal::StaticGo { .. } => own(&[
                SUPERVISOR,
                "build it with cgo (CGO_ENABLED=1) and make its netlink calls through C, \
                 since those of go's syscall package pass by every preload",
                DEVICE,
            ]),
            Refusal::SharedObject { .. } => own(&["name the program that is to run"]),
            Refusal::NoLinker { linker, .. } => {
                let text = linker.to_string_lossy();
                let package = match text.contains("musl") {
                    true => "install musl (package musl)".to_owned(),
                    false => format!("install the C library that brings {text}"),
                };
                vec![package]
            }
            Refusal::Secure { reason, .. } | Refusal::Gains { reason, .. } => match reason {
                Reason::Setuid(0) => {
                    own(&["run the whole as root, who gains nothing by it: sudo nlmmap run -- ...", DEVICE])
                }
                Reason::Setuid(uid) => vec![
                    format!("run the whole as user {uid}, who gains nothing by it: sudo -u '#{uid}' nlmmap run -- ..."),
                    DEVICE.to_owned(),
                ],
                Reason::Setgid(gid) => vec![
                    format!("run the whole with group {gid}: sudo -g '#{gid}' nlmmap run -- ..."),
                    DEVICE.to_owned(),
                ],
                Reason::Capabilities => own(&[
                    "run the whole as root: sudo nlmmap run -- ...",
                    "or use a copy of the program without file capabilities, and hand them to it as ambient ones \
                     (setpriv --inh-caps --ambient-caps)",
                    DEVICE,
                ]),
                Reason::Caller => own(&["start nlmmap with equal real and effective ids (not from a set-id program)"]),
            },
        }
    }

    /// Whether only the dynamic linker is missing, so that the program can be served from beside it.
    pub fn is_static(&self) -> bool {
        matches!(self, Refusal::Static { .. } | Refusal::StaticGo { .. })
    }

    /// The exit status that `env`, `nice` and the shell give: 127 not found, 126 found and not run.
    pub fn exit_code(&self) -> u8 {
        match self {
            Refusal::NotRunnable { why: NotRunnable::Missing, .. } => 127,
            _ => 126,
        }
    }
}

fn reason_text(reason: &Reason) -> String {
    match reason {
        Reason::Setuid(uid) => format!("set-user-id (uid {uid})"),
        Reason::Setgid(gid) => format!("set-group-id (gid {gid})"),
        Reason::Capabilities => "has file capabilities".to_owned(),
        Reason::Caller => "started with real ids that are not the effective ones".to_owned(),
    }
}
