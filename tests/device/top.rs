//! `nlmmap top` of a daemon's open files, in a real terminal.

use crate::daemon::{NLMMAP, Place, client, passes};
use crate::shown::{ready, stop};
use crate::support::terminal::Terminal;

fn top(place: &Place, words: &str) -> Terminal {
    let run = place.path("run");
    let line = format!("{NLMMAP} top --name {} --runtime-dir {} {words}", place.name, run.display());
    Terminal::start(&format!("top{}", place.name), &line)
}

#[test]
fn open_files_are_shown_with_rates_workers_and_causes() {
    let place = Place::new();
    let daemon = place.start();
    let (busy, lossy) = (ready(&place, &["busy", "50"]), ready(&place, &["lossy", "1"]));
    let stat = daemon.stat();
    let of = |pid: u32, nth: usize| {
        let all = stat["endpoints"].as_array().expect("a list").iter();
        let entry = all.filter(|entry| entry["pid"] == pid).nth(nth).expect("its open file").clone();
        // Of a long name its end.
        let id = format!("{}:{}", place.name, entry["handle"]);
        (if id.len() > 14 { format!("…{}", &id[id.len() - 13..]) } else { id }, entry)
    };
    let ((busy_id, entry), (lossy_id, lost)) = (of(busy.id(), 0), of(lossy.id(), 1));
    assert!(lost["lost_by_kernel"].as_u64() > Some(0) && lost["last_error"] == libc::ENOBUFS, "{lost}");
    let worker = entry["worker"].as_u64().expect("a worker");
    let name = std::fs::read_to_string(format!("/proc/{worker}/comm")).expect("it lives");
    assert_eq!(name.trim_end(), "nlmmap-worker");

    let terminal = top(&place, "--interval 0.2");
    let line = |screen: &str, id: &str| screen.lines().find(|l| l.starts_with(id)).unwrap_or_default().to_owned();
    // Its rate both ways, its worker's share, and what has passed in the last minute.
    let screen = terminal.shows("the busy one", |s| {
        let fields: Vec<String> = line(s, &busy_id).split_whitespace().map(str::to_owned).collect();
        let rate = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 5.0);
        rate(3) && rate(5) && line(s, &busy_id).contains('%') && line(s, &busy_id).contains('█')
    });
    assert!(line(&screen, &busy_id).contains(" route "), "{screen}");
    assert!(line(&screen, &lossy_id).contains(" usersock "), "{screen}");
    terminal.keys(&["s", "s", "s", "s", "s"]);
    let screen = terminal.shows("the order by losses", |s| s.contains("LOSTv"));
    assert!(screen.lines().nth(2).is_some_and(|l| l.starts_with(&lossy_id)), "{screen}");
    terminal.keys(&["Home", "Enter"]);
    let screen = terminal.shows("details", |s| s.contains("rx ring") && s.contains("cure: ") && s.contains("usersock"));
    for part in
        ["open file of shown", "by worker ", "the socket overflowed", "No buffer space available", "8 blocks of 4096"]
    {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    terminal.keys(&["Enter", "/"]);
    terminal.keys(&["-l", &busy.id().to_string()]);
    terminal.keys(&["Enter"]);
    terminal.shows("that client alone", |s| s.contains(&busy_id) && !s.contains(&lossy_id));
    terminal.keys(&["Escape"]);
    stop(lossy);
    terminal.shows("the end of one", |s| s.contains(&busy_id) && !s.contains(&lossy_id));
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    stop(busy);
    daemon.stop();
    // A daemon that is gone has no rows, and ends nothing.
    terminal.shows("nothing", |s| !s.contains(&busy_id) && s.contains("q: quit"));
    terminal.keys(&["q"]);
    terminal.shows("the end", |s| s.contains("ended 0"));
}
