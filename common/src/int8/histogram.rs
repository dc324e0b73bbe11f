//! Histograms of activations, and the ranges that calibration reads from them, as onnxruntime.quantization's
//! `HistogramCollector` does (`symmetric=False`, all values in one batch).

use super::Range;

/// Part of a bin's mass that an empty bin is given, so that the divergence stays finite.
const SMOOTHING: f64 = 1e-4;

/// Counts of values in bins of equal width around 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    /// One more than bins; the last bin holds its upper edge too.
    edges: Vec<f32>,
    /// Smallest and largest value that will be counted.
    seen: Range,
}

impl Histogram {
    /// Empty bins from minus to plus the larger magnitude of `seen`, within which all values lie.
    pub(super) fn new(bins: usize, seen: Range) -> Self {
        let threshold = seen.max.abs().max(seen.min.abs());
        // numpy.linspace in float32.
        let step = (threshold + threshold) / bins as f32;
        let mut edges: Vec<f32> = (0..=bins).map(|edge| edge as f32 * step - threshold).collect();
        if let Some(last) = edges.last_mut() {
            *last = threshold;
        }
        Self { counts: vec![0; bins], edges, seen }
    }

    /// Counts values; one outside the bins is left out.
    pub(super) fn add(&mut self, values: &[f32]) {
        let (Some(&first), Some(&last)) = (self.edges.first(), self.edges.last()) else { return };
        let bins = self.counts.len();
        for &value in values {
            if !(value >= first && value <= last) || last <= first {
                continue;
            }
            // As numpy.histogram: a guess, put right by the edges themselves.
            let mut bin = (((value - first) / (last - first) * bins as f32) as usize).min(bins - 1);
            let edge = |bin: usize| self.edges.get(bin).copied().unwrap_or(f32::INFINITY);
            if value < edge(bin) {
                bin -= 1;
            } else if bin + 1 < bins && value >= edge(bin + 1) {
                bin += 1;
            }
            if let Some(count) = self.counts.get_mut(bin) {
                *count += 1;
            }
        }
    }

    /// Both together, of the same bins.
    pub(super) fn merged(mut self, other: &Self) -> Self {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self
    }

    /// The range that leaves half of `100 − percentile` percent of the values out at either end.
    pub(super) fn percentile(&self, percentile: f64) -> Range {
        let total: u64 = self.counts.iter().sum();
        let cut = (100.0 - percentile) / 200.0;
        let edge_reaching = |part: f64| {
            let mut below = 0.0;
            let bin = self.counts.iter().position(|&count| {
                below += count as f64 / total as f64;
                below >= part
            });
            self.edge(bin.unwrap_or(self.counts.len()))
        };
        self.within(edge_reaching(cut), edge_reaching(1.0 - cut))
    }

    /// The range whose `quantised_bins` steps lose the least of the distribution, by Kullback-Leibler divergence (Migacz 2017,
    /// "8-bit inference with TensorRT").
    pub(super) fn entropy(&self, quantised_bins: usize) -> Range {
        let (bins, zero) = (self.counts.len(), self.counts.len() / 2);
        let mut best = (f64::INFINITY, quantised_bins / 2);
        for half in quantised_bins / 2..=zero {
            let divergence = self.divergence(zero - half, (zero + half + 1).min(bins), quantised_bins);
            if divergence < best.0 {
                best = (divergence, half);
            }
        }
        let half = best.1.min(zero);
        self.within(self.edge(zero - half), self.edge((zero + half + 1).min(bins)))
    }

    /// Divergence of the bins `start..end`, which take up all that lies outside, from what `quantised_bins` steps leave of them.
    fn divergence(&self, start: usize, end: usize, quantised_bins: usize) -> f64 {
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        let slice = self.counts.get(start..end).unwrap_or(&[]);
        let mut reference = slice.to_vec();
        if let Some(first) = reference.first_mut() {
            *first += sum(self.counts.get(..start).unwrap_or(&[]));
        }
        if let Some(last) = reference.last_mut() {
            *last += sum(self.counts.get(end..).unwrap_or(&[]));
        }
        let merged = (slice.len() / quantised_bins.max(1)).max(1);
        let mut candidate = vec![0_u64; reference.len()];
        let groups = candidate.chunks_exact_mut(merged).take(quantised_bins);
        for (index, group) in groups.enumerate() {
            let start = index * merged;
            // The last step takes what is left over.
            let end = if index + 1 == quantised_bins { slice.len() } else { start + merged };
            let mass = sum(slice.get(start..end).unwrap_or(&[]));
            let occupied = reference.iter().skip(start).take(merged).filter(|&&count| count != 0).count();
            if occupied > 0 {
                // Whole numbers, as in the original.
                group.fill(mass / occupied as u64);
            }
        }
        match (smoothed(&reference), smoothed(&candidate)) {
            (Some(reference), Some(candidate)) => relative_entropy(&reference, &candidate),
            _ => f64::INFINITY,
        }
    }

