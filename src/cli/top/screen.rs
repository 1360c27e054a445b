//! What is drawn.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Table, TableState, Wrap};

use super::state::{COLUMNS, Column, State, occupancy};
use crate::see::cause::{Cause, causes};
use crate::see::live::{Live, Row};
use crate::see::seen::{Ring, family};

/// Width of the last minute.
const MINUTE: usize = 20;

/// Colours, or what stands for them without.
#[derive(Clone, Copy)]
struct Look(bool);

impl Look {
    fn of(self, colour: Color, otherwise: Modifier) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new().add_modifier(otherwise) }
    }

    fn bad(self) -> Style {
        self.of(Color::Red, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    fn warning(self) -> Style {
        self.of(Color::Yellow, Modifier::BOLD)
    }

    fn faint(self) -> Style {
        self.of(Color::DarkGray, Modifier::DIM)
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, live: &Live, colour: bool) {
    let look = Look(colour);
    let rows = state.rows(live);
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(heading(state, live, &rows, look), head);
    let chosen = state.place(&rows);
    match rows.get(chosen) {
        Some(row) if state.details => details(frame, body, row, look),
        _ if rows.is_empty() => frame.render_widget(nothing(state), body),
        _ => table(frame, body, state, &rows, chosen, look),
    }
    frame.render_widget(footing(state, look), foot);
}

fn heading(state: &State, live: &Live, rows: &[&Row], look: Look) -> Line<'static> {
    let all = live.rows().count();
    let sum = |f: fn(&Row) -> f64| rows.iter().map(|row| f(row)).sum::<f64>();
    let losing = rows.iter().filter(|row| row.history.rates().overruns > 0.0).count();
    let mut spans = vec![
        Span::styled("nlmmap top  ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(match all == rows.len() {
            true => format!("{all} endpoints"),
            false => format!("{} of {all} endpoints", rows.len()),
        }),
        Span::raw(format!(
            "  rx {}/s  tx {}/s",
            short(sum(|row| row.history.rates().received + row.history.rates().copies)),
            short(sum(|row| row.history.rates().sent))
        )),
    ];
    if losing > 0 {
        spans.push(Span::styled(format!("  {losing} losing messages"), look.bad()));
    }
    if state.paused {
        spans.push(Span::styled("  paused", look.warning()));
    }
    if state.typing || !state.filter.is_empty() {
        let cursor = if state.typing { "_" } else { "" };
        spans.push(Span::styled(format!("  filter: {}{cursor}", state.filter), look.warning()));
    }
    Line::from(spans)
}

fn footing(state: &State, look: Look) -> Line<'static> {
    let text = match (state.typing, state.details) {
        (true, _) => "type a pid, family, endpoint or command; Enter keeps it, Esc drops it",
        (_, true) => "Enter: back to the table   Up/Down: another   Space: pause   q: quit",
        _ => "Enter: details   s/S: sort   r: reverse   /: filter   Space: pause   q: quit",
    };
    Line::styled(text, look.faint())
}

fn nothing(state: &State) -> Paragraph<'static> {
    let text = if state.filter.is_empty() {
        "No socket with rings is to be seen.\n\nPrograms show theirs when they run with the library: nlmmap run -- PROGRAM\n\
         A user sees those of their own processes, root sees all and the daemon's."
    } else {
        "Nothing matches the filter."
    };
    Paragraph::new(text).wrap(Wrap { trim: false })
}

fn title(column: Column) -> &'static str {
    match column {
        Column::Endpoint => "ENDPOINT",
        Column::Command => "COMMAND",
        Column::Family => "FAMILY",
        Column::Received => "RX/s",
        Column::Copies => "COPY/s",
        Column::Sent => "TX/s",
        Column::Calls => "CALLS/s",
        Column::Occupied => "OCC",
        Column::Lost => "LOST",
        Column::Lag => "LAG",
        Column::Cpu => "CPU",
    }
}

fn width(column: Column) -> u16 {
    match column {
        Column::Endpoint => 14,
        Column::Command => 15,
        Column::Family => 9,
        Column::Calls => 7,
        Column::Occupied | Column::Cpu => 5,
        Column::Lost => 8,
        _ => 6,
    }
}

