//! What the supervisor says, if it was asked to (`nlmmap run --log`).

use std::fmt::Display;

use super::notify::{Call, Outcome};

/// How much.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Nothing,
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Clone, Copy)]
pub struct Log(pub Level);

impl Log {
    fn say(self, level: Level, text: &dyn Display) {
        if level <= self.0 {
            // Nobody may be there to read it.
            let _ =
                std::io::Write::write_all(&mut std::io::stderr(), format!("nlmmap[supervisor]: {text}\n").as_bytes());
        }
    }

    pub fn warn(self, text: impl Display) {
        self.say(Level::Warn, &text);
    }

    pub fn info(self, text: impl Display) {
        self.say(Level::Info, &text);
    }

    pub fn call(self, call: &Call, outcome: Outcome) {
        if self.0 >= Level::Debug {
            let [a, b, c, d, ..] = call.args;
            let text = format!("{}: call {} ({a:#x}, {b:#x}, {c:#x}, {d:#x}): {outcome:?}", call.tid, call.nr);
            self.say(Level::Debug, &text);
        }
    }
}
