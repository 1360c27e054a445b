//! What the user has chosen: order, filter, endpoint, pause.

use std::cmp::Ordering;

use ratatui::crossterm::event::KeyCode;

use crate::see::live::{Live, Row};
use crate::see::seen::family;

/// Columns by which rows can be sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Endpoint,
    Command,
    Family,
    Received,
    Copies,
    Sent,
    Calls,
    Occupied,
    Lost,
    Lag,
    Cpu,
}

pub const COLUMNS: [Column; 11] = [
    Column::Endpoint,
    Column::Command,
    Column::Family,
    Column::Received,
    Column::Copies,
    Column::Sent,
    Column::Calls,
    Column::Occupied,
    Column::Lost,
    Column::Lag,
    Column::Cpu,
];

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    On,
    Quit,
}

/// See the module.
#[derive(Debug)]
pub struct State {
    pub filter: String,
    /// The filter is a process id, and matches nothing else.
    by_pid: bool,
    /// The filter is being typed.
    pub typing: bool,
    pub sort: Column,
    /// Largest first, or the other way round.
    pub reverse: bool,
    pub paused: bool,
    pub details: bool,
    /// The endpoint that is chosen, by its name: rows move.
    pub chosen: Option<String>,
}

/// Share of the RX ring that is filled.
pub fn occupancy(row: &Row) -> f64 {
    row.seen.rx.map_or(0.0, |ring| f64::from(row.seen.occupied) / f64::from(ring.frames.max(1)))
}

impl State {
    pub fn new(filter: String, by_pid: bool) -> State {
        State {
            filter,
            by_pid,
            typing: false,
            sort: Column::Received,
            reverse: false,
            paused: false,
            details: false,
            chosen: None,
        }
    }

    fn matches(&self, row: &Row) -> bool {
        let wish = self.filter.trim().to_lowercase();
        let is_pid = |pid: &u32| pid.to_string() == wish;
        if self.by_pid {
            return is_pid(&row.seen.pid) || row.users.iter().any(is_pid);
        }
        wish.is_empty()
            || is_pid(&row.seen.pid)
            || row.users.iter().any(is_pid)
            || row.id == wish
            || family(row.seen.family) == wish
            || row.seen.family.to_string() == wish && wish.len() < 3
            || row.seen.command.to_lowercase().contains(&wish)
    }

    /// The rows to show, in order.
    pub fn rows<'a>(&self, live: &'a Live) -> Vec<&'a Row> {
        let mut rows: Vec<&Row> = live.rows().filter(|row| self.matches(row)).collect();
        rows.sort_by(|a, b| {
            let by = self.order(a, b);
            let by = if self.reverse { by.reverse() } else { by };
            by.then_with(|| natural(a).cmp(&natural(b)))
        });
        rows
    }

    /// Names from the first on, numbers from the largest on.
    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let largest = |a: f64, b: f64| b.total_cmp(&a);
        let (x, y) = (a.history.rates(), b.history.rates());
        match self.sort {
            Column::Endpoint => natural(a).cmp(&natural(b)),
            Column::Command => a.seen.command.cmp(&b.seen.command),
            Column::Family => a.seen.family.cmp(&b.seen.family),
            Column::Received => largest(x.received, y.received),
            Column::Copies => largest(x.copies, y.copies),
            Column::Sent => largest(x.sent, y.sent),
            Column::Calls => largest(x.calls, y.calls),
            Column::Occupied => largest(occupancy(a), occupancy(b)),
            Column::Lost => b.seen.counts.overruns.cmp(&a.seen.counts.overruns),
            Column::Lag => b.history.lag().cmp(&a.history.lag()),
            Column::Cpu => largest(a.cpu.unwrap_or(-1.0), b.cpu.unwrap_or(-1.0)),
        }
    }

    /// The place of the endpoint that is chosen, the first if it is gone.
    pub fn place(&self, rows: &[&Row]) -> usize {
        self.chosen.as_ref().and_then(|id| rows.iter().position(|row| row.id == *id)).unwrap_or(0)
    }

    fn choose(&mut self, live: &Live, by: isize) {
        let rows = self.rows(live);
        let to = self.place(&rows).saturating_add_signed(by).min(rows.len().saturating_sub(1));
        self.chosen = rows.get(to).map(|row| row.id.clone());
    }

    fn sort_by(&mut self, step: usize) {
        let at = COLUMNS.iter().position(|column| *column == self.sort).unwrap_or(0);
        self.sort = COLUMNS.get((at + step) % COLUMNS.len()).copied().unwrap_or(Column::Endpoint);
        self.reverse = false;
    }

    /// A key was pressed.
    pub fn key(&mut self, code: KeyCode, live: &Live) -> Step {
        if self.typing {
            match code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < 40 => self.filter.push(c),
                _ => {}
            }
            return Step::On;
        }
        match code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Esc if self.details => self.details = false,
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc => return Step::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.choose(live, -1),
            KeyCode::Down | KeyCode::Char('j') => self.choose(live, 1),
            KeyCode::PageUp => self.choose(live, -20),
            KeyCode::PageDown => self.choose(live, 20),
            KeyCode::Home => self.choose(live, isize::MIN),
            KeyCode::End => self.choose(live, isize::MAX),
            KeyCode::Enter => {
                self.choose(live, 0);
                self.details = !self.details && self.chosen.is_some();
            }
            KeyCode::Char('s') => self.sort_by(1),
            KeyCode::Char('S') => self.sort_by(COLUMNS.len() - 1),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Char('/') => {
                (self.typing, self.by_pid) = (true, false);
                self.filter.clear();
            }
            _ => {}
        }
        Step::On
    }
}

/// Names of endpoints as people order them: by the numbers in them.
fn natural(row: &Row) -> (u64, u64, &str) {
    let mut numbers = row.id.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), &row.id)
}
