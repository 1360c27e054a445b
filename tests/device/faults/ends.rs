//! How processes end.

use super::process::registers;
use super::session::Session;

impl Session {
    /// Where it is, and where it comes from as far as its stack tells.
    pub(super) fn note_crash(&mut self, pid: i32, signal: i32) {
        let Ok(now) = registers(pid) else { return };
        let on_stack = (0..400).filter_map(|nth| self.word(pid, now.rsp + 8 * nth));
        let code = on_stack.map(|word| word.wrapping_sub(self.base)).filter(|at| self.places.is_code(*at));
        let way: Vec<String> = code.take(24).map(|at| format!("{at:#x}")).collect();
        let (at, stack) = (now.rip.wrapping_sub(self.base), now.rsp);
        self.crashed.push(format!("signal {signal} at {at:#x}, stack {stack:#x}, by way of {}", way.join(" ")));
    }

    pub(super) fn gone(&mut self, pid: i32, status: i32) {
        if pid == self.root {
            self.status =
                Some(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) });
        }
        let Some(thread) = self.threads.remove(&pid) else { return };
        if thread.process != pid {
            return;
        }
        if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) != libc::SIGKILL {
            self.crashed.push(format!("process {pid} died by signal {}", libc::WTERMSIG(status)));
        }
        self.processes.remove(&pid);
    }
}
