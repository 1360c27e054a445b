//! nlmmap command.
fn main() {}
