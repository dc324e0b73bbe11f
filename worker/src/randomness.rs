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

    /// Shuffles in place.
    pub fn shuffle<T>(&mut self, rows: &mut [T]) {
        shuffle(&mut self.0, rows);
    }
}

/// What is done to features.
#[derive(Debug)]
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::from_seed(stream(seed, "augmentation")))
    }

    /// Uniform from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        const STEPS: f64 = (1_u64 << 53) as f64; // as many as a double has between 0 and 1 at equal distance
        (self.0.next_u64() >> 11) as f64 / STEPS
    }

    /// A whole number from `low` to `high`, both included.
    pub fn whole(&mut self, low: i64, high: i64) -> i64 {
        low + below(&mut self.0, (high - low).unsigned_abs() + 1) as i64
    }

    /// Shuffles in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        shuffle(&mut self.0, items);
    }

    /// From Beta(α, α), by rejection (Jöhnk 1964): for an α of 2 one draw in six is taken, for smaller ones more.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        loop {
            // Logarithms, because a small α makes both powers too small for a double.
            let [x, y] = [(); 2].map(|()| (1.0 - self.unit()).ln() / alpha);
            let larger = x.max(y);
            let log_sum = larger + ((x - larger).exp() + (y - larger).exp()).ln();
            if log_sum <= 0.0 {
                return (x - log_sum).exp();
            }
        }
    }
}

/// Uniform from 0 to below `bound`, which is above 0: multiply-shift instead of a remainder; its bias is below 2^-32 for any
/// dataset that fits in memory.
fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

/// Fisher and Yates. Own code, because the order must not change with a library's version.
fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let chosen = below(rng, last as u64 + 1);
        items.swap(last, chosen as usize);
    }
}

/// Which views are trained on.
#[derive(Debug)]
pub struct Choices(ChaCha8Rng);

impl Choices {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::from_seed(stream(seed, "views")))
    }

    /// True with this probability.
    pub fn comes_up(&mut self, p: f64) -> bool {
        const STEPS: f64 = (1_u64 << 53) as f64;
        ((self.0.next_u64() >> 11) as f64 / STEPS) < p
    }

    /// One of these, each as likely as the others; none of none.
    pub fn one_of<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        let chosen = (!items.is_empty()).then(|| below(&mut self.0, items.len() as u64))?;
        items.get(chosen as usize).copied()
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

    /// What a kept element is multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Fills the buffer with the next mask.
    pub fn fill(&mut self, mask: &mut [f32]) {
        self.fill_with(mask, [0.0, self.scale]);
    }

    /// Fills the buffer with whether the next mask keeps an element: a quarter of the bytes.
    pub fn fill_kept(&mut self, kept: &mut [bool]) {
        self.fill_with(kept, [false, true]);
    }

    fn fill_with<T: Copy>(&mut self, mask: &mut [T], [dropped, kept]: [T; 2]) {
        for elements in mask.chunks_mut(4) {
            let mut bits = self.rng.next_u64();
            for element in elements {
                *element = if (bits as u16) < self.threshold { dropped } else { kept };
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
    fn beta_has_its_mean_and_variance() {
        for alpha in [0.1, 0.4, 1.0, 2.0] {
            let mut draws = Draws::new(11);
            let values: Vec<f64> = (0..20_000).map(|_| draws.beta(alpha)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance =
                values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.05, "{alpha}: {variance} is not {expected}");
            assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
        }
    }

    #[test]
    fn whole_numbers_reach_both_ends() {
        let mut draws = Draws::new(12);
        let mut seen: Vec<i64> = (0..200).map(|_| draws.whole(-2, 1)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [-2, -1, 0, 1]);
        assert_eq!(draws.whole(5, 5), 5);
    }

    #[test]
    fn choices_are_fair() {
        let mut choices = Choices::new(3);
        let up = (0..10_000).filter(|_| choices.comes_up(0.3)).count();
        assert!((2_850..3_150).contains(&up), "{up}");
        assert!((0..100).all(|_| choices.comes_up(1.0)));
        let firsts = (0..10_000).filter(|_| choices.one_of(&[1, 2, 3, 4]) == Some(1)).count();
        assert!((2_350..2_650).contains(&firsts), "{firsts}");
        assert_eq!(choices.one_of::<u8>(&[]), None);
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
