//! A real terminal: tmux's.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A terminal with a program in it, of a tmux server of its own.
pub struct Terminal(String);

impl Terminal {
    /// Starts the command line in it.
    pub fn start(name: &str, line: &str) -> Terminal {
        let terminal = Terminal(format!("nlmmap-{name}-{}", std::process::id()));
        let line = format!("{line}; echo ended $?; exec cat");
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "140", "-y", "20", &line]);
        terminal
    }

    /// A command of tmux's.
    pub fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.0]).args(words).env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        let output = command.output().expect("tmux (apt install tmux)");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    #[track_caller]
    pub fn shows(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("{what} is not shown: {screen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.0, "kill-server"]).stderr(Stdio::null()).status();
    }
}
