//! The probe's output: `CASE.detail: result`, one observation a line.

/// Observations in order. A detail that occurs again within its case gets `#2`, `#3`.
#[derive(Debug, Default)]
pub struct Lines(Vec<(String, String)>);

impl Lines {
    /// Reads the stable lines; comments and details that begin with `~` are left out.
    pub fn parse(text: &str) -> Lines {
        let mut lines = Lines::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((id, result)) = line.split_once(": ").or_else(|| line.strip_suffix(':').map(|id| (id, ""))) else {
                continue;
            };
            if id.contains(".~") {
                continue;
            }
            let before = lines.0.iter().filter(|(known, _)| known.split('#').next() == Some(id)).count();
            let id = if before == 0 { id.to_string() } else { format!("{id}#{}", before + 1) };
            lines.0.push((id, result.to_string()));
        }
        lines
    }

    /// The result of one detail.
    pub fn get(&self, id: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, result)| result.as_str())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(id, result)| (id.as_str(), result.as_str()))
    }

    /// Cases that ended before their end, which neither kernel made them do, and by what: why lines are absent.
    pub fn ended_early(&self, golden: &Lines) -> Vec<String> {
        const BY: [&str; 6] = ["SIGNAL", "NORING", "NOMMAP", "netns", "socket", "bind"];
        let ended = self.iter().filter(|(id, _)| id.split_once('.').is_some_and(|(_, detail)| BY.contains(&detail)));
        ended.filter(|(id, _)| golden.get(id).is_none()).map(|(id, by)| format!("ended early: {id}: {by}")).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Those whose id is wanted.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) -> Lines {
        Lines(self.0.iter().filter(|(id, _)| wanted(id)).cloned().collect())
    }
}

#[test]
fn endings_are_told_apart() {
    let seen = Lines::parse("C14.SIGNAL: 14\nA02.SIGNAL: 11\nC15.NORING: -ENOMEM\nC16.f0: V\n");
    let golden = Lines::parse("A02.SIGNAL: 11\nC14.f0: V\n");
    assert_eq!(seen.ended_early(&golden), ["ended early: C14.SIGNAL: 14", "ended early: C15.NORING: -ENOMEM"]);
}

#[test]
fn repeated_details_are_numbered_and_unstable_ones_left_out() {
    let lines = Lines::parse("# head\nB13.at: 0\nB13.at: 1500\nC01.~len: 7\nC27.ack: f0 V | \nE.none:\n");
    let ids: Vec<_> = lines.iter().collect();
    assert_eq!(ids, [("B13.at", "0"), ("B13.at#2", "1500"), ("C27.ack", "f0 V | "), ("E.none", "")]);
}
