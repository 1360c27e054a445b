//! Can the preload library enter this program? Judged before it runs, for the dynamic linker says nothing, or little,
//! when it leaves a preload out.

pub mod elf;
pub mod refusal;
pub mod script;
pub mod search;
pub mod secure;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use refusal::Refusal;

/// A program that the library can enter.
#[derive(Debug)]
pub struct Program {
    /// The file that was asked for.
    pub path: PathBuf,
    /// The ELF file that runs in the end: `path` itself, or the interpreter of a script.
    pub entered: PathBuf,
    /// Scripts on the way, from `path` on.
    pub scripts: Vec<PathBuf>,
    /// Its dynamic linker; `None` when it is one itself.
    pub linker: Option<PathBuf>,
    /// What it runs on.
    pub machine: elf::Machine,
    /// What a user should know though it can be entered.
    pub note: Option<&'static str>,
}

const NOTE_GO: &str =
    "a go program: netlink calls made through C (cgo) are served, those of go's own syscall package are not seen";
const NOTE_LINKER: &str = "a dynamic linker: the program that it is told to load is not judged";

/// The ELF file that runs in the end, and the scripts on the way.
fn entered(path: &Path) -> Result<(PathBuf, Vec<PathBuf>), Refusal> {
    let mut scripts = Vec::new();
    let mut entered = path.to_owned();
    loop {
        search::runnable(&entered).map_err(|why| match scripts.last() {
            Some(script) => Refusal::Interpreter { script: PathBuf::clone(script), path: entered.clone(), why },
            None => Refusal::NotRunnable { path: entered.clone(), why },
        })?;
        let head = head(&entered).map_err(|source| Refusal::Unreadable { path: entered.clone(), source })?;
        if elf::is_elf(&head) {
            return Ok((entered, scripts));
        }
        if scripts.len() == script::DEPTH_MAX {
            return Err(Refusal::ScriptsTooDeep { path: path.to_owned() });
        }
        let next = interpreter(&entered, &head)?;
        scripts.push(std::mem::replace(&mut entered, next));
    }
}

/// Refuses a program at `path` that would gain rights when `caller` executes it.
pub fn gains_nothing(path: &Path, caller: &secure::Caller) -> Result<(), Refusal> {
    let (entered, _) = entered(path)?;
    let grants = secure::grants(&entered).map_err(|source| Refusal::Unreadable { path: entered.clone(), source })?;
    match secure::judge(caller, &grants) {
        None | Some(secure::Reason::Caller) => Ok(()),
        Some(reason) => Err(Refusal::Gains { path: entered, reason }),
    }
}

/// Judges the program at `path` for a library made for `library`, run by `caller`.
pub fn judge(path: &Path, library: elf::Machine, caller: &secure::Caller) -> Result<Program, Refusal> {
    let (entered, scripts) = entered(path)?;
    judge_elf(&entered, library, caller).map(|(facts, note)| Program {
        path: path.to_owned(),
        scripts,
        linker: facts.interpreter.map(PathBuf::from),
        machine: facts.machine,
        note,
        entered,
    })
}

/// The machine that this program was built for.
pub fn own_machine() -> Option<elf::Machine> {
    elf::machine(&head(Path::new("/proc/self/exe")).ok()?)
}

fn judge_elf(
    path: &Path,
    library: elf::Machine,
    caller: &secure::Caller,
) -> Result<(elf::Facts, Option<&'static str>), Refusal> {
    let here = || path.to_owned();
    let head = head(path).map_err(|source| Refusal::Unreadable { path: here(), source })?;
    match elf::machine(&head) {
        Some(machine) if machine != library => {
            return Err(Refusal::Machine { path: here(), machine, library });
        }
        _ => {}
    }
    let facts = elf::read(path).map_err(|source| Refusal::Damaged { path: here(), source })?;
    let note = match &facts.interpreter {
        Some(linker) => {
            let linker = PathBuf::from(linker);
            search::runnable(&linker).map_err(|why| Refusal::NoLinker { path: here(), linker, why })?;
            facts.go.then_some(NOTE_GO)
        }
        None if facts.go => return Err(Refusal::StaticGo { path: here() }),
        None if facts.linker && !facts.pie => Some(NOTE_LINKER),
        None if facts.preload_abi.is_some() => return Err(Refusal::SharedObject { path: here() }),
        None => return Err(Refusal::Static { path: here() }),
    };
    let grants = secure::grants(path).map_err(|source| Refusal::Unreadable { path: here(), source })?;
    match secure::judge(caller, &grants) {
        Some(reason) => Err(Refusal::Secure { path: here(), reason }),
        None => Ok((facts, note)),
    }
}

/// The program that runs a file which is not ELF.
fn interpreter(path: &Path, head: &[u8]) -> Result<PathBuf, Refusal> {
    match script::parse(head) {
        // `env` hands its own environment on: what it runs is what has to be entered.
        Some(line) => match script::env_target(&line).and_then(|name| search::find(name).ok()) {
            Some(target) => Ok(target),
            None => Ok(line.interpreter),
        },
        None if script::looks_like_text(head) && !head.starts_with(b"#!") => Ok(script::default_shell().to_owned()),
        None => Err(Refusal::NotAProgram { path: path.to_owned() }),
    }
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(script::LINE_MAX as u64).read_to_end(&mut head)?;
    Ok(head)
}
