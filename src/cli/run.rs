//! `nlmmap run`: becomes the program, with the preload library in it.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use nix::errno::Errno;

mod node;
mod summary;
mod via;

use super::complain;
use crate::preload::{self, Library};
use crate::program::{self, Program, Refusal, script, search, secure};
use node::Node;
use summary::{Form, Place};

/// Run a program with its netlink rings served from userspace.
///
/// nlmmap puts libnlmmap_preload.so before the program (LD_PRELOAD) and becomes it: same process, same exit status,
/// same signals. Sockets on which the program sets no ring, and programs that know no rings, behave as ever.
///
/// Before that it looks whether the library can enter the program. Where there is no dynamic linker that would load
/// it, the program is put under a supervisor instead: a process beside it, to which the kernel hands its calls on
/// netlink sockets (seccomp). Where the linker would leave the library out nlmmap refuses, and says why.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Answer as Linux 4.5 did, faults included (NLMMAP_STRICT=1)
    ///
    /// Without it, rings need no CAP_NET_ADMIN and multicast and replies arrive in the ring instead of as copies.
    #[arg(long)]
    strict: bool,

    /// Let the library report on stderr, from this level on (NLMMAP_LOG)
    ///
    /// `info` writes one line when a ring socket is closed: frames, copies, overruns and system calls.
    #[arg(long, value_name = "LEVEL")]
    log: Option<Level>,

    /// Make the program's netlink sockets on this device node (NLMMAP_DEVICE)
    ///
    /// The daemon behind the node (`nlmmap serve`) has the real sockets, and moves the frames; the program needs no
    /// right but to open the node, and gets nothing through it that it could not have had itself.
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,

    /// Say at the end, on stderr, what went through the program's rings
    ///
    /// nlmmap then stays beside the program, which gets a process id of its own, until that ends: signals are handed
    /// on to it, and nlmmap ends as it did. What it starts is counted too. A crash loses nothing that was counted.
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    summary: Option<Form>,

    /// Write the summary to this file instead
    #[arg(long, value_name = "FILE", requires = "summary")]
    summary_file: Option<PathBuf>,

    /// How its calls are served: by the library inside it, or by a process beside it
    #[arg(long, value_name = "WAY", default_value = "auto")]
    via: Via,

    /// Only say whether the program can be entered
    #[arg(long)]
    check: bool,

    /// The program, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Via {
    /// The library where it can enter, else the supervisor
    Auto,
    /// The library (LD_PRELOAD)
    Preload,
    /// A supervisor: for static programs, go, and raw system calls. Needs Linux 5.9 and no rights
    Supervisor,
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

const HELP: &str = "\
Examples:
  nlmmap run -- ./collector -i eth0
  nlmmap run --log info -- ./collector      say at the end what went through the rings
  nlmmap run --summary -- ./collector       messages, losses and their cures, system calls saved
  nlmmap run --summary=json --summary-file sum.json -- ./collector
  nlmmap run --check -- ./collector         can it be entered? which file is it in the end?
  nlmmap run --device /dev/nlmmap -- ./collector
                                            have its sockets from the daemon (nlmmap serve)
  nlmmap run --via supervisor -- ./collector
                                            serve it from beside, whatever it is
  sudo nlmmap run -- ./queue-tool           sudo outside: it would drop LD_PRELOAD inside

What can be entered: dynamically linked programs (glibc or musl) of this machine's architecture, and scripts \
whose interpreter is one. Programs that it starts inherit the library.
What cannot, and is supervised: static programs, most go programs.
What is refused: other architectures, set-user-id programs and programs with file capabilities when they would \
gain something.

The library is taken from NLMMAP_PRELOAD, or from the directory of nlmmap, or from ../lib/nlmmap beside that.
Libraries already in LD_PRELOAD are kept, and stay in front. A program built with -fsanitize=address wants its \
runtime first: ASAN_OPTIONS=verify_asan_link_order=0.

Exit status: that of the program; 127 when it is not found, 126 when it cannot be entered or run, 2 for wrong \
arguments.";

/// Why there is nothing to run: cause, cures, exit status.
struct Failure(String, Vec<String>, u8);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure(refusal.to_string(), refusal.cures(), refusal.exit_code())
    }
}

impl Failure {
    fn tell(self) -> ExitCode {
        let Failure(cause, cures, code) = self;
        complain(&cause, &cures);
        ExitCode::from(code)
    }
}

/// Returns only when the program was not started, or has been summed up.
pub fn main(arguments: Arguments) -> ExitCode {
    if let Some(why) = via::reason(&arguments) {
        return via::supervise(&arguments, &why);
    }
    let node = arguments.device.as_deref().map(node::check).transpose();
    // The parser asks for at least one word.
    let program = arguments.command.first().map_or(OsStr::new(""), OsString::as_os_str);
    let prepared = node.and_then(|node| Ok((node, prepare(program)?)));
    let failure = match prepared {
        Ok((node, (library, program))) if arguments.check => return describe(node.as_ref(), &library, &program),
        Ok((node, (library, program))) => {
            return summed(&arguments, |view| become_program(&arguments, node.as_ref(), &library, &program, view));
        }
        Err(failure) => failure,
    };
    failure.tell()
}

