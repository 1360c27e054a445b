//! Which inputs are committed: few and short ones that reach what all of them do.

use super::Target;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Bytes of a target's committed inputs, and how many they are; what they do not reach by these, each run finds again.
const MOST: usize = 8 << 10;
const MOST_FILES: usize = 48;
/// What one more file is worth, in bytes.
const FILE: usize = 16;

/// An input, and the edges that it reaches.
struct Input {
    path: PathBuf,
    len: usize,
    edges: Vec<u64>,
}

/// Chooses among a target's inputs, those found and those committed. How many there are now, and how many bytes.
pub fn keep(target: &Target) -> Result<(usize, usize), String> {
    let control = target.found.with_extension("merge");
    // What libFuzzer itself would choose goes nowhere: it keeps inputs by how often they come somewhere, too.
    let nowhere = target.found.with_extension("merged");
    let fault = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    let _ = std::fs::remove_file(&control);
    std::fs::create_dir_all(&nowhere).map_err(|e| fault(&nowhere, e))?;
    let mut command = target.command();
    command.arg("-merge=1").arg(format!("-merge_control_file={}", control.display()));
    command.args([&nowhere, &target.corpus, &target.found]).stdout(Stdio::null()).stderr(Stdio::null());
    let merged = command.status().map_err(|e| fault(&target.program, e))?;
    let text = std::fs::read(&control).map_err(|e| fault(&control, e));
    let _ = (std::fs::remove_dir_all(&nowhere), std::fs::remove_file(&control));
    if !merged.success() {
        return Err("its inputs do not run through".to_string());
    }
    let inputs = read(&String::from_utf8_lossy(&text?))?;
    let kept = choose(&inputs);
    let mut names = HashSet::new();
    for input in &kept {
        let name = input.path.file_name().ok_or("an input without a name")?;
        let to = target.corpus.join(name);
        if input.path != to {
            std::fs::copy(&input.path, &to).map_err(|e| fault(&to, e))?;
        }
        names.insert(to);
    }
    for entry in std::fs::read_dir(&target.corpus).map_err(|e| fault(&target.corpus, e))?.flatten() {
        if !names.contains(&entry.path()) {
            std::fs::remove_file(entry.path()).map_err(|e| fault(&entry.path(), e))?;
        }
    }
    Ok((kept.len(), kept.iter().map(|input| input.len).sum()))
}

/// libFuzzer's notes of a merge: how many inputs, how many of the first directory, their paths; then for each that it begins with
/// and its length, and what it reaches. A feature is an edge, times eight, and how often it was passed.
fn read(text: &str) -> Result<Vec<Input>, String> {
    let strange = || "libFuzzer's notes of the merge are not as they were".to_string();
    let mut lines = text.lines();
    let many: usize = lines.next().and_then(|n| n.parse().ok()).ok_or_else(strange)?;
    lines.next().ok_or_else(strange)?;
    let paths: Vec<PathBuf> = lines.by_ref().take(many).map(PathBuf::from).collect();
    let mut lens: HashMap<usize, usize> = HashMap::new();
    let mut inputs = Vec::new();
    for line in lines {
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
             STARTED 2 4\nFT 2 16\nSTARTED 3 5\nFT 3 24 25\nSTARTED 4 9000\nFT 4 800\n",
            hash('a'),
            hash('b'),
            hash('c'),
            hash('d'),
        );
        let inputs = read(&text).unwrap();
        assert_eq!(inputs.len(), 5);
        let kept: Vec<_> = choose(&inputs).iter().map(|input| input.path.display().to_string()).collect();
        assert_eq!(kept, ["/c/by-hand".to_string(), format!("/f/{}", hash('b')), format!("/f/{}", hash('c'))]);
        assert!(read("nonsense").is_err());
    }
}
