//! A phase vocoder with identity phase locking, for what lasts.
//!
//! Laroche and Dolson, "Improved phase vocoder time-scale modification of audio" (IEEE Transactions on Speech and Audio
//! Processing 7(3), 1999), section III: each peak of a spectrum is turned so that it goes on where the last frame left it, and
//! the bins around it are turned by the same angle. The angle comes from two frames of the input that are as far apart as
//! those of the output (Puckette, "Phase-locked vocoder", WASPAA 1995): no phase is unwrapped, and at rate 1 nothing changes.

use realfft::num_complex::Complex;

use super::transform::Transform;

/// Long frames tell tones apart: 4096 samples at 44.1 kHz.
const FRAME_S: f64 = 4096.0 / 44_100.0;

/// A peak is louder than so many bins on either side of it.
const PEAK_NEIGHBOURS: usize = 2;

/// Stretches one waveform after another at one sample rate.
#[derive(Clone)]
pub(super) struct Vocoder {
    transform: Transform,
    /// Spectrum of the input where the output is to go on.
    now: Vec<Complex<f32>>,
    /// Spectrum of the input one hop before.
    before: Vec<Complex<f32>>,
    /// Spectrum of the output's last frame.
    last: Vec<Complex<f32>>,
    power: Vec<f32>,
    peaks: Vec<usize>,
}

impl Vocoder {
    /// For waveforms of this rate.
    pub(super) fn new(sample_rate_hz: u32) -> Self {
        let transform = Transform::new(FRAME_S, sample_rate_hz);
        let spectrum = vec![Complex::default(); transform.bins()];
        Self {
            now: spectrum.clone(),
            before: spectrum.clone(),
            last: spectrum,
            power: Vec::new(),
            peaks: Vec::new(),
            transform,
        }
    }

    /// Adds the waveform at `rate` times its speed to `output`, as far as that reaches.
    pub(super) fn stretch(&mut self, samples: &[f32], rate: f64, output: &mut [f32]) {
        let hop = self.transform.hop() as isize;
        self.last.fill(Complex::default());
        for centre in self.transform.centres(output.len()) {
            let source = (centre as f64 * rate).round() as isize;
            self.transform.analyse(samples, source, &mut self.now);
            self.transform.analyse(samples, source - hop, &mut self.before);
            self.lock();
            self.last.copy_from_slice(&self.now);
            self.transform.synthesise(&mut self.now, centre, output);
        }
    }

    /// Turns `now` so that it goes on from `last`.
    fn lock(&mut self) {
        self.power.clear();
        self.power.extend(self.now.iter().map(Complex::norm_sqr));
        find_peaks(&self.power, &mut self.peaks);
        let mut rest = self.now.as_mut_slice();
        let mut start = 0;
        for (at, &peak) in self.peaks.iter().enumerate() {
            let turn = match (self.last.get(peak), self.before.get(peak)) {
                (Some(last), Some(before)) => unit(last * before.conj()),
                _ => Complex::from(1.0),
            };
            // A peak's region ends halfway to the next one.
            let end = self.peaks.get(at + 1).map_or(start + rest.len(), |next| (peak + next).div_ceil(2));
            let (region, others) = rest.split_at_mut((end - start).min(rest.len()));
            for bin in region {
                *bin *= turn;
            }
            (rest, start) = (others, end);
        }
    }
}

/// Bins that are louder than their neighbours, ascending.
fn find_peaks(power: &[f32], peaks: &mut Vec<usize>) {
    peaks.clear();
    let width = 2 * PEAK_NEIGHBOURS + 1;
    for (start, bins) in power.windows(width).enumerate() {
        let middle = bins.get(PEAK_NEIGHBOURS).copied().unwrap_or_default();
        let is_peak = bins.iter().enumerate().all(|(at, &bin)| at == PEAK_NEIGHBOURS || bin < middle);
        if is_peak {
            peaks.push(start + PEAK_NEIGHBOURS);
        }
    }
}

/// The number at length 1; 1 where there is no direction.
fn unit(number: Complex<f32>) -> Complex<f32> {
    let length = number.norm();
    if length > f32::MIN_POSITIVE { number / length } else { Complex::from(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_one_changes_nothing() {
        let samples: Vec<f32> = (0..20_000).map(|i| ((i * i) as f32 * 1e-4).sin()).collect();
        let mut output = vec![0.0; samples.len()];
        Vocoder::new(44_100).stretch(&samples, 1.0, &mut output);
        let worst = samples.iter().zip(&output).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
    }

    #[test]
    fn peaks_are_louder_than_two_neighbours_on_either_side() {
        let mut peaks = Vec::new();
        find_peaks(&[0.0, 1.0, 5.0, 1.0, 0.0, 2.0, 2.0, 0.0, 0.0, 9.0], &mut peaks);
        assert_eq!(peaks, [2]);
    }
}
