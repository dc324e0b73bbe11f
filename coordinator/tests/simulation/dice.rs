//! Everything random in a simulation: one generator, seeded.

use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};

pub(crate) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// From 0 to below `count`.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.0.next_u64() % count
    }

    /// From the first to the last, both included.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        // 53 bits: all that a float can tell apart.
        ((self.0.next_u64() >> 11) as f64) < probability * (1_u64 << 53) as f64
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// A wait of this length on average, exponential, and at least a millisecond.
    pub(crate) fn wait_ms(&mut self, mean_ms: u64) -> u64 {
        let part = ((self.0.next_u64() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        1 + (-part.ln() * mean_ms as f64) as u64
    }
}
