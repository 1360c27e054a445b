//! What was wanted of the rings, beside what a run has shown: the goals, and whether each was reached.

use super::measure::{Runs, Sample, spread};
use super::table::{markdown, per_second};
use super::work::Work;

/// What is compared.
#[derive(Clone, Copy)]
enum Of {
    Rate,
    Cpu,
    P50,
    P99,
    /// Messages lost, in all rounds, of those sent.
    Lost,
    /// `ENOBUFS` told.
    Told,
}

use Of::{Cpu, Lost, P50, P99, Rate, Told};

/// What the ratio must be.
#[derive(Clone, Copy)]
enum Bound {
    Least(f64),
    Most(f64),
    /// Within a tenth of 1.
    Flat,
    /// No more than the other's.
    Never,
}

use Bound::{Flat, Least, Most, Never};

/// One goal: a way to do some work, beside another.
struct Goal(&'static str, &'static str, &'static str, Of, Bound);

/// The ring of most rows.
const RING: &str = "ring, 128 frames of 2 KiB";
const WALK: &str = "ring, kick per walk";
const FOUR: &str = "ring, kick per 4 verdicts";
const EACH: &str = "ring, kick per verdict";
const ANSWER: &str = "ring, kick and head frame";
const EPOLL: &str = "ring, epoll";
const DEVICE: &str = "ring through the device, epoll";
const LARGE: &str = "ring of 1024 frames through the device";

/// All goals: work, way, what it is beside, what is compared, and the bound. A way of other work is `work/way`.
static ALL: &[Goal] = &[
    Goal("nfqueue-64", WALK, "poll+recv+sendto", Rate, Least(1.55)),
    Goal("nfqueue-64", WALK, "poll+recv+sendto", Cpu, Most(0.62)),
    Goal("nfqueue-1400", WALK, "poll+recv+sendto", Rate, Least(1.55)),
    Goal("nfqueue-1400", WALK, "poll+recv+sendto", Cpu, Most(0.62)),
    Goal("nfqueue-64", WALK, "by hand: recvmmsg, 64 verdicts joined", Rate, Least(0.97)),
    Goal("nfqueue-1400", WALK, "by hand: recvmmsg, 64 verdicts joined", Rate, Least(0.97)),
    Goal("nfqueue-64", FOUR, "poll+recv+sendto", Rate, Least(1.25)),
    Goal("nfqueue-1400", FOUR, "poll+recv+sendto", Rate, Least(1.25)),
    Goal("nfqueue-64", EACH, "poll+recv+sendto", Rate, Least(1.15)),
    Goal("nfqueue-64", EACH, "poll+recv+sendto", Cpu, Most(0.9)),
    Goal("nfqueue-1400", EACH, "poll+recv+sendto", Rate, Least(1.15)),
    Goal("nfqueue-1400", EACH, "poll+recv+sendto", Cpu, Most(0.9)),
    Goal("nfqueue-burst", EACH, "recv+sendto", Lost, Never),
    Goal("latency", ANSWER, "send+recv", P50, Most(1.15)),
    Goal("latency", ANSWER, "send+recv", P99, Most(1.3)),
    Goal("latency", ANSWER, "send+poll+recv", P50, Most(0.85)),
    Goal("wakeup", RING, "recv", P50, Most(1.1)),
    Goal("wakeup", RING, "recv", Cpu, Most(1.3)),
    Goal("sockets-1", EPOLL, "epoll+recv", Rate, Least(1.2)),
    Goal("sockets-8", EPOLL, "epoll+recv", Rate, Least(1.0)),
    Goal("sockets-64", EPOLL, "epoll+recv", Rate, Least(1.0)),
    Goal("sockets-64", EPOLL, "epoll+recv", Told, Never),
    Goal("usersock-128", RING, "poll+recv", Rate, Least(1.3)),
    Goal("usersock-1500", RING, "poll+recv", Rate, Least(1.3)),
    Goal("routes", "ring, 256 frames of 16 KiB", "recv of 64 KiB", Rate, Least(1.0)),
    Goal("events-route", RING, "poll+recv", Rate, Least(1.3)),
    Goal("events-route", RING, "poll+recv", Cpu, Most(0.75)),
    Goal("events-conntrack", RING, "poll+recv", Rate, Least(1.3)),
    Goal("events-conntrack", RING, "poll+recv", Cpu, Most(0.75)),
    Goal("events-nflog", RING, "poll+recv", Rate, Least(1.3)),
    Goal("events-nflog", RING, "poll+recv", Cpu, Most(0.75)),
    Goal("requests", "ring, 64 TX frames a kick", "sendto+recv each", Rate, Least(1.5)),
    Goal("single-128", "ring through the device", "recv", Rate, Least(0.9)),
    Goal("usersock-128", LARGE, "recv", Rate, Least(0.9)),
    Goal("stored-128", LARGE, "recv", Rate, Least(0.9)),
    Goal("sockets-1", DEVICE, "epoll+recv", Rate, Least(1.0)),
    Goal("sockets-64", DEVICE, "epoll+recv", Rate, Least(1.0)),
    Goal("growth", "8 frames", "64 frames", Cpu, Flat),
    Goal("growth", "512 frames", "64 frames", Cpu, Flat),
    Goal("growth", "4096 frames", "64 frames", Cpu, Flat),
    Goal("growth", "65536 frames", "64 frames", Cpu, Flat),
    Goal("sockets-64", EPOLL, "sockets-1/ring, epoll", Cpu, Flat),
];

/// All runs of a piece of work.
pub type Measured = (&'static Work, Vec<Runs>);

fn find<'a>(all: &'a [Measured], work: &str, way: &str) -> Option<&'a Runs> {
    let (work, way) = way.split_once('/').filter(|(w, _)| all.iter().any(|(x, _)| x.name == *w)).unwrap_or((work, way));
    let (_, runs) = all.iter().find(|(w, _)| w.name == work)?;
    runs.iter().find(|r| r.way.label == way)
}