/// The columns that a terminal of this width has room for, and whether the last minute has, too.
fn fitting(room: u16) -> (Vec<Column>, bool) {
    use Column::{Calls, Command, Copies, Cpu, Endpoint, Family, Lag, Lost, Occupied, Received, Sent};
    let mut left = room;
    let mut take = |width: u16| {
        let fits = left >= width;
        if fits {
            left -= (width + 1).min(left);
        }
        fits
    };
    let first = [Endpoint, Received, Lost, Occupied, Command, Sent, Copies, Lag, Family, Cpu, Calls];
    let taken: Vec<Column> = first.into_iter().take_while(|column| take(width(*column))).collect();
    let all = taken.len() == first.len();
    (COLUMNS.into_iter().filter(|column| taken.contains(column)).collect(), all && take(MINUTE as u16))
}

fn is_text(column: Column) -> bool {
    matches!(column, Column::Endpoint | Column::Command | Column::Family)
}

fn table(frame: &mut Frame<'_>, area: Rect, state: &State, rows: &[&Row], chosen: usize, look: Look) {
    let (columns, minute) = fitting(area.width);
    let header = columns.iter().map(|column| {
        let mark = if *column == state.sort { if state.reverse { "^" } else { "v" } } else { "" };
        let text = format!("{}{mark}", title(*column));
        let line = if is_text(*column) { Line::raw(text) } else { Line::raw(text).right_aligned() };
        Cell::from(line)
    });
    let header = Cells::new(header.chain(minute.then(|| Cell::from("LAST MINUTE"))));
    let body = rows.iter().map(|row| {
        let cells = columns.iter().map(|column| cell(*column, row, look));
        Cells::new(cells.chain(minute.then(|| Cell::from(bars(&row.history.minute(MINUTE))))))
    });
    let widths = columns.iter().map(|column| Constraint::Length(width(*column)));
    let table = Table::new(body, widths.chain(minute.then_some(Constraint::Length(MINUTE as u16))))
        .header(header.style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut at = TableState::default().with_selected(Some(chosen));
    frame.render_stateful_widget(table, area, &mut at);
}

fn cell(column: Column, row: &Row, look: Look) -> Cell<'static> {
    let rates = row.history.rates();
    let number = |value: f64| if value == 0.0 { "-".to_owned() } else { short(value) };
    let (text, style) = match column {
        Column::Endpoint => (end_of(&row.id, width(column).into()), Style::new()),
        Column::Command => (row.seen.command.clone(), Style::new()),
        Column::Family => (named(row.seen.family), Style::new()),
        Column::Received => (number(rates.received), Style::new()),
        Column::Copies => (number(rates.copies), Style::new()),
        Column::Sent => (number(rates.sent), Style::new()),
        Column::Calls => (number(rates.calls), Style::new()),
        Column::Occupied => match row.seen.rx {
            None => ("-".to_owned(), Style::new()),
            Some(_) => {
                let full = occupancy(row);
                let style = match full {
                    f if f >= 0.9 || row.seen.blocked => look.bad(),
                    f if f >= 0.5 => look.warning(),
                    _ => Style::new(),
                };
                let old = if row.history.is_current() { "" } else { "?" };
                (format!("{:.0}%{old}", full * 100.0), style)
            }
        },
        Column::Lost => match row.seen.counts.overruns {
            0 => ("-".to_owned(), Style::new()),
            n if rates.overruns > 0.0 => (format!("{}!!", short(n as f64)), look.bad()),
            n => (short(n as f64), look.warning()),
        },
        Column::Lag => (row.history.lag().map_or_else(|| "-".to_owned(), age), Style::new()),
        Column::Cpu => (row.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.0}%", cpu * 100.0)), Style::new()),
    };
    let line = Line::styled(text, style);
    Cell::from(if is_text(column) { line } else { line.right_aligned() })
}

/// The end of a name, which tells it from others.
fn end_of(name: &str, width: usize) -> String {
    let len = name.chars().count();
    if len <= width {
        name.to_owned()
    } else {
        format!("…{}", name.chars().skip(len + 1 - width).collect::<String>())
    }
}

fn named(number: u32) -> String {
    if number == u32::MAX { "-".to_owned() } else { family(number) }
}

/// A number in at most five characters.
pub fn short(value: f64) -> String {
    match value {
        v if v < 9.95 && v.fract() > 0.0 => format!("{v:.1}"),
        v if v < 99_999.5 => format!("{v:.0}"),
        v if v < 9_999_500.0 => format!("{:.0}k", v / 1e3),
        v if v < 9_999_500_000.0 => format!("{:.0}M", v / 1e6),
        v if v < 9e18 => format!("{:.0}G", v / 1e9),
        _ => "lots".to_owned(),
    }
}

fn age(age: Duration) -> String {
    match age.as_secs() {
        0..60 => format!("{:.1}s", age.as_secs_f64()),
        _ => ">1m".to_owned(),
    }
}

