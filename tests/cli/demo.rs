//! `nlmmap demo`: the main job from end to end, on real input.

use crate::support::{directory, nlmmap, texts};

#[test]
fn all_of_it_works() {
    let dir = directory();
    let output = nlmmap().args(["demo", "--keep"]).arg(dir.path()).output().unwrap();
    let (status, out, err) = texts(&output);
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    for text in [
        "   refused: this kernel has no netlink rings (ENOPROTOOPT)\n",
        "   | link  1: lo ",
        "   | judged 1001 packets: 501 accepted, 500 dropped; ",
        "   sent 1001 packets; 501 arrived: exactly the even ones, in order, each with its bytes\n",
        "\nall of it worked\n",
    ] {
        assert!(out.contains(text), "no `{text}` in:\n{out}");
    }
    for name in ["dump", "dump.c", "queue", "queue.c"] {
        assert!(dir.path().join(name).exists(), "--keep left no {name}");
    }
}

#[test]
fn without_a_compiler_it_says_what_to_install() {
    let output = nlmmap().arg("demo").env("CC", "/nowhere/cc").output().unwrap();
    let (status, out, err) = texts(&output);
    assert_eq!((status, out.as_str()), (Some(3), ""));
    assert_eq!(
        err,
        "nlmmap: there is no C compiler (cc, gcc, clang, or what CC names)\n  cure: apt install gcc libc6-dev\n"
    );
}

#[test]
fn a_library_that_serves_nothing_is_found_out() {
    let dir = directory();
    let source = "unsigned int nlmmap_preload_abi = 1;\n";
    let idle = crate::support::compile(&dir, "idle.so", source, &["-shared", "-fPIC"]);
    let output = nlmmap().arg("demo").env("NLMMAP_PRELOAD", idle).output().unwrap();
    let (status, out, err) = texts(&output);
    assert_eq!(status, Some(1), "{out}");
    assert!(err.starts_with("nlmmap: the demo failed: the client failed under nlmmap: exit status: 3\n"), "{err}");
}
