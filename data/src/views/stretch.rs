//! Another length at the same pitch.

use super::{
    grains::Grains,
    separation::{Parts, Separator},
    vocoder::Vocoder,
};

/// Stretches waveforms of one rate. A clone shares plans and has buffers of its own.
#[derive(Clone)]
pub(super) struct Stretcher {
    separator: Separator,
    vocoder: Vocoder,
    grains: Grains,
}

impl Stretcher {
    /// For waveforms of this rate.
    pub(super) fn new(sample_rate_hz: u32) -> Self {
        Self {
            separator: Separator::new(sample_rate_hz),
            vocoder: Vocoder::new(sample_rate_hz),
            grains: Grains::new(sample_rate_hz),
        }
    }

    /// A waveform's parts, from which it can be stretched at any rate.
    pub(super) fn separate(&mut self, samples: &[f32]) -> Parts {
        self.separator.separate(samples)
    }

    /// The waveform of `parts` at `rate` times its speed: ⌊n / rate⌉ samples, one at least if there is one.
    pub(super) fn stretch(&mut self, parts: &Parts, rate: f64) -> Vec<f32> {
        let samples = parts.harmonic.len();
        let length = ((samples as f64 / rate).round() as usize).max(samples.min(1));
        let mut output = vec![0.0; length];
        self.vocoder.stretch(&parts.harmonic, rate, &mut output);
        self.grains.stretch(&parts.percussive, rate, &mut output);
        output
    }
}