/// What was measured of a goal, as the table shows it, and whether that is enough.
fn judge(runs: &Runs, beside: &Runs, of: Of, bound: Bound) -> Option<(String, bool)> {
    let ratio = |f: &dyn Fn(&Sample) -> Option<f64>| {
        let ratios = runs.timed.iter().zip(&beside.timed).filter_map(|(a, b)| Some(f(a)? / f(b)?)).collect();
        spread(ratios)
    };
    let sum = |runs: &Runs, name: &str| runs.timed.iter().filter_map(|s| s.of(name)).sum::<f64>();
    let [mid, low, high] = match of {
        Rate => ratio(&per_second)?,
        Cpu => ratio(&|s| s.each("cpu"))?,
        P50 => ratio(&|s| s.of("p50"))?,
        P99 => ratio(&|s| s.of("p99"))?,
        Lost => {
            let share = |runs: &Runs| 100.0 * sum(runs, "lost") / (sum(runs, "lost") + sum(runs, "messages"));
            let (ours, theirs) = (share(runs), share(beside));
            return Some((format!("{ours:.1} % beside {theirs:.1} %"), ours <= theirs));
        }
        Told => {
            let (ours, theirs) = (sum(runs, "told"), sum(beside, "told"));
            return Some((format!("{ours} beside {theirs}"), ours <= theirs));
        }
    };
    // As it is shown, so that nobody has to ask why 1.20 is not at least 1.2.
    let shown = (mid * 100.0).round() / 100.0;
    let reached = match bound {
        Least(bound) => shown >= bound,
        Most(bound) => shown <= bound,
        Flat => (0.9..=1.1).contains(&shown),
        Never => return None,
    };
    Some((format!("{mid:.2} ({low:.2}..{high:.2})"), reached))
}

/// The table of goals, of those whose work was measured; none, no table.
pub fn of(all: &[Measured]) -> Option<String> {
    let rows: Vec<Vec<String>> = ALL
        .iter()
        .filter_map(|Goal(work, way, beside, of, bound)| {
            let (measured, reached) = judge(find(all, work, way)?, find(all, work, beside)?, *of, *bound)?;
            let what = match of {
                Rate => "rate",
                Cpu => "CPU",
                P50 => "p50",
                P99 => "p99",
                Lost => "lost",
                Told => "`ENOBUFS`",
            };
            let wanted = match bound {
                Least(n) => format!("{what} >= {n:.2}"),
                Most(n) => format!("{what} <= {n:.2}"),
                Flat => format!("{what} 0.90 to 1.10"),
                Never => format!("{what}: no more"),
            };
            let beside = beside.replace('/', ": ");
            let reached = if reached { "yes" } else { "no" };
            Some(vec![format!("{work}: {way}"), beside, wanted, measured, reached.into()])
        })
        .collect();
    let head = ["goal", "beside", "wanted", "measured", "reached"];
    (!rows.is_empty()).then(|| markdown("The goals, as this run has them", &head, &rows))
}

#[cfg(test)]
mod tests {
    use super::super::work;
    use super::*;

    fn runs(way: &'static work::Way, lines: &[&str]) -> Runs {
        let timed = lines.iter().map(|line| Sample::parse(line).unwrap()).collect();
        Runs { way, timed, counted: Sample::default() }
    }

    #[test]
    fn each_goal_is_of_work_that_there_is() {
        let all: Vec<Measured> =
            work::ALL.iter().map(|w| (w, w.ways.iter().map(|way| runs(way, &[])).collect())).collect();
        for Goal(work, way, beside, ..) in ALL {
            assert!(find(&all, work, way).is_some() && find(&all, work, beside).is_some(), "{work}: {way}, {beside}");
        }
    }

    #[test]
    fn a_goal_is_reached_or_not() {
        let [a, b, ..] = work::ALL[0].ways else { panic!("two ways") };
        let fast =
            runs(a, &["messages=10 wall=100 cpu=120", "messages=10 wall=100 cpu=90", "messages=10 wall=50 cpu=90"]);
        let slow = runs(b, &["messages=10 wall=120 cpu=100"; 3]);
        let judged = |of, bound| judge(&fast, &slow, of, bound).unwrap();
        assert_eq!(judged(Rate, Least(1.2)), ("1.20 (1.20..2.40)".into(), true));
        assert!(!judged(Rate, Least(1.21)).1);
        assert_eq!(judged(Cpu, Most(0.9)), ("0.90 (0.90..1.20)".into(), true));
        assert!(judged(Cpu, Flat).1 && !judged(Rate, Flat).1);
        let (few, many) = (runs(a, &["messages=99 lost=1"]), runs(b, &["messages=90 lost=10"]));
        assert_eq!(judge(&few, &many, Lost, Never), Some(("1.0 % beside 10.0 %".into(), true)));
        assert!(!judge(&many, &few, Lost, Never).unwrap().1);
        assert!(judge(&few, &many, Told, Never).unwrap().1);
    }
}
