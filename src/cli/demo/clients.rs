//! The clients: their sources are in this program, the C compiler is the machine's.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, bail};

use super::{Missing, Stage, say};
use crate::program::search;

const SOURCES: [(&str, &str); 2] = [
    ("dump", include_str!("../../../examples/demo/dump.c")),
    ("queue", include_str!("../../../examples/demo/queue.c")),
];

/// Writes the sources into the stage's directory and compiles them.
pub fn compile(stage: &Stage) -> anyhow::Result<()> {
    let compiler = compiler()?;
    say("0. two clients, written as in 2013");
    for (name, source) in SOURCES {
        let file = format!("{name}.c");
        fs::write(stage.dir.join(&file), source).with_context(|| format!("cannot write {file}"))?;
        say(format_args!("   $ {} -O2 -Wall -o {name} {file}", compiler.to_string_lossy()));
        let output = Command::new(&compiler)
            .args(["-O2", "-Wall", "-o", name, &file])
            .current_dir(&stage.dir)
            .output()
            .with_context(|| format!("cannot start {}", compiler.to_string_lossy()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            if text.contains("No such file or directory") && text.contains(".h:") {
                return Err(Missing::new(
                    format!("a header is missing: {text}"),
                    "apt install libc6-dev linux-libc-dev",
                )
                .into());
            }
            bail!("the C compiler refuses {file}: {text}");
        }
    }
    Ok(())
}

fn compiler() -> Result<OsString, Missing> {
    let asked = env::var_os("CC").filter(|c| !c.is_empty());
    let names = asked.map_or_else(|| vec!["cc".into(), "gcc".into(), "clang".into()], |c| vec![c]);
    names.into_iter().find(|name| search::find(name).is_ok()).ok_or_else(|| {
        Missing::new("there is no C compiler (cc, gcc, clang, or what CC names)", "apt install gcc libc6-dev")
    })
}

/// A client on the bare kernel: without this library, should it come from the environment.
pub fn bare(stage: &Stage, name: &str) -> anyhow::Result<Output> {
    Command::new(stage.dir.join(name)).env_remove("LD_PRELOAD").output().with_context(|| format!("cannot start {name}"))
}

/// A client under `nlmmap run`, with the library's summary switched on.
pub fn served(stage: &Stage, name: &str) -> Command {
    let mut command = Command::new(&stage.nlmmap);
    command.args(["run", "--log", "info", "--"]).arg(stage.dir.join(name));
    // The library that was found is the one that is used, and no setting from outside changes the show.
    command.env("NLMMAP_PRELOAD", &stage.library.path).env_remove("LD_PRELOAD").env_remove("NLMMAP_STRICT");
    command
}
