//! The little of `numpy.random.RandomState` that scikit-learn's splits draw from.
//!
//! Source: numpy 2.4, `numpy/random/mtrand.pyx` (`_shuffle_raw`, `permutation`, `choice`) and
//! `numpy/random/src/distributions/distributions.c` (`random_interval`). This stream is frozen by numpy's policy (NEP 19).

use rand_mt::Mt;

/// `numpy.random.RandomState(seed)`.
pub(crate) struct RandomState(Mt);

impl RandomState {
    /// Seeds as numpy does from one 32-bit number.
    pub(crate) fn new(seed: u32) -> Self {
        Self(Mt::new(seed))
    }

    /// `shuffle`, in place.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.interval(last));
        }
    }

    /// `permutation(n)`.
    pub(crate) fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut items: Vec<usize> = (0..n).collect();
        self.shuffle(&mut items);
        items
    }

    /// `choice(items, size, replace=False)`.
    pub(crate) fn choose<T: Copy>(&mut self, items: &[T], size: usize) -> Vec<T> {
        let order = self.permutation(items.len());
        order.into_iter().take(size).filter_map(|at| items.get(at).copied()).collect()
    }

    /// A number from 0 to `max` inclusive: draws masked to the bits of `max` until one is not above it. numpy draws 64 bits
    /// at a time above 2³², which no dataset reaches: rows are 32-bit numbers.
    fn interval(&mut self, max: usize) -> usize {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let mask = u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.0.next_u32() & mask;
            if value <= max {
                return value as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_numpys() {
        // numpy.random.RandomState(42).permutation(10), then .permutation(5)
        let mut random = RandomState::new(42);
        assert_eq!(random.permutation(10), [8, 1, 5, 0, 7, 2, 9, 4, 3, 6]);
        assert_eq!(random.permutation(5), [1, 0, 3, 4, 2]);
    }
}
