// What the models of the engine's tests share; included by each target that runs one.

#[path = "../../crates/ring/tests/engine/bench.rs"]
mod bench;
#[path = "../../crates/ring/tests/engine/dump.rs"]
mod dump;
#[path = "../../crates/ring/tests/engine/message.rs"]
mod message;
#[path = "../../crates/ring/tests/engine/mock.rs"]
mod mock;
#[path = "../../crates/ring/tests/engine/reference.rs"]
mod reference;

include!("source.rs");

use proptest::test_runner::Config;

/// For the models' own runs, which are no part of this.
fn config(cases: u32) -> Config {
    Config { cases, ..Config::default() }
}
