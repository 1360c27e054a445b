//! Link options of a library that lives inside other programs: nothing but the table's names goes out, nothing of the C
//! runtime comes in, everything is bound at load, and it is never unloaded (threads may be inside).

fn main() {
    let map = concat!(env!("CARGO_MANIFEST_DIR"), "/exports.map");
    println!("cargo:rerun-if-changed={map}");
    println!("cargo:rerun-if-changed=build.rs");
    for arg in [
        "-nostdlib",
        "-nostartfiles",
        "-Wl,-z,now",
        "-Wl,-z,nodelete",
        "-Wl,-z,relro",
        "-Wl,-Bsymbolic",
        "-Wl,--gc-sections",
    ] {
        println!("cargo:rustc-cdylib-link-arg={arg}");
    }
    println!("cargo:rustc-cdylib-link-arg=-Wl,--undefined-version");
    println!("cargo:rustc-cdylib-link-arg=-Wl,--version-script={map}");
}
