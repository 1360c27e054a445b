//! What the library says when a ring socket is closed.

use anyhow::{Context, ensure};

use super::say;

/// The counts of the library's summary line.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    frames: u64,
    datagrams: u64,
    copies: u64,
    overruns: u64,
    sent: u64,
    calls: u64,
}

impl Summary {
    /// Takes the first summary out of what a client and the library wrote to stderr; gives back the rest.
    pub fn take(stderr: &str) -> (Option<Summary>, String) {
        let mut found = None;
        let mut rest = String::new();
        for line in stderr.lines() {
            match line.split_once(" closed: ").and_then(|(_, text)| Summary::parse(text).ok()) {
                Some(summary) if found.is_none() => found = Some(summary),
                _ => {
                    rest.push_str(line);
                    rest.push('\n');
                }
            }
        }
        (found, rest)
    }

    /// `family F, rx N frames N datagrams N copies N overruns, tx N frames, N system calls`
    fn parse(text: &str) -> anyhow::Result<Summary> {
        let (received, sent) = text.split_once(", tx ").context("no tx part")?;
        let before = |text: &str, word: &str| -> anyhow::Result<u64> {
            let words: Vec<_> = text.split([' ', ',']).collect();
            let at = words.iter().position(|w| *w == word).context("no such count")?;
            Ok(words.get(at.wrapping_sub(1)).context("no count")?.parse()?)
        };
        Ok(Summary {
            frames: before(received, "frames")?,
            datagrams: before(received, "datagrams")?,
            copies: before(received, "copies")?,
            overruns: before(received, "overruns")?,
            sent: before(sent, "frames")?,
            calls: before(sent, "system")?,
        })
    }

    /// Shows it in words.
    pub fn show(&self) {
        say(format_args!(
            "   the library: {} datagrams into {} frames and {} copies, {} overruns; {} frames sent; {} system calls",
            self.datagrams, self.frames, self.copies, self.overruns, self.sent, self.calls
        ));
    }

    /// Whether at least so many frames went through each ring, and nothing was lost.
    pub fn check(&self, received: u64, sent: u64) -> anyhow::Result<()> {
        ensure!(self.frames >= received, "only {} frames were received through the ring", self.frames);
        ensure!(self.sent >= sent, "only {} frames were sent through the ring", self.sent);
        ensure!(self.overruns == 0, "the ring was overrun {} times", self.overruns);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_found_among_other_lines() {
        let text = "queue: hello\nnlmmap[7]: info: fd 3 closed: family 12, rx 1003 frames 1003 datagrams 2 copies \
                    0 overruns, tx 1002 frames, 88 system calls\nbye\n";
        let (summary, rest) = Summary::take(text);
        let expected = Summary { frames: 1003, datagrams: 1003, copies: 2, overruns: 0, sent: 1002, calls: 88 };
        assert_eq!(summary, Some(expected));
        assert_eq!(rest, "queue: hello\nbye\n");
    }

    #[test]
    fn a_lost_or_missing_frame_is_a_failure() {
        let good = || Summary { frames: 5, datagrams: 5, copies: 0, overruns: 0, sent: 2, calls: 9 };
        assert!(good().check(5, 2).is_ok());
        assert!(good().check(6, 2).is_err());
        assert!(good().check(5, 3).is_err());
        assert!(Summary { overruns: 1, ..good() }.check(5, 2).is_err());
    }
}
