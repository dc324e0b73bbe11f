//! Windowed frames to spectra and back.

use std::{f32::consts::TAU, sync::Arc};

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex, num_complex::Complex};

/// Frames of one length, a power of two, a quarter of it apart where they are put together again. Samples before the first
/// and behind the last count as zero.
///
/// Single precision: what comes out is within -100 dB of what went in.
pub(super) struct Transform {
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
    window: Arc<[f32]>,
    frame: Vec<f32>,
    forward_scratch: Vec<Complex<f32>>,
    inverse_scratch: Vec<Complex<f32>>,
}

/// A clone shares plans and has buffers of its own.
impl Clone for Transform {
    fn clone(&self) -> Self {
        Self::with(Arc::clone(&self.forward), Arc::clone(&self.inverse), Arc::clone(&self.window))
    }
}

impl Transform {
    /// Frames of the power of two that is nearest to so many seconds, at least eight samples.
    pub(super) fn new(frame_s: f64, sample_rate_hz: u32) -> Self {
        let samples = (frame_s * f64::from(sample_rate_hz)).max(8.0);
        let length = 1_usize << samples.log2().round() as u32;
        let mut planner = RealFftPlanner::new();
        let window = hann(length).into();
        Self::with(planner.plan_fft_forward(length), planner.plan_fft_inverse(length), window)
    }

    fn with(
        forward: Arc<dyn RealToComplex<f32>>,
        inverse: Arc<dyn ComplexToReal<f32>>,
        window: Arc<[f32]>,
    ) -> Self {
        Self {
            frame: forward.make_input_vec(),
            forward_scratch: forward.make_scratch_vec(),
            inverse_scratch: inverse.make_scratch_vec(),
            forward,
            inverse,
            window,
        }
    }

    /// Samples between frames.
    pub(super) fn hop(&self) -> usize {
        self.window.len() / 4
    }

    /// Bins of a spectrum.
    pub(super) fn bins(&self) -> usize {
        self.window.len() / 2 + 1
    }

    /// Centres of the frames that together give back `samples` samples.
    pub(super) fn centres(&self, samples: usize) -> impl Iterator<Item = isize> + use<> {
        let hop = self.hop() as isize;
        // One frame more on either side: there, too, every sample lies under four frames.
        (-1..=samples.div_ceil(self.hop()) as isize + 1).map(move |frame| frame * hop)
    }

    /// Spectrum of the frame around `centre`.
    pub(super) fn analyse(&mut self, samples: &[f32], centre: isize, spectrum: &mut [Complex<f32>]) {
        let start = centre - (self.window.len() / 2) as isize;
        // Samples of the frame that lie before the first; all of them at most.
        let before = (start.min(0).unsigned_abs()).min(self.window.len());
        let heard = samples.get(start.max(0).unsigned_abs()..).unwrap_or_default();
        self.frame.fill(0.0);
        let inside = self.frame.iter_mut().zip(&*self.window).skip(before);
        for ((windowed, weight), sample) in inside.zip(heard) {
            *windowed = sample * weight;
        }
        let done = self.forward.process_with_scratch(&mut self.frame, spectrum, &mut self.forward_scratch);
        // The plan made these buffers, and a wrong length is all it can complain of.
        debug_assert!(done.is_ok(), "{done:?}");
    }

    /// Adds a spectrum's frame to the waveform around `centre`. The spectrum is used up.
    pub(super) fn synthesise(&mut self, spectrum: &mut [Complex<f32>], centre: isize, samples: &mut [f32]) {
        // Rounding leaves a trace of what a real signal cannot have, which the inverse would refuse.
        for edge in [0, self.bins() - 1] {
            if let Some(bin) = spectrum.get_mut(edge) {
                bin.im = 0.0;
            }
        }
        let done = self.inverse.process_with_scratch(spectrum, &mut self.frame, &mut self.inverse_scratch);
        debug_assert!(done.is_ok(), "{done:?}");
        // Squared Hann windows a quarter apart add up to 3/2 everywhere.
        let scale = 2.0 / (3.0 * self.window.len() as f32);
        let start = centre - (self.window.len() / 2) as isize;
        let before = (start.min(0).unsigned_abs()).min(self.window.len());
        let heard = samples.get_mut(start.max(0).unsigned_abs()..).unwrap_or_default();
        let inside = self.frame.iter().zip(&*self.window).skip(before);
        for (sample, (value, weight)) in heard.iter_mut().zip(inside) {
            *sample += value * weight * scale;
        }
    }
}

/// Periodic Hann window.
pub(super) fn hann(length: usize) -> Vec<f32> {
    (0..length).map(|i| 0.5 - 0.5 * (TAU * i as f32 / length as f32).cos()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_give_back_the_waveform_to_its_edges() {
        let mut transform = Transform::new(0.023, 44_100);
        assert_eq!((transform.hop(), transform.bins()), (256, 513));
        for length in [1, 100, 1024, 5000] {
            let samples: Vec<f32> = (0..length).map(|i| ((i * i) as f32 * 0.01).sin()).collect();
            let (mut again, mut spectrum) = (vec![0.0; length], vec![Complex::default(); transform.bins()]);
            for centre in transform.centres(length) {
                transform.analyse(&samples, centre, &mut spectrum);
                transform.synthesise(&mut spectrum, centre, &mut again);
            }
            let worst = samples.iter().zip(&again).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{worst} at length {length}");
        }
    }
}
