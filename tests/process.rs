//! What a process may be and do: signals, cancellation, errno, privileges dropped, limits, other C libraries, checkers,
//! interpreters, other preloads; and programs that never use rings.

mod support;
use std::path::PathBuf;
use std::process::Command;
use support::{Build, Client, Mode, client, compile, program, say, script};

#[test]
fn signal_handlers_call_hooks_above_hooks() {
    client("signals").passes();
}

#[test]
fn signals_end_waits_beside_what_the_ring_cannot_take() {
    client("wait_signals").passes();
}

fn cancelled_in(way: &str) {
    client("cancel").arg(way).passes();
}

#[test]
fn cancelled_in_poll() {
    cancelled_in("poll");
}

#[test]
fn cancelled_in_ppoll() {
    cancelled_in("ppoll");
}

#[test]
fn cancelled_in_select() {
    cancelled_in("select");
}

#[test]
fn cancelled_in_epoll_wait() {
    cancelled_in("epoll_wait");
}

#[test]
fn cancelled_in_recv() {
    cancelled_in("recv");
}

#[test]
fn cancelled_in_recvmsg() {
    cancelled_in("recvmsg");
}

#[test]
fn cancelled_in_read() {
    cancelled_in("read");
}

#[test]
fn musl_cancelled_in_poll() {
    client("cancel").build(Build::Musl).arg("poll").passes();
}

#[test]
fn errno_is_untouched_on_success_and_the_kernels_on_failure() {
    client("errno").passes();
}

#[test]
fn setuid_after_the_rings_reaches_every_thread() {
    client("setuid").passes();
}

#[test]
fn musl_setuid_after_the_rings_reaches_every_thread() {
    client("setuid").build(Build::Musl).passes();
}

#[test]
fn limit_of_descriptors() {
    client("limits").arg("fds").passes();
}

#[test]
fn limit_of_memory() {
    client("limits").arg("memory").passes();
}

#[test]
fn limit_of_threads() {
    client("limits").arg("threads").passes();
}

#[test]
fn system_calls_denied_by_seccomp() {
    client("limits").arg("seccomp").seconds(120).passes();
}

#[test]
fn basic_client() {
    client("basic").passes();
}

#[test]
fn basic_client_linked_against_musl() {
    client("basic").build(Build::Musl).passes();
}

#[test]
fn basic_client_fortified() {
    client("basic").build(Build::Fortified).passes();
}

#[test]
fn basic_client_with_64_bit_offsets() {
    client("basic").build(Build::Offset64).passes();
}

#[test]
fn basic_client_under_address_sanitizer() {
    // Its runtime insists on being first in the list; ours is named in the environment before it.
    client("basic").build(Build::Asan).env("ASAN_OPTIONS", "verify_asan_link_order=0").passes();
}

/// `setarch -R`: some versions of the runtimes do not cope with what the kernel's randomization may give them.
fn with_runtime_inside(build: Build) {
    client("basic").build(build).under(&["setarch", "-R"]).passes();
}

#[test]
fn basic_client_with_address_sanitizer_inside() {
    with_runtime_inside(Build::StaticAsan);
}

#[test]
fn basic_client_with_thread_sanitizer_inside() {
    with_runtime_inside(Build::StaticTsan);
}

#[test]
fn basic_client_with_leak_sanitizer_inside() {
    // Some versions of the runtime cannot start at all: glibc has no cfree, the failed look-up allocates, and the runtime forbids that.
    let bare = client("basic").build(Build::StaticLsan).run(None);
    if bare.stderr.contains("lsan_init_is_running") {
        say(&format!(
            "not run here: a program with this LeakSanitizer dies without nlmmap too: {}",
            bare.stderr.trim_end()
        ));
        return;
    }
    with_runtime_inside(Build::StaticLsan);
}

