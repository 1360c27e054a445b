//! What guests tell of each test (`xtask/vm/tests.sh`), counted.

use std::collections::BTreeMap;

/// The tests of one run in a guest.
#[derive(Debug, Default)]
pub struct Report {
    kernel: String,
    tests: Vec<Test>,
}

#[derive(Debug)]
struct Test {
    outcome: String,
    seconds: u64,
    name: String,
}

/// Outcomes that are none to worry about; of the others each test is named.
const GOOD: [&str; 2] = ["passed", "ignored"];

impl Report {
    /// Reads what guests have printed; of a test that ran more than once the last counts.
    pub fn parse(text: &str) -> Report {
        let mut report = Report::default();
        for line in text.lines().filter_map(|line| line.strip_prefix("## ")) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["kernel", kernel] => report.kernel = kernel.to_string(),
                [outcome, seconds, name] => {
                    let (outcome, name) = (outcome.to_string(), name.to_string());
                    report.tests.retain(|test| test.name != name);
                    report.tests.push(Test { outcome, seconds: seconds.parse().unwrap_or(0), name });
                }
                _ => {}
            }
        }
        report
    }

    /// Whether there were tests, and all have passed.
    pub fn passed(&self) -> bool {
        let good = |test: &Test| GOOD.contains(&test.outcome.as_str()) || test.outcome == "lacking";
        !self.tests.is_empty() && self.tests.iter().all(good)
    }

    /// Counts in a line, and one for each test that has not simply passed.
    pub fn summary(&self, name: &str) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for test in &self.tests {
            *counts.entry(&test.outcome).or_default() += 1;
        }
        let mut text: Vec<String> = counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let seconds: u64 = self.tests.iter().map(|test| test.seconds).sum();
        text.push(format!("{seconds} s"));
        let mut text = format!("{name}, Linux {}: {}", self.kernel, text.join(", "));
        for test in self.tests.iter().filter(|test| !GOOD.contains(&test.outcome.as_str())) {
            text += &format!("\n  {} {}", test.outcome, test.name);
        }
        text
    }
}

#[test]
fn reports_count_and_name() {
    let text = "## kernel 6.1.0\nnoise\n## passed 3 a::b\n## late 60 a::c\n## passed 1 d\n## lacking 1 e\n";
    let report = Report::parse(text);
    assert!(!report.passed());
    assert_eq!(report.summary("x"), "x, Linux 6.1.0: 1 lacking, 1 late, 2 passed, 65 s\n  late a::c\n  lacking e");
    assert!(Report::parse("## passed 3 a\n## lacking 0 b\n## ignored 0 c").passed());
    assert!(!Report::parse("## kernel 6.1.0\n").passed(), "no test at all");
    let resumed =
        Report::parse("## built 12ab\n## kernel 6.1.0\n## unrun 0 a\n## passed 2 b\n## kernel 6.1.0\n## passed 4 a\n");
    assert_eq!((resumed.passed(), resumed.summary("x")), (true, "x, Linux 6.1.0: 2 passed, 6 s".into()));
    assert!(!Report::parse("## passed 2 b\n## failed 1 b\n").passed(), "the last counts");
}
