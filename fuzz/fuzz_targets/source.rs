// A fuzzer's bytes as a model's choices; included by each target that runs one.

use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// The fuzzer's bytes as choices: every four of them are one move, whatever stands before and behind, so that an input that is cut,
/// joined or repeated is a sequence of moves that is.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    /// One value, of the next four bytes.
    fn one<S: proptest::strategy::Strategy>(&mut self, strategy: &S) -> Option<S::Value> {
        if self.0.is_empty() {
            return None;
        }
        let (own, rest) = self.0.split_at(self.0.len().min(4));
        self.0 = rest;
        let mut seed = *b"every four bytes";
        seed.iter_mut().zip(own).for_each(|(to, from)| *to ^= from);
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
        strategy.new_tree(&mut TestRunner::new_with_rng(proptest::test_runner::Config::default(), rng)).ok().map(|tree| tree.current())
    }

    /// All that are left, up to so many.
    fn all<S: proptest::strategy::Strategy>(&mut self, strategy: impl Fn() -> S) -> Vec<S::Value> {
        let strategy = strategy();
        std::iter::from_fn(|| self.one(&strategy)).take(150).collect()
    }
}