    fn edge(&self, edge: usize) -> f32 {
        self.edges.get(edge).copied().unwrap_or_default()
    }

    /// A range no wider than what was seen.
    fn within(&self, min: f32, max: f32) -> Range {
        Range { min: min.max(self.seen.min), max: max.min(self.seen.max) }
    }
}

/// Counts with a little of the occupied bins' mass in the empty ones; none if all are empty.
fn smoothed(counts: &[u64]) -> Option<Vec<f64>> {
    let empty = counts.iter().filter(|&&count| count == 0).count();
    let occupied = counts.len() - empty;
    let taken = SMOOTHING * empty as f64 / occupied as f64;
    (occupied > 0).then(|| {
        counts.iter().map(|&count| if count == 0 { SMOOTHING } else { count as f64 - taken }).collect()
    })
}

/// `Σ p·ln(p/q)` of both brought to a sum of 1.
fn relative_entropy(p: &[f64], q: &[f64]) -> f64 {
    let [p_sum, q_sum] = [p, q].map(|values| values.iter().sum::<f64>());
    p.iter().zip(q).map(|(p, q)| (p / p_sum, q / q_sum)).map(|(p, q)| p * (p / q).ln()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Numbers in [0, 1) with 24 bits, as `golden/calibration.py` makes them.
    fn uniform() -> impl Iterator<Item = f32> {
        let mut state = 0x9E37_79B9_u32;
        std::iter::from_fn(move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            Some((state >> 8) as f32 / (1 << 24) as f32)
        })
    }

    fn values(set: &str, count: usize) -> Vec<f32> {
        let mut uniform = uniform();
        let mut next = || {
            let [a, b, c, d] = [(); 4].map(|()| uniform.next().unwrap());
            let bell = a + b + c + d - 2.0;
            match set {
                "bell" => bell,
                "relu" => (bell - 0.5).max(0.0),
                "tail" => (a - 0.5) / (b + 0.002),
                _ => a * b * c * 7.0 - 1.0,
            }
        };
        (0..count).map(|_| next()).collect()
    }

    fn range(golden: &Value) -> Range {
        let [min, max] = [0, 1].map(|index| golden[index].as_f64().unwrap() as f32);
        Range { min, max }
    }

    #[test]
    fn ranges_are_those_of_onnx_runtimes_calibrators() {
        let golden: Value = serde_json::from_str(include_str!("golden/calibration.json")).unwrap();
        for (name, golden_set) in golden["sets"].as_object().unwrap() {
            let values = values(name, golden["count"].as_u64().unwrap() as usize);
            let first = golden_set["first"][3].as_f64().unwrap() as f32;
            assert_eq!(values[3].to_bits(), first.to_bits(), "{name}");
            let histogram = |bins: usize| {
                // Counted in two halves, as batches are.
                let mut halves = [(); 2].map(|()| Histogram::new(bins, range(&golden_set["min_max"])));
                for (half, values) in halves.iter_mut().zip(values.chunks(values.len() / 2)) {
                    half.add(values);
                }
                let [one, other] = halves;
                one.merged(&other)
            };
            for (percentile, expected) in golden_set["percentile"].as_object().unwrap() {
                let found = histogram(2048).percentile(percentile.parse().unwrap());
                assert_eq!(found, range(expected), "{name} {percentile}");
            }
            for (bins, expected) in golden_set["entropy"].as_object().unwrap() {
                let found = histogram(bins.parse().unwrap()).entropy(128);
                assert_eq!(found, range(expected), "{name} {bins} bins");
            }
        }
    }

    #[test]
    fn a_dead_activation_has_no_range() {
        let mut histogram = Histogram::new(16, Range::default());
        histogram.add(&[0.0; 9]);
        assert_eq!(histogram.percentile(99.9), Range::default());
        assert_eq!(histogram.entropy(8), Range::default());
    }
}
