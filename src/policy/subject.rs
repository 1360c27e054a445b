//! Whom a rule is about.

/// A client, as policy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub uid: u32,
    /// Its group and supplementary groups.
    pub gids: Vec<u32>,
    /// Its control groups, one of each hierarchy.
    pub cgroups: Vec<String>,
}

impl Subject {
    /// Whether it is in this control group, or in one below.
    pub fn is_in(&self, cgroup: &str) -> bool {
        let wanted = cgroup.trim_end_matches('/');
        self.cgroups
            .iter()
            .any(|own| own.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }

    /// From `/proc/TID/status` and `/proc/TID/cgroup` of a client of user `uid`.
    pub fn from_proc(uid: u32, gid: u32, status: &str, cgroup: &str) -> Subject {
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
        let mut gids: Vec<u32> = groups.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        gids.push(gid);
        let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let mut cgroups: Vec<String> = paths.map(str::to_owned).collect();
        cgroups.sort();
        cgroups.dedup();
        Subject { uid, gids, cgroups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_control_groups_are_read_and_compared_by_whole_names() {
        let status = "Name:\tx\nUid:\t5\t5\t5\t5\nGroups:\t4 24 27 \n";
        let subject = Subject::from_proc(5, 6, status, "9:memory:/a/b\n0::/a/b\n1:name=systemd:/c:d\n");
        assert_eq!((subject.uid, subject.gids.as_slice()), (5, &[4, 24, 27, 6][..]));
        assert_eq!(subject.cgroups, ["/a/b", "/c:d"]);
        for (cgroup, is_in) in
            [("/a", true), ("/a/b", true), ("/a/b/", true), ("/a/bc", false), ("/a/b/c", false), ("/", true)]
        {
            assert_eq!(subject.is_in(cgroup), is_in, "{cgroup}");
        }
    }
}
