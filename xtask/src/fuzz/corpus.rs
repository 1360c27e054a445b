//! Which inputs are committed: few and short ones that reach what all of them do.

use super::{MEMORY, Target};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of a target's committed inputs, and how many they are; what they do not reach by these, each run finds again.
const MOST: usize = 48 << 10;
const MOST_FILES: usize = 96;
/// What one more file is worth, in bytes.
const FILE: usize = 16;
/// For running each input once. Of those that were found the shortest come first, and what is not run in time is not chosen.
const SECONDS: u32 = 300;

/// An input, and the edges that it reaches.
struct Input {
    path: PathBuf,
    len: usize,
    edges: Vec<u64>,
}

/// What became of a target's inputs.
pub struct Kept {
    pub files: usize,
    pub bytes: usize,
    /// Inputs that there was no time for.
    pub unseen: usize,
}

/// Chooses among a target's inputs, those found and those committed.
pub fn keep(target: &Target) -> Result<Kept, String> {
    let fault = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    let committed = by_length(&target.corpus).map_err(|e| fault(&target.corpus, e))?;
    let found = by_length(&target.found).map_err(|e| fault(&target.found, e))?;
    let paths: Vec<PathBuf> = committed.iter().chain(&found).cloned().collect();
    let inputs = run(target, &paths)?;
    let kept = choose(&inputs);
    let bytes = kept.iter().map(|input| input.len).sum();
    let mut names = HashSet::new();
    for input in &kept {
        let name = input.path.file_name().ok_or("an input without a name")?;
        let to = target.corpus.join(name);
        if input.path != to {
            std::fs::copy(&input.path, &to).map_err(|e| fault(&to, e))?;
        }
        names.insert(to);
    }
    // Of what was not run nobody knows what it is good for.
    for input in inputs.iter().filter(|input| committed.contains(&input.path) && !names.contains(&input.path)) {
        std::fs::remove_file(&input.path).map_err(|e| fault(&input.path, e))?;
    }
    Ok(Kept { files: kept.len(), bytes, unseen: paths.len() - inputs.len() })
}

/// The files of a directory, the shortest first.
fn by_length(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<_> = std::fs::read_dir(dir)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok().filter(std::fs::Metadata::is_file)?.len(), entry.path())))
        .collect();
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Runs these inputs, each once, and reads what they reach: by the step of libFuzzer's merges that does this, in one process. The merge
/// around it would begin that step again for as many times as there are inputs, and choose among them by how often they come somewhere.
fn run(target: &Target, paths: &[PathBuf]) -> Result<Vec<Input>, String> {
    let (notes, log) = (target.found.with_extension("merge"), target.found.with_extension("log"));
    let fault = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    let mut text = format!("{}\n0\n", paths.len());
    paths.iter().for_each(|path| text.extend([&path.display().to_string(), "\n"]));
    std::fs::write(&notes, text).map_err(|e| fault(&notes, e))?;
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &SECONDS.to_string()]).arg(&target.program).args(target.settings());
    // 2: all that an input reaches, not only what none before it did.
    command.arg("-merge_inner=2").arg(format!("-merge_control_file={}", notes.display()));
    let (out, err) = File::create(&log).and_then(|file| Ok((file.try_clone()?, file))).map_err(|e| fault(&log, e))?;
    let status = command.envs(MEMORY).stdout(out).stderr(err).status().map_err(|e| format!("timeout: {e}"))?;
    let text = std::fs::read(&notes).map_err(|e| fault(&notes, e))?;
    // `timeout` kills itself, too, when it has to kill.
    let is_late = status.code().is_none_or(|code| code == 137);
    if !status.success() && !is_late {
        return Err(format!("its inputs do not run through ({status}); see {}", log.display()));
    }
    let _ = (std::fs::remove_file(&notes), std::fs::remove_file(&log));
    read(&String::from_utf8_lossy(&text), is_late)
}

