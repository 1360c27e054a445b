//! `nlmmap top` in a real terminal: tmux's.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::place::{NLMMAP, client, directory, eventually, files, ready};
use super::support::terminal::Terminal;

/// `nlmmap top`, looking at this directory and no daemon.
fn top(name: &str, dir: &Path, env: &str, words: &str) -> Terminal {
    let none = dir.join("none");
    let line = format!("{env} NLMMAP_VIEW={} {NLMMAP} top --runtime-dir {} {words}", dir.display(), none.display());
    Terminal::start(name, &line)
}

fn stop(mut child: Child) {
    drop(child.stdin.take());
    child.wait().expect("it ends");
}

#[test]
fn endpoints_are_shown_chosen_sorted_filtered_and_explained() {
    let dir = directory();
    let (a, b) = (ready(&mut client(dir.path(), &["hold", "3"])), ready(&mut client(dir.path(), &["lossy", "1"])));
    let (a_id, b_id) = (format!("{}.1", a.id()), format!("{}.2", b.id()));
    let terminal = top("keys", dir.path(), "", "--interval 0.2");
    let screen = terminal.shows("both", |s| s.contains(&a_id) && s.contains(&b_id));
    let line = |screen: &str, id: &str| screen.lines().find(|l| l.starts_with(id)).unwrap_or_default().to_owned();
    assert!(line(&screen, &a_id).contains(" route "), "{screen}");
    assert!(line(&screen, &b_id).contains(" usersock "), "{screen}");
    assert!(
        screen.contains("RX/sv") && screen.contains("LAST MINUTE") && screen.contains("Enter: details"),
        "{screen}"
    );
    // Losses: the column, then first.
    assert!(
        line(&screen, &b_id).split_whitespace().nth(8).is_some_and(|lost| lost.parse().is_ok_and(|n: u64| n > 0)),
        "{screen}"
    );
    terminal.keys(&["s", "s", "s", "s", "s"]);
    let screen = terminal.shows("the order by losses", |s| s.contains("LOSTv"));
    assert!(screen.lines().nth(2).is_some_and(|l| l.starts_with(&b_id)), "{screen}");
    terminal.keys(&["r"]);
    terminal
        .shows("the other order", |s| s.contains("LOST^") && !s.lines().nth(2).is_some_and(|l| l.starts_with(&b_id)));
    // Filter by family, then by process.
    terminal.keys(&["/", "r", "o", "u", "t", "e", "Enter"]);
    terminal.shows("routes alone", |s| s.contains("filter: route") && s.contains(&a_id) && !s.contains(&b_id));
    terminal.keys(&["Escape"]);
    terminal.shows("all again", |s| s.contains(&b_id));
    terminal.keys(&["/"]);
    terminal.keys(&["-l", &b.id().to_string()]);
    terminal.keys(&["Enter"]);
    terminal.shows("that process alone", |s| s.contains(&b_id) && !s.contains(&a_id));
    // Its worst endpoint in words.
    terminal.keys(&["r", "Enter"]);
    let screen = terminal
        .shows("details, whole", |s| s.contains("rx ring") && s.contains("cure: ") && s.contains("Enter: back"));
    assert!(screen.contains(&b_id) && screen.contains("8 blocks of 4096"), "{screen}");
    assert!(screen.contains("the socket overflowed") && screen.contains("cure: ask for"), "{screen}");
    assert!(screen.contains("No buffer space available"), "{screen}");
    terminal.keys(&["Enter"]);
    terminal.shows("the table", |s| s.contains("LOST"));
    // By itself: with a key behind it, it is Alt.
    terminal.keys(&["Escape"]);
    terminal.shows("all again", |s| s.contains(&a_id));
    terminal.keys(&["p"]);
    terminal.shows("the pause", |s| s.contains("paused") && s.contains(&a_id));
    // What ends while it is paused stays until it goes on.
    stop(a);
    assert!(terminal.screen().contains(&a_id));
    terminal.keys(&["Space"]);
    terminal.shows("the end", |s| !s.contains(&a_id) && s.contains(&b_id));
    terminal.keys(&["q"]);
    terminal.shows("the terminal as it was", |s| s.contains("ended 0") && !s.contains("ENDPOINT"));
    stop(b);
}

