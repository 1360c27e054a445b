//! The rows of ring clients as one picture: how fast, and at what cost, beside what each is compared with.

use super::measure::{Runs, Sample, spread};
use super::table::{per_second, ratios};
use super::work::{Kind, Work};
use std::fmt::Write as _;

/// One row of the picture.
pub struct Row {
    label: String,
    /// Rate (or, of latencies, speed) and CPU a message, in units of what it is compared with.
    speed: f64,
    cpu: f64,
}

/// The rows of one piece of work.
pub fn rows(work: &Work, all: &[Runs]) -> Vec<Row> {
    let Some(base) = all.iter().find(|runs| runs.way.label == work.against) else { return Vec::new() };
    let middle = |values| spread(values).map_or(f64::NAN, |[middle, ..]| middle);
    let others = all.iter().filter(|runs| runs.way.ring && runs.way.label != work.against);
    others
        .map(|runs| Row {
            label: format!("{}: {}", work.name, runs.way.label),
            speed: match work.kind {
                Kind::Rate => middle(ratios(runs, base, per_second)),
                // Half the time is twice the speed.
                Kind::Latency => 1.0 / middle(ratios(runs, base, |s: &Sample| s.of("p50"))),
            },
            cpu: middle(ratios(runs, base, |s: &Sample| s.each("cpu"))),
        })
        .filter(|row| row.speed.is_finite() && row.cpu.is_finite())
        .collect()
}

/// Where the labels end, and what one unit is wide.
const LEFT: f64 = 360.0;
const UNIT: f64 = 200.0;
const LINE: f64 = 18.0;
const MOST: f64 = 2.5;

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A picture: a dot for the speed, a ring for the CPU, and what lies between 1 and each as a line.
pub fn svg(rows: &[Row]) -> String {
    let height = LINE * (rows.len() as f64 + 4.0);
    let width = LEFT + UNIT * MOST + 20.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>Ring clients beside what each is compared with</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let x = |ratio: f64| LEFT + UNIT * ratio.clamp(0.0, MOST);
    let bottom = LINE * (rows.len() as f64 + 2.0);
    for tick in 0..=5 {
        let ratio = f64::from(tick) * 0.5;
        let colour = if tick == 2 { "black" } else { "lightgray" };
        let _ = writeln!(
            out,
            "<path d=\"M{0:.1} {LINE:.0}V{bottom:.0}\" stroke=\"{colour}\"/><text x=\"{0:.1}\" y=\"{1:.0}\" \
             text-anchor=\"middle\">{ratio}</text>",
            x(ratio),
            bottom + LINE
        );
    }
    for (i, row) in rows.iter().enumerate() {
        let y = LINE * (i as f64 + 1.5);
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <path d=\"M{:.1} {y:.1}H{:.1}\" stroke=\"gray\"/>\
             <circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"steelblue\"/>\
             <circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"none\" stroke=\"firebrick\" stroke-width=\"2\"/>",
            LEFT - 10.0,
            y + 4.0,
            escaped(&row.label),
            x(row.speed.min(row.cpu)),
            x(row.speed.max(row.cpu)),
            x(row.speed),
            x(row.cpu)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT:.0}\" y=\"{:.0}\">blue: rate, or speed of an answer (more is better); red: CPU a message (less is \
         better)</text>\n</svg>",
        bottom + 2.0 * LINE
    );
    out
}

#[test]
fn a_row_is_drawn_where_its_ratios_are() {
    let rows = [Row { label: "a & b".into(), speed: 1.5, cpu: 0.5 }];
    let svg = svg(&rows);
    assert!(svg.contains("a &amp; b") && svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("cx=\"660.0\"") && svg.contains("cx=\"460.0\""), "{svg}");
}