/// libFuzzer's notes of a merge: how many inputs, how many of the first directory, their paths; then for each that it begins with
/// and its length, and what it reaches. A feature is an edge, times eight, and how often it was passed. What is `cut` may end anywhere.
fn read(text: &str, cut: bool) -> Result<Vec<Input>, String> {
    let strange = || "libFuzzer's notes of the merge are not as they were".to_string();
    let mut lines = text.lines().peekable();
    let many: usize = lines.next().and_then(|n| n.parse().ok()).ok_or_else(strange)?;
    lines.next().ok_or_else(strange)?;
    let paths: Vec<PathBuf> = lines.by_ref().take(many).map(PathBuf::from).collect();
    let mut lens: HashMap<usize, usize> = HashMap::new();
    let mut inputs = Vec::new();
    while let Some(line) = lines.next() {
        if cut && lines.peek().is_none() {
            break;
        }
        let mut words = line.split(' ');
        let (kind, number) = (words.next(), words.next().and_then(|n| n.parse::<usize>().ok()));
        match (kind, number) {
            (Some("STARTED"), Some(number)) => {
                let len = words.next().and_then(|n| n.parse().ok()).ok_or_else(strange)?;
                lens.insert(number, len);
            }
            (Some("FT"), Some(number)) => {
                let mut edges: Vec<u64> = words.filter_map(|n| n.parse::<u64>().ok()).map(|n| n / 8).collect();
                edges.dedup();
                let path = paths.get(number).cloned().ok_or_else(strange)?;
                inputs.push(Input { path, len: lens.get(&number).copied().ok_or_else(strange)?, edges });
            }
            (Some("COV"), _) => {}
            _ => return Err(strange()),
        }
    }
    Ok(inputs)
}

/// Whether an input was given a name by people. Those found are called by their hash.
fn is_named(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.len() != 40 || name.bytes().any(|b| !b.is_ascii_hexdigit())
}

/// All that people have named; then, one after the other, the one that reaches most that is new for its length.
fn choose(inputs: &[Input]) -> Vec<&Input> {
    let (mut kept, mut left): (Vec<&Input>, Vec<&Input>) = inputs.iter().partition(|input| is_named(&input.path));
    let mut reached: HashSet<u64> = kept.iter().flat_map(|input| input.edges.iter().copied()).collect();
    let mut bytes = 0;
    loop {
        let new = |input: &Input| input.edges.iter().filter(|edge| !reached.contains(edge)).count();
        left.retain(|input| new(input) > 0 && bytes + input.len <= MOST && kept.len() < MOST_FILES);
        let worth = |input: &Input| new(input) * 1_000_000 / (input.len + FILE);
        let Some((at, best)) = left.iter().enumerate().max_by_key(|(_, input)| worth(input)).map(|(i, b)| (i, *b))
        else {
            return kept;
        };
        left.swap_remove(at);
        bytes += best.len;
        reached.extend(&best.edges);
        kept.push(best);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_short_inputs_reach_what_all_do() {
        let hash = |c: char| c.to_string().repeat(40);
        let text = format!(
            "5\n2\n/c/by-hand\n/c/{}\n/f/{}\n/f/{}\n/f/{}\nSTARTED 0 9\nFT 0 8 9\nCOV 0 1\nSTARTED 1 100\nFT 1 8 17 24\n\
             STARTED 2 4\nFT 2 16\nSTARTED 3 5\nFT 3 24 25\nSTARTED 4 90000\nFT 4 800\n",
            hash('a'),
            hash('b'),
            hash('c'),
            hash('d'),
        );
        let inputs = read(&text, false).unwrap();
        assert_eq!(inputs.len(), 5);
        let kept: Vec<_> = choose(&inputs).iter().map(|input| input.path.display().to_string()).collect();
        assert_eq!(kept, ["/c/by-hand".to_string(), format!("/f/{}", hash('b')), format!("/f/{}", hash('c'))]);
        assert!(read("nonsense", false).is_err());
    }

    #[test]
    fn notes_that_were_cut_are_read_as_far_as_they_go() {
        let whole = "2\n0\n/c/a\n/c/b\nSTARTED 0 9\nFT 0 8 9\nCOV 0 1\nSTARTED 1 4\n";
        let paths = |text: &str| read(text, true).unwrap().into_iter().map(|input| input.path).collect::<Vec<_>>();
        for rest in ["", "FT", "FT 1 8 1", "FT 1 8 16"] {
            assert_eq!(paths(&format!("{whole}{rest}")), [Path::new("/c/a")], "{rest}");
        }
        assert_eq!(paths(&format!("{whole}FT 1 8 16\nCOV")).len(), 2);
    }
}