/// An endpoint that a fork has given a second user is his too; what he makes is one more.
#[test]
fn forked_children_are_told() {
    let dir = directory();
    let child = ready(&mut client(dir.path(), &["shared", "40"]));
    let parent = child.id().to_string();
    let id = format!("{parent}.1");
    eventually("the child's own endpoint", || files(dir.path()).len() == 2);
    let own = files(dir.path()).into_iter().find(|name| *name != id).expect("another");
    let forked = own.split_once('.').expect("a pid and a number").0.to_owned();
    let terminal = top("fork", dir.path(), "", &format!("--interval 0.2 --pid {forked}"));
    let rate = |screen: &str, id: &str| {
        let line = screen.lines().find(|line| line.starts_with(id)).unwrap_or_default();
        line.split_whitespace().nth(3).and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 2.0)
    };
    terminal.shows("both, and that both are at work", |s| rate(s, &id) && rate(s, &own));
    terminal.keys(&["s", "Home", "Enter"]);
    let screen = terminal.shows("details", |s| s.contains("used by"));
    let users = screen.lines().find(|line| line.starts_with("used by")).unwrap_or_default().to_owned();
    assert!(
        users.ends_with(&format!("pid {parent}, {forked}")) || users.ends_with(&format!("pid {forked}")),
        "{screen}"
    );
    terminal.keys(&["q"]);
    terminal.shows("the end", |s| s.contains("ended 0"));
    stop(child);
}

#[test]
fn widths_follow_and_colours_can_be_left_away() {
    let dir = directory();
    let child = ready(&mut client(dir.path(), &["lossy", "1"]));
    let id = format!("{}.2", child.id());
    for (env, coloured) in [("", true), ("NO_COLOR=1", false)] {
        let terminal = top(&format!("size{coloured}"), dir.path(), env, "--interval 0.2");
        terminal.shows("the endpoint", |s| s.contains(&id));
        let escapes = terminal.tmux(&["capture-pane", "-p", "-e"]);
        let is_colour = |code: &str| code.split(';').any(|n| matches!(n.parse(), Ok(30..=49 | 90..=107)));
        let colours = escapes.split("\x1b[").skip(1).filter_map(|s| s.split_once('m')).filter(|(c, _)| is_colour(c));
        // 39 and 49 put back what was never changed.
        let colours = colours.filter(|(c, _)| *c != "39" && *c != "49").count();
        assert_eq!(colours > 0, coloured, "{escapes:?}");
        terminal.tmux(&["resize-window", "-x", "70", "-y", "8"]);
        terminal.shows("a narrow table", |s| {
            s.contains(&id) && s.lines().all(|l| l.chars().count() <= 70) && !s.contains("LAST MINUTE")
        });
        terminal.tmux(&["resize-window", "-x", "3", "-y", "2"]);
        terminal.tmux(&["resize-window", "-x", "160", "-y", "30"]);
        terminal.shows("a wide table", |s| s.contains(&id) && s.contains("LAST MINUTE"));
        terminal.keys(&["C-c"]);
        terminal.shows("the end", |s| s.contains("ended 0"));
    }
    stop(child);
}

#[test]
fn a_signal_puts_the_terminal_back() {
    let dir = directory();
    let terminal = top("signal", dir.path(), "exec 3>&1;", "--filter nothing-like-that");
    terminal.shows("what is to be seen", |s| s.contains("filter: nothing-like-that"));
    let pid = terminal.tmux(&["list-panes", "-F", "#{pane_pid}"]);
    let child = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.trim())).expect("a child");
    let child = child.trim().parse().expect("one");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGTERM).expect("it lives");
    terminal.shows("the end", |s| s.contains("ended 0"));
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let output = Command::new(NLMMAP).arg("top").stdin(Stdio::null()).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text.contains("this is none") && text.contains("cure: ") && text.contains("nlmmap stat --json"), "{text}");
}

/// Whoever closes the window leaves no program behind that reads the end of its keys for ever.
#[test]
fn a_terminal_that_goes_takes_it_along() {
    let dir = directory();
    for (name, env) in [("gone", ""), ("gone-unheard", "trap '' HUP;")] {
        let terminal = top(name, dir.path(), env, "--filter nothing-like-that");
        terminal.shows("what is to be seen", |s| s.contains("filter: nothing-like-that"));
        let pid = terminal.tmux(&["list-panes", "-F", "#{pane_pid}"]);
        let child = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.trim())).expect("a child");
        let stat = format!("/proc/{}/stat", child.trim());
        drop(terminal);
        eventually("it lives on without a terminal", || {
            std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "))
        });
    }
}