/// A runtime's library, as gcc names it.
fn runtime(name: &str) -> PathBuf {
    let output = Command::new("gcc").arg(format!("-print-file-name={name}")).output().expect("gcc starts");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

#[test]
fn basic_client_behind_a_preloaded_address_sanitizer() {
    client("basic").behind(runtime("libasan.so")).env("ASAN_OPTIONS", "detect_leaks=0").passes();
}

#[test]
fn every_hook_before_any_constructor() {
    client("early_calls").passes();
}

#[test]
fn every_hook_while_the_program_is_relocated() {
    client("early_resolver").passes();
}

/// In front of ours or behind it.
fn resolver_in_a_library(host: impl Fn(Client, PathBuf) -> Client) {
    let host = host(program(&["perl", "-e", "0"]).env("EARLY", "1"), compile("early_library", Build::Library));
    let outcome = host.run(Some(Mode::Default));
    assert!(outcome.success() && outcome.stderr.contains("early library: ok, 6 calls, 7"), "{}", outcome.describe());
}

#[test]
fn hooks_before_the_preload_is_relocated() {
    resolver_in_a_library(Client::ahead_of);
}

#[test]
fn hooks_after_the_preload_is_relocated() {
    resolver_in_a_library(Client::behind);
}

#[test]
fn basic_client_under_valgrind_without_errors_and_leaks() {
    let leaks = ["--leak-check=full", "--errors-for-leak-kinds=definite,possible", "--error-exitcode=9"];
    client("basic").under(&[&["valgrind", "--quiet"], &leaks[..]].concat()).seconds(120).passes();
}

#[test]
fn basic_client_with_jemalloc() {
    let jemalloc = PathBuf::from("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2");
    assert!(jemalloc.exists(), "libjemalloc2 is not installed");
    client("basic").behind(jemalloc.clone()).passes();
    client("basic").ahead_of(jemalloc).passes();
}

#[test]
fn basic_client_behind_another_preload() {
    let other = compile("other_preload", Build::Library);
    let client = client("basic").behind(other).env("OTHER_PRELOAD_FD", "1");
    client.refused_without();
    for mode in [Mode::Default, Mode::Strict] {
        let outcome = client.run(Some(mode));
        assert!(outcome.success(), "{}", outcome.describe());
        let counts = outcome.stdout.lines().find(|line| line.starts_with("other preload:"));
        let counts = counts.unwrap_or_else(|| panic!("the other preload did not report: {}", outcome.describe()));
        // basic.c polls 12 times to wait and 60 times to see silence, sends by sendto, closes and sets options.
        for (count, what, least) in [(1, "polls", 60), (2, "sends", 60), (3, "closes", 14), (4, "options", 4)] {
            let seen = counts.split(' ').collect::<Vec<_>>()[count * 2];
            assert!(seen.parse::<u32>().is_ok_and(|n| n >= least), "{what} passed the other preload by: {counts}");
        }
    }
}

/// Silent unless asked; asked, each refusal is one line that says why.
#[test]
fn refusals_are_logged_when_asked_for() {
    let silent = client("errno").run(Some(Mode::Default));
    assert!(silent.success() && silent.stderr.is_empty(), "{}", silent.describe());
    let told = client("errno").log("info").run(Some(Mode::Default));
    assert!(told.success(), "{}", told.describe());
    assert!(
        told.stderr.lines().all(|line| line.starts_with("nlmmap[") && line.contains("]: info: ")),
        "{}",
        told.stderr
    );
    for why in ["errno 16", "17 frames", "errno 14", "mmap of 4096 bytes"] {
        assert!(told.stderr.contains(why), "no line says {why}: {}", told.stderr);
    }
    assert_eq!(
        told.stderr.lines().filter(|line| line.contains(" closed: family 2, rx ")).count(),
        1,
        "{}",
        told.stderr
    );
}

/// Rings in a library's constructor, its `atexit` handler and its destructor, in a program that knows nothing of them.
fn outside_main(host: Client) {
    let host = host.env("EARLY", "1");
    for mode in [Mode::Default, Mode::Strict] {
        let outcome = host.run(Some(mode));
        assert!(outcome.success() && outcome.stderr.contains("early: 60 messages"), "{}", outcome.describe());
    }
}

#[test]
fn rings_in_a_constructor_that_runs_before_ours() {
    outside_main(program(&["perl", "-e", "0"]).ahead_of(compile("early", Build::Library)));
}

#[test]
fn rings_in_a_constructor_that_runs_after_ours() {
    outside_main(program(&["perl", "-e", "0"]).behind(compile("early", Build::Library)));
}

#[test]
fn client_library_loaded_by_dlopen() {
    let library = compile("plugin_lib", Build::Library);
    client("plugin").arg(library.display().to_string()).passes();
}

#[test]
fn python_client_through_ctypes() {
    script("python3", "ctypes_client.py").passes();
}

#[test]
fn hostile_words_in_frame_headers() {
    client("hostile").arg("headers").passes();
}

#[test]
fn hostile_lengths() {
    client("hostile").arg("lengths").passes();
}

#[test]
fn hostile_words_everywhere() {
    client("hostile").arg("all").passes();
}

/// A program that never sets a ring does and prints the same with the library and without.
fn unchanged(interpreter: &str, file: &str) {
    let program = script(interpreter, file);
    let bare = program.run(None);
    assert!(bare.success(), "{file} without the library: {}", bare.describe());
    for mode in [Mode::Default, Mode::Strict] {
        let with = program.run(Some(mode));
        assert!(with.success(), "{file} with the library: {}", with.describe());
        assert_eq!((&with.stdout, &with.stderr), (&bare.stdout, &bare.stderr), "{file} writes something else");
    }
}

#[test]
fn python_without_rings_is_unchanged() {
    unchanged("python3", "unchanged.py");
}

#[test]
fn perl_without_rings_is_unchanged() {
    unchanged("perl", "unchanged.pl");
}

#[test]
fn bash_without_rings_is_unchanged() {
    unchanged("bash", "unchanged.sh");
}