/// Becomes the program, in a child that is summed up if that is asked for, by the directory it is given then.
fn summed(arguments: &Arguments, become_it: impl FnOnce(Option<&Path>) -> Failure) -> ExitCode {
    let failure = match arguments.summary.map(|form| Place::make(form, arguments.summary_file.as_deref())) {
        None => become_it(None),
        Some(Err(cause)) => Failure(cause, Vec::new(), 126),
        Some(Ok(place)) => {
            let dir = place.dir.clone();
            return place.watch(&arguments.command, || become_it(Some(&dir)).tell());
        }
    };
    failure.tell()
}

fn prepare(name: &OsStr) -> Result<(Library, Program), Failure> {
    let path = search::find(name).map_err(|why| Refusal::NotRunnable { path: name.into(), why })?;
    let library = preload::find().map_err(|e| Failure(e.to_string(), e.cures(), 126))?;
    let caller = secure::Caller::current()
        .map_err(|e| Failure(format!("cannot read /proc/self: {e}"), vec!["mount /proc".to_owned()], 126))?;
    let program = program::judge(&path, library.machine, &caller)?;
    Ok((library, program))
}

fn describe(node: Option<&Node>, library: &Library, program: &Program) -> ExitCode {
    println!("{} can be entered", program.path.display());
    for script in &program.scripts {
        println!("  script   {}", script.display());
    }
    println!("  program  {} ({})", program.entered.display(), program.machine);
    if let Some(linker) = &program.linker {
        println!("  linker   {}", linker.display());
    }
    println!("  library  {}", library.path.display());
    if let Some(node) = node {
        println!("  device   {} ({})", node.path.display(), node.kind);
    }
    if let Some(note) = program.note {
        println!("  note     {note}");
    }
    ExitCode::SUCCESS
}

fn become_program(
    arguments: &Arguments,
    node: Option<&Node>,
    library: &Library,
    program: &Program,
    view: Option<&Path>,
) -> Failure {
    if matches!(arguments.log, Some(Level::Info | Level::Debug)) {
        eprintln!("nlmmap: by the library in it: {}", library.path.display());
    }
    let environment = environment(arguments, node, &library.path, view);
    start(&program.path, !program.scripts.is_empty(), &arguments.command, &environment)
}

/// Becomes the program: why not, when this comes back.
fn start(path: &Path, is_script: bool, command: &[OsString], environment: &[(OsString, OsString)]) -> Failure {
    let error = execute(path, is_script, command, environment);
    let cause = format!("{}: cannot be started: {}", path.display(), io::Error::from(error));
    let cures = match error {
        Errno::E2BIG => vec!["pass fewer or shorter arguments".to_owned()],
        Errno::EACCES | Errno::EPERM => {
            vec!["look for a noexec mount, or a security policy that forbids it".to_owned()]
        }
        Errno::ENOEXEC => {
            vec!["this kernel does not run such programs (32-bit support may be switched off)".to_owned()]
        }
        _ => Vec::new(),
    };
    let code = if error == Errno::ENOENT { 127 } else { 126 };
    Failure(cause, cures, code)
}

/// What the program finds in its environment: ours, with the library and its settings put in.
fn environment(
    arguments: &Arguments,
    node: Option<&Node>,
    library: &Path,
    view: Option<&Path>,
) -> Vec<(OsString, OsString)> {
    let others = env::var_os("LD_PRELOAD");
    let mut set = vec![("LD_PRELOAD", preload::with_others(library, others.as_deref()))];
    if arguments.strict {
        set.push(("NLMMAP_STRICT", "1".into()));
    }
    if let Some(level) = arguments.log {
        set.push(("NLMMAP_LOG", level.name().into()));
    }
    if let Some(node) = node {
        set.push(("NLMMAP_DEVICE", node.path.clone().into_os_string()));
    }
    if let Some(view) = view {
        set.push(("NLMMAP_VIEW", view.into()));
    }
    let kept = env::vars_os().filter(|(name, _)| set.iter().all(|(new, _)| name != new));
    kept.chain(set.iter().map(|(name, value)| ((*name).into(), value.clone()))).collect()
}

/// `execve`, and a shell for a script without a `#!` line, as `execvp` does it. Gives the error when it comes back.
fn execute(path: &Path, is_script: bool, command: &[OsString], environment: &[(OsString, OsString)]) -> Errno {
    let c_string = |bytes: &OsStr| CString::new(bytes.as_bytes()).map_err(|_| Errno::EINVAL);
    let all = || -> Result<_, Errno> {
        let words = command.iter().map(|word| c_string(word)).collect::<Result<Vec<_>, _>>()?;
        let settings = environment.iter().map(|(name, value)| {
            let mut setting = name.clone().into_vec();
            setting.push(b'=');
            setting.extend_from_slice(value.as_bytes());
            CString::new(setting).map_err(|_| Errno::EINVAL)
        });
        Ok((c_string(path.as_os_str())?, words, settings.collect::<Result<Vec<_>, _>>()?))
    };
    let (file, mut words, settings) = match all() {
        Ok(all) => all,
        Err(error) => return error,
    };
    let error = match nix::unistd::execve(&file, &words, &settings) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    if error != Errno::ENOEXEC || !is_script {
        return error;
    }
    let Ok(shell) = c_string(script::default_shell().as_os_str()) else {
        return error;
    };
    words.splice(..1, [shell.clone(), file]);
    match nix::unistd::execve(&shell, &words, &settings) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
