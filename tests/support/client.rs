//! A client program and the ways in which it must run: refused by the bare kernel, served with the preload.

use super::compile::{Build, compile};
use super::outcome::{Outcome, patient, run, say};
use super::paths::{preload, repository};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const REFUSED: i32 = 3;
const LACKING: i32 = 77;

/// How the library answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// What a documented client can rely on.
    Default,
    /// As 4.5 did.
    Strict,
}

/// One client with its arguments and surroundings.
#[derive(Clone)]
pub struct Client {
    name: String,
    program: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    modes: Vec<Mode>,
    setup: String,
    before_preload: Option<PathBuf>,
    after_preload: Option<PathBuf>,
    device: Option<PathBuf>,
    supervised: bool,
    may_lack: bool,
    limit: Duration,
}

/// `tests/clients/NAME.c`, built plainly.
pub fn client(name: &str) -> Client {
    built(name, Build::Plain)
}

/// A program that is run by an interpreter: `script("python3", "ctypes_client.py")`.
pub fn script(interpreter: &str, file: &str) -> Client {
    let path = repository().join("tests/clients").join(file);
    Client::of(file, vec![interpreter.to_string(), path.display().to_string()])
}

/// Any program of the system.
pub fn program(command: &[&str]) -> Client {
    Client::of(command[0], command.iter().map(ToString::to_string).collect())
}

fn built(name: &str, build: Build) -> Client {
    Client::of(name, vec![compile(name, build).display().to_string()])
}

impl Client {
    fn of(name: &str, program: Vec<String>) -> Client {
        super::need_root();
        Client {
            name: name.to_string(),
            program,
            args: Vec::new(),
            env: Vec::new(),
            modes: vec![Mode::Default, Mode::Strict],
            setup: String::new(),
            before_preload: None,
            after_preload: None,
            device: None,
            supervised: false,
            may_lack: false,
            limit: patient(60),
        }
    }

    /// Built another way.
    pub fn build(mut self, build: Build) -> Client {
        self.program = vec![compile(&self.name, build).display().to_string()];
        self
    }

    /// Run by another program: `under(&["valgrind", "--error-exitcode=9"])`.
    pub fn under(mut self, wrapper: &[&str]) -> Client {
        self.program.splice(0..0, wrapper.iter().map(ToString::to_string));
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Client {
        self.args.push(arg.into());
        self
    }

    /// One more environment variable of the client.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Client {
        self.env.push((name.to_string(), value.into()));
        self
    }

    /// The library tells what it does.
    pub fn log(mut self, level: &str) -> Client {
        self.env.push(("NLMMAP_LOG".to_string(), level.to_string()));
        self
    }

    /// Shell commands run in the fresh namespace first, without the preload.
    pub fn setup(mut self, commands: &str) -> Client {
        self.setup = commands.to_string();
        self
    }

    /// Another preload library in front of ours.
    pub fn behind(mut self, library: PathBuf) -> Client {
        self.before_preload = Some(library);
        self
    }

    /// Another preload library after ours.
    pub fn ahead_of(mut self, library: PathBuf) -> Client {
        self.after_preload = Some(library);
        self
    }

    /// By `nlmmap run --device`, with its sockets from this node.
    pub fn through(mut self, node: PathBuf) -> Client {
        self.device = Some(node);
        self
    }

    /// By `nlmmap run --via supervisor`, linked statically: `Static` or `StaticMusl`.
    pub fn supervised(self, build: Build) -> Client {
        Client { supervised: true, ..self.build(build) }
    }

    /// Only one mode makes sense.
    pub fn only(mut self, mode: Mode) -> Client {
        self.modes = vec![mode];
        self
    }

    /// The kernel may lack what this client is about; that is said, and counts as no failure.
    pub fn may_lack(mut self) -> Client {
        self.may_lack = true;
        self
    }

    /// A limit other than a minute.
    pub fn seconds(mut self, seconds: u64) -> Client {
        self.limit = patient(seconds);
        self
    }

    /// The command, as a person could type it: a fresh network namespace, the setup, the client.
    fn command(&self, mode: Option<Mode>) -> Command {
        let mut client = vec!["env".to_string()];
        client.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        if let (Some(node), Some(mode)) = (&self.device, mode) {
            client.push(format!("NLMMAP_PRELOAD={}", preload().display()));
            client.extend([env!("CARGO_BIN_EXE_nlmmap"), "run", "--device"].map(str::to_string));
            client.push(node.display().to_string());
            client.extend((mode == Mode::Strict).then(|| "--strict".to_string()));
            client.push("--".to_string());
            return self.in_namespace(client);
        }
        if mode == Some(Mode::Strict) {
            client.push("NLMMAP_STRICT=1".to_string());
        }
        if self.supervised
            && let Some(mode) = mode
        {
            client.extend([env!("CARGO_BIN_EXE_nlmmap"), "run", "--via", "supervisor"].map(str::to_string));
            client.extend((mode == Mode::Strict).then(|| "--strict".to_string()));
            client.push("--".to_string());
            return self.in_namespace(client);
        }
        let mut libraries: Vec<String> = Vec::new();
        libraries.extend(self.before_preload.iter().map(|path| path.display().to_string()));
        if mode.is_some() {
            libraries.push(preload().display().to_string());
        }
        libraries.extend(self.after_preload.iter().map(|path| path.display().to_string()));
        if !libraries.is_empty() {
            client.push(format!("LD_PRELOAD={}", libraries.join(":")));
        }
        self.in_namespace(client)
    }

    fn in_namespace(&self, mut client: Vec<String>) -> Command {
        client.extend(self.program.iter().chain(&self.args).cloned());
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-ec", &format!("{}\nexec \"$@\"", self.setup), "sh"]).args(client);
        command.env_remove("NLMMAP_STRICT").env_remove("NLMMAP_LOG").env_remove("LD_PRELOAD");
        command
    }

    /// Runs it without (`None`) or with the preload.
    pub fn run(&self, mode: Option<Mode>) -> Outcome {
        run(&mut self.command(mode), self.limit)
    }

    fn say_lacking(&self, outcome: &Outcome) {
        say(&format!("not run here: {} {}: {}", self.name, self.args.join(" "), outcome.stderr.trim_end()));
    }

    fn fail(&self, mode: Option<Mode>, outcome: &Outcome, expected: &str) -> ! {
        panic!(
            "{} {} ({mode:?}): expected {expected}; it {}\nto see it again: {:?}",
            self.name,
            self.args.join(" "),
            outcome.describe(),
            self.command(mode)
        );
    }

    /// The bare kernel refuses the rings with ENOPROTOOPT, the client says so and nothing else.
    pub fn refused_without(&self) {
        let outcome = self.run(None);
        if outcome.code == Some(LACKING) && self.may_lack {
            self.say_lacking(&outcome);
            return;
        }
        if outcome.code != Some(REFUSED) || !outcome.stderr.contains("refused: Protocol not available") {
            self.fail(None, &outcome, "ENOPROTOOPT from the bare kernel");
        }
    }

    /// All of it: refused without the library, all expectations held with it, in each mode.
    pub fn passes(&self) {
        self.refused_without();
        self.served();
    }

    /// All expectations hold with the library, in each mode.
    pub fn served(&self) {
        for &mode in &self.modes {
            let outcome = self.run(Some(mode));
            if outcome.code == Some(LACKING) && self.may_lack {
                self.say_lacking(&outcome);
                continue;
            }
            if !outcome.success() {
                self.fail(Some(mode), &outcome, "all expectations to hold");
            }
        }
    }
}