/// One character for each number, from the least to the most.
fn bars(numbers: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = numbers.iter().copied().max().unwrap_or(0).max(1);
    let bar = |n: u64| match n {
        0 => ' ',
        n => BARS.get((n as f64 / most as f64 * 7.0).round() as usize).copied().unwrap_or('█'),
    };
    numbers.iter().map(|n| bar(*n)).collect()
}

fn details(frame: &mut Frame<'_>, area: Rect, row: &Row, look: Look) {
    let (seen, rates, counts) = (&row.seen, row.history.rates(), &row.seen.counts);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let pair =
        |name: &'static str, text: String| Line::from(vec![Span::styled(format!("{name:<16}"), bold), text.into()]);
    let shape = |ring: Option<Ring>, head: u32| {
        ring.map_or_else(
            || "none".to_owned(),
            |r| {
                format!(
                    "{} frames of {} bytes in {} blocks of {}, next frame {head}",
                    r.frames, r.frame_size, r.blocks, r.block_size
                )
            },
        )
    };
    let users: Vec<String> = row.users.iter().map(ToString::to_string).collect();
    let mode = if seen.strict { ", strict mode" } else { "" };
    let whose = match row.is_daemons() {
        true => format!("open file of {}", seen.command),
        false => format!("descriptor {} of {}", seen.fd, seen.command),
    };
    let worker = row.worker().map_or_else(String::new, |pid| format!(", by worker {pid} of the daemon"));
    let mut lines = vec![
        pair("endpoint", format!("{} ({whose}, uid {}{mode})", row.id, seen.uid)),
        pair("used by", format!("pid {}{worker}", users.join(", "))),
        pair("family", format!("{} ({})", named(seen.family), seen.family)),
        pair("rx ring", shape(seen.rx, seen.rx_head)),
        pair("tx ring", shape(seen.tx, seen.tx_head)),
        pair(
            "now",
            format!(
                "{} frames filled, {} copies to be read, {} messages wait for a frame{}",
                seen.occupied,
                seen.copies_waiting,
                seen.waiting,
                match (seen.blocked, row.history.is_current()) {
                    (true, _) => ", and more in the socket",
                    (_, false) => ", when that was last looked at",
                    _ => "",
                }
            ),
        ),
        pair(
            "in a second",
            format!(
                "{} received, {} copies, {} sent, {} system calls",
                short(rates.received),
                short(rates.copies),
                short(rates.sent),
                short(rates.calls)
            ),
        ),
        pair(
            "since its start",
            format!(
                "{} frames of {} datagrams, {} copies, {} sent, {} system calls",
                counts.rx_frames, counts.rx_datagrams, counts.rx_copies, counts.tx_frames, counts.system_calls
            ),
        ),
        pair("lost", format!("{} ({} by the kernel)", counts.overruns, counts.lost_by_kernel)),
        pair("last error", error(seen.last_error)),
        pair("last minute", bars(&row.history.minute(60))),
        Line::default(),
    ];
    let causes = causes(seen);
    if causes.is_empty() {
        lines.push(Line::raw("Nothing was lost, and nothing had to wait."));
    }
    for Cause { what, cure } in causes {
        lines.push(Line::styled(what, look.bad()));
        lines.push(Line::raw(format!("  cure: {cure}")));
    }
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}

fn error(number: u32) -> String {
    match number {
        0 => "none".to_owned(),
        n => format!("{}", std::io::Error::from_raw_os_error(n.cast_signed())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (12.4, "12"),
            (99999.0, "99999"),
            (123456.0, "123k"),
            (2.5e9, "2500M"),
            (1e19, "lots"),
        ] {
            assert_eq!(short(value), text);
            assert!(short(value).len() <= 5);
        }
    }

    #[test]
    fn columns_go_where_there_is_no_room() {
        assert_eq!(fitting(140), (COLUMNS.to_vec(), true));
        assert_eq!(fitting(97), (COLUMNS.to_vec(), false));
        assert_eq!(fitting(40).0, [Column::Endpoint, Column::Received, Column::Occupied, Column::Lost]);
        assert_eq!(fitting(3), (vec![], false));
    }

    #[test]
    fn long_names_lose_their_beginnings() {
        assert_eq!(end_of("nlmmap:7", 14), "nlmmap:7");
        assert_eq!(end_of("a-long-name-of-a-daemon:17", 14), "…f-a-daemon:17");
    }

    #[test]
    fn bars_grow() {
        assert_eq!(bars(&[0, 1, 4, 8]), " ▂▅█");
        assert_eq!(bars(&[0, 0]), "  ");
        assert_eq!(bars(&[u64::MAX]), "█");
    }
}
