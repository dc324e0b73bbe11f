//! Short grains laid closer together or farther apart, for what strikes: a click stays as short as it is.

use std::sync::Arc;

use super::transform::hann;

/// Length of a grain: 256 samples at 44.1 kHz, too short to hear a click twice.
const GRAIN_S: f64 = 256.0 / 44_100.0;

/// Stretches waveforms of one rate by overlap and add.
#[derive(Clone)]
pub(super) struct Grains {
    window: Arc<[f32]>,
}

impl Grains {
    /// For waveforms of this rate.
    pub(super) fn new(sample_rate_hz: u32) -> Self {
        let samples = (GRAIN_S * f64::from(sample_rate_hz)).max(2.0) as usize;
        Self { window: hann(samples.next_multiple_of(2)).into() }
    }

    /// Adds the waveform at `rate` times its speed to `output`, as far as that reaches.
    pub(super) fn stretch(&self, samples: &[f32], rate: f64, output: &mut [f32]) {
        // Hann windows half a grain apart add up to 1.
        let half = self.window.len() / 2;
        for grain in 0..=output.len().div_ceil(half) {
            let centre = grain * half;
            let source = (centre as f64 * rate).round() as usize;
            // Samples of the grain that lie before the first of the input, or of the output.
            let before = half.saturating_sub(source.min(centre));
            let from = samples.get((source + before).saturating_sub(half)..).unwrap_or_default();
            let to = output.get_mut((centre + before).saturating_sub(half)..).unwrap_or_default();
            let weights = self.window.iter().skip(before);
            for ((to, from), weight) in to.iter_mut().zip(from).zip(weights) {
                *to += from * weight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_one_changes_nothing() {
        let samples: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
        let mut output = vec![0.0; samples.len()];
        Grains::new(44_100).stretch(&samples, 1.0, &mut output);
        let worst = samples.iter().zip(&output).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-6, "{worst}");
    }
}
