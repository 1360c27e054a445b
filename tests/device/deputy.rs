//! A set-user-id-root program as a client: what it opens, what it is handed, and what it hands on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::{Daemon, Place, client, output};
use crate::support::copy;

const POLICY: &str = "\
[[policy.rule]]
name = \"root's queue\"
users = [0]
family = \"netfilter\"
send = [\"queue/config\"]
queues = [7]
[[policy.rule]]
name = \"the user's queue\"
users = [1001]
family = \"netfilter\"
send = [\"queue/config\"]
queues = [9]
";

/// The client with the bit, and beside it the same without.
fn program(place: &Place) -> (PathBuf, PathBuf) {
    let built = client("device_setuid");
    let (plain, with_bit) = (place.path("plain"), place.path("with-bit"));
    for (path, mode) in [(&plain, 0o755), (&with_bit, 0o4755)] {
        copy(Path::new(built.get_program()), path, mode);
    }
    (plain, with_bit)
}

/// By an unprivileged user, whose programs may gain rights by their files; in a network namespace of root's.
fn run(place: &Place, node: &Path, what: &str, daemon: &Daemon<'_>) {
    let (plain, with_bit) = program(place);
    let mut command = Command::new("unshare");
    command.args(["-n", "setpriv", "--reuid=1001", "--regid=1001", "--clear-groups", "--inh-caps=-all", "--"]);
    let result = output(command.arg(plain).arg(node).arg(what).arg(with_bit));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&result.stdout), text(&result.stderr));
    assert!(
        result.status.success() && out.ends_with("nothing is lent\n"),
        "{}: {}\n{out}{err}\n{}",
        node.display(),
        result.status,
        daemon.tail()
    );
}

/// The rights of the moment, of whoever opened and whoever sends, whichever are less: as with a socket.
#[test]
fn a_set_user_id_program_lends_its_rights_to_nobody() {
    let place = Place::new();
    let daemon = place.start();
    run(&place, Path::new("own"), "rights", &daemon);
    run(&place, &place.node(), "rights", &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_set_user_id_program_has_the_grants_of_whom_it_is_and_hands_none_on() {
    if !Path::new("/proc/self/net/netfilter/nfnetlink_queue").exists() {
        return eprintln!("skipped: this kernel has no queues");
    }
    let place = Place::with_config(POLICY);
    let daemon = place.start();
    run(&place, &place.node(), "granted", &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}
