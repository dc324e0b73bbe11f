//! Every draw of a run, from the run's seed and nothing else.
//!
//! torch has one global generator for all threads of a process, so two slots that drew from it would disturb each other.
//! Each purpose has a stream of its own: a run without dropout still sees the same weights and the same order.

use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_chacha::ChaCha8Rng;

/// Key of one purpose's stream.
fn stream(seed: u64, purpose: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("earshot worker randomness v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(purpose.as_bytes());
    *hasher.finalize().as_bytes()
}

/// Initial weights.
#[derive(Debug)]
pub struct Weights(ChaCha8Rng);

impl Weights {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::from_seed(stream(seed, "weights")))
    }

    /// `n` values, uniform in `[-bound, bound)`.
    pub fn uniform(&mut self, bound: f32, n: usize) -> Vec<f32> {
        const STEPS: f32 = (1 << 24) as f32; // as many as a float has between 0 and 1 at equal distance
        (0..n).map(|_| bound * (2.0 * ((self.0.next_u32() >> 8) as f32 / STEPS) - 1.0)).collect()
    }
}

/// The order in which rows are trained on, epoch after epoch.
#[derive(Debug)]
pub struct Order(ChaCha8Rng);

impl Order {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::from_seed(stream(seed, "order")))
    }

    /// Shuffles in place (Fisher and Yates). Own code, because the order must not change with a library's version.
    pub fn shuffle<T>(&mut self, rows: &mut [T]) {
        for last in (1..rows.len()).rev() {
            // Multiply-shift instead of a remainder; its bias is below 2^-32 for any dataset that fits in memory.
            let chosen = (u128::from(self.0.next_u64()) * (last as u128 + 1)) >> 64;
            rows.swap(last, chosen as usize);
        }
    }
}

/// Inverted dropout: masks of 0 and 1/(1-p).
#[derive(Debug)]
pub struct Masks {
    /// Not cryptographic but fast: a step of the reference model draws a third of a million elements.
    rng: Xoshiro256PlusPlus,
    /// Sixteen random bits below this drop their element.
    threshold: u16,
    /// What a kept element is multiplied by, so that the expectation stays.
    scale: f32,
}

impl Masks {
    /// The stream of this seed for a dropout probability from 0 to below 1, rounded to a multiple of 2^-16.
    pub fn new(seed: u64, dropout: f64) -> Self {
        const STEPS: f64 = 65_536.0;
        let threshold = (dropout * STEPS).round().clamp(0.0, STEPS - 1.0);
        Self {
            rng: Xoshiro256PlusPlus::from_seed(stream(seed, "dropout")),
            threshold: threshold as u16,
            scale: (STEPS / (STEPS - threshold)) as f32,
        }
    }

    /// Whether there is anything to drop.
    pub fn is_active(&self) -> bool {
        self.threshold > 0
    }

    /// Fills the buffer with the next mask.
    pub fn fill(&mut self, mask: &mut [f32]) {
        for elements in mask.chunks_mut(4) {
            let mut bits = self.rng.next_u64();
            for element in elements {
                *element = if (bits as u16) < self.threshold { 0.0 } else { self.scale };
                bits >>= 16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_draws_and_another_seed_others() {
        let draw = |seed| Weights::new(seed).uniform(0.5, 1000);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(3).iter().all(|value| (-0.5..0.5).contains(value)));
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_goes_on_changing() {
        let mut order = Order::new(7);
        let mut rows: Vec<i64> = (0..100).collect();
        order.shuffle(&mut rows);
        let first = rows.clone();
        order.shuffle(&mut rows);
        assert_ne!(first, rows);
        rows.sort_unstable();
        assert!(rows.iter().copied().eq(0..100));
    }

    #[test]
    fn masks_keep_the_expectation() {
        let mut mask = vec![0.0; 100_001];
        Masks::new(5, 0.3).fill(&mut mask);
        let dropped = mask.iter().filter(|&&element| element == 0.0).count() as f64 / mask.len() as f64;
        let mean = mask.iter().map(|&element| f64::from(element)).sum::<f64>() / mask.len() as f64;
        assert!((dropped - 0.3).abs() < 0.01, "{dropped}");
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert!(!Masks::new(5, 0.0).is_active());
    }
}
