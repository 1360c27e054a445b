//! Python's own tests, by `tests/selftests/python.py`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::cage::Cage;
use super::{Outcomes, Part};
use crate::{cargo, tools};

/// Modules of waits, descriptors, sockets, processes, signals and mappings.
const BRIEF: &[&str] = &[
    "test_epoll",
    "test_fcntl",
    "test_fork1",
    "test_mmap",
    "test_openpty",
    "test_pipes",
    "test_poll",
    "test_popen",
    "test_posix",
    "test_pty",
    "test_select",
    "test_thread",
    "test_signal.WakeupFDTests",
    "test_signal.WakeupSignalTests",
    "test_signal.PosixTests",
    "test_signal.PendingSignalsTests",
    "test_asyncio.test_selector_events",
    "test_asyncio.test_unix_events",
    "test_asyncio.test_sock_lowlevel",
    "test_os.FDInheritanceTests",
    "test_os.SpawnTests",
    "test_os.TestSendfile",
    "test_os.EventfdTests",
    "test_socket.GeneralModuleTests",
    "test_socket.BasicTCPTest",
    "test_socket.BasicUDPTest",
    "test_socket.RecvmsgUDPTest",
    "test_socket.RecvmsgSCMRightsStreamTest",
    "test_socket.RecvmsgIntoUnixStreamTest",
    "test_socket.SendmsgUnixStreamTest",
    "test_socket.NonBlockingTCPTests",
    "test_socket.SendfileUsingSendfileTest",
    "test_socket.TestUnixDomain",
    "test_socket.SendRecvFdsTests",
    "test_socket.UnbufferedFileObjectClassTestCase",
];
const MORE: &[&str] = &[
    "test_wait4",
    "test_wait3",
    "test_selectors",
    "test_asynchat",
    "test_asyncio",
    "test_asyncore",
    "test_cmd_line",
    "test_dbm",
    "test_docxmlrpc",
    "test_eintr",
    "test_faulthandler",
    "test_fileinput",
    "test_fileio",
    "test_ftplib",
    "test_httpservers",
    "test_imaplib",
    "test_interpreters",
    "test_io",
    "test_largefile",
    "test_logging",
    "test_mailbox",
    "test_nntplib",
    "test_os",
    "test_poplib",
    "test_resource",
    "test_script_helper",
    "test_shutil",
    "test_signal",
    "test_smtplib",
    "test_socket",
    "test_socketserver",
    "test_ssl",
    "test_subprocess",
    "test_support",
    "test_sys",
    "test_syslog",
    "test_telnetlib",
    "test_tempfile",
    "test_threading",
    "test_threadsignals",
    "test_urllib2_localnet",
    "test_uuid",
    "test_wsgiref",
    "test_xmlrpc",
    "test_zipfile",
    "test_atexit",
    "test_timeout",
    "test_concurrent_futures",
    "test_multiprocessing_fork",
];

/// A test that takes longer has hung; a module's process that does is ended, and after twice that time none is begun for what is left.
/// (One that starts half a dozen interpreters takes a second, and half a minute of a quarter of a processor among others.)
const SECONDS: u32 = 120;
const MODULE_SECONDS: u32 = 900;
/// How often a module's process may die by one of its tests.
const DEATHS: u32 = 8;

pub fn parts(_home: &Path, brief: bool) -> Result<Vec<Part>, String> {
    let there = || {
        Command::new("python3").args(["-c", "import test.test_socket"]).output().is_ok_and(|run| run.status.success())
    };
    if !there() {
        tools::install(&["libpython3-testsuite"])?;
    }
    if !there() {
        return Err("python3 has no module test.test_socket".into());
    }
    let whole = |name: &&&str| !name.contains('.');
    let names = if brief {
        BRIEF.iter().collect()
    } else {
        BRIEF.iter().filter(whole).chain(MORE).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    Ok(names
        .into_iter()
        .map(|name| Part { suite: "python", name: (*name).to_string(), run: Box::new(move |cage| run(cage, name)) })
        .collect())
}

fn run(cage: &Cage, name: &str) -> Result<Outcomes, String> {
    let script = cargo::root().join("tests/selftests/python.py");
    let record = cage.directory().join("record");
    let begin = Instant::now();
    for _ in 0..DEATHS {
        if begin.elapsed().as_secs() > u64::from(2 * MODULE_SECONDS) {
            break;
        }
        let args =
            [script.display().to_string(), record.display().to_string(), SECONDS.to_string(), format!("test.{name}")];
        let run = cage.run(&["python3"], &args, MODULE_SECONDS)?;
        let record = fs::read_to_string(&record).unwrap_or_default();
        let outcomes = read(&record);
        if record.ends_with("end\n") {
            return Ok(outcomes);
        }
        if outcomes.is_empty() {
            // The module itself wants what is not here, or asks not to be run.
            let word = if run.errors.contains("SkipTest") { "skipped" } else { "failed" };
            return Ok([("the module".to_string(), word.to_string())].into());
        }
    }
    Ok(read(&fs::read_to_string(&record).unwrap_or_default()))
}

fn read(record: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for (word, test) in record.lines().filter_map(|line| line.split_once(' ')) {
        let word = if word == "start" { "hung or died" } else { word };
        outcomes.insert(test.to_string(), word.to_string());
    }
    outcomes
}

#[test]
fn a_test_that_was_begun_only_has_hung() {
    let outcomes = read("start a\nok a\nstart b\nstart c\nskipped c\nend\n");
    let expected =
        [("a", "ok"), ("b", "hung or died"), ("c", "skipped")].map(|(test, it)| (test.to_string(), it.to_string()));
    assert_eq!(outcomes, Outcomes::from(expected));
}
