//! Compiles the loops of the C libraries, which have to be installed with their headers.

fn main() {
    println!("cargo::rerun-if-changed=src/peers.c");
    cc::Build::new().file("src/peers.c").std("gnu11").opt_level(2).flag("-Wall").flag("-Wextra").compile("peers");
    for library in ["netfilter_queue", "netfilter_conntrack", "nfnetlink", "mnl"] {
        println!("cargo::rustc-link-lib={library}");
    }
}
