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

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The fuzzer's bytes as choices: every four of them are one move, whatever stands before and behind, so that an input that is cut,
/// joined or repeated is a sequence of moves that is.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    /// One value, of the next four bytes.
    fn one<S: Strategy>(&mut self, strategy: S) -> Option<S::Value> {
        if self.0.is_empty() {
            return None;
        }
        let (own, rest) = self.0.split_at(self.0.len().min(4));
        self.0 = rest;
        let mut seed = *b"every four bytes";
        seed.iter_mut().zip(own).for_each(|(to, from)| *to ^= from);
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
        strategy.new_tree(&mut TestRunner::new_with_rng(Config::default(), rng)).ok().map(|tree| tree.current())
    }

    /// All that are left.
    fn all<S: Strategy>(&mut self, strategy: impl Fn() -> S) -> Vec<S::Value> {
        std::iter::from_fn(|| self.one(strategy())).take(150).collect()
    }
}

/// For the models' own runs, which are no part of this.
fn config(cases: u32) -> Config {
    Config { cases, ..Config::default() }
}
