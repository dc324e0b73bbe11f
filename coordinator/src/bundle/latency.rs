//! Percentiles of times.

use serde::Serialize;

/// Half of the times were at most `p50_ms`, 99 of 100 at most `p99_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, in milliseconds; of fewer than 100 times, the longest.
    pub p99_ms: f64,
    /// Times measured.
    pub runs: usize,
}

impl Latency {
    /// Of times in nanoseconds, by the nearest-rank method; none of none.
    pub fn of(mut times_ns: Vec<u64>) -> Option<Self> {
        times_ns.sort_unstable();
        let runs = times_ns.len();
        let percentile = |percent: usize| {
            let rank = (runs * percent).div_ceil(100).max(1);
            times_ns.get(rank - 1).map(|&ns| ns as f64 / 1e6)
        };
        Some(Self { p50_ms: percentile(50)?, p99_ms: percentile(99)?, runs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(times_ms: impl IntoIterator<Item = u64>, expected: Option<(f64, f64)>) {
        let found = Latency::of(times_ms.into_iter().map(|ms| ms * 1_000_000).collect());
        assert_eq!(found.map(|latency| (latency.p50_ms, latency.p99_ms)), expected);
    }

    #[test]
    fn percentiles_are_times_that_occurred() {
        check([], None);
        check([7], Some((7.0, 7.0)));
        check([3, 1, 2], Some((2.0, 3.0)));
        check((1..=200).rev(), Some((100.0, 198.0)));
    }
}
