//! A waveform as the sum of what lasts and what strikes.
//!
//! In a spectrogram, tones are horizontal lines and clicks are vertical ones: a median along time removes clicks, one along
//! frequency removes tones, and each bin belongs to the part whose median is larger (FitzGerald, "Harmonic/percussive
//! separation using median filtering", DAFx 2010; as binary masks in Driedger, Müller and Ewert 2014, section III-A).

use realfft::num_complex::Complex;

use super::transform::Transform;

/// Frame of the spectrogram: 1024 samples at 44.1 kHz.
const FRAME_S: f64 = 1024.0 / 44_100.0;

/// Frames under a median along time, some 64 ms: what lasts longer than half of it is a tone.
const FRAMES_MEDIAN: usize = 11;

/// Bins under a median along frequency, some 470 Hz.
const BINS_MEDIAN: usize = 11;

/// The two parts, which add up to the waveform.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parts {
    /// What lasts.
    pub(super) harmonic: Vec<f32>,
    /// What strikes.
    pub(super) percussive: Vec<f32>,
}

/// Separates one waveform after another at one rate.
#[derive(Clone)]
pub(super) struct Separator {
    transform: Transform,
    /// `(frames, bins)`, row-major.
    spectra: Vec<Complex<f32>>,
    magnitudes: Vec<f32>,
    tones: Vec<f32>,
    clicks: Vec<f32>,
}

impl Separator {
    /// For waveforms of this rate.
    pub(super) fn new(sample_rate_hz: u32) -> Self {
        Self {
            transform: Transform::new(FRAME_S, sample_rate_hz),
            spectra: Vec::new(),
            magnitudes: Vec::new(),
            tones: Vec::new(),
            clicks: Vec::new(),
        }
    }

    /// The parts of a waveform.
    pub(super) fn separate(&mut self, samples: &[f32]) -> Parts {
        let bins = self.transform.bins();
        let centres: Vec<isize> = self.transform.centres(samples.len()).collect();
        self.spectra.clear();
        self.spectra.resize(centres.len() * bins, Complex::default());
        for (spectrum, &centre) in self.spectra.chunks_exact_mut(bins).zip(&centres) {
            self.transform.analyse(samples, centre, spectrum);
        }
        self.medians(centres.len(), bins);

        let mut harmonic = vec![0.0; samples.len()];
        let masked = self.spectra.iter_mut().zip(self.tones.iter().zip(&self.clicks));
        masked.filter(|(_, (tone, click))| tone <= click).for_each(|(bin, _)| *bin = Complex::default());
        for (spectrum, &centre) in self.spectra.chunks_exact_mut(bins).zip(&centres) {
            self.transform.synthesise(spectrum, centre, &mut harmonic);
        }
        let percussive = samples.iter().zip(&harmonic).map(|(sample, harmonic)| sample - harmonic).collect();
        Parts { harmonic, percussive }
    }

    /// Fills `tones` and `clicks`, `(frames, bins)`.
    fn medians(&mut self, frames: usize, bins: usize) {
        self.magnitudes.clear();
        self.magnitudes.extend(self.spectra.iter().map(Complex::norm_sqr));
        for medians in [&mut self.tones, &mut self.clicks] {
            medians.clear();
            medians.resize(frames * bins, 0.0);
        }
        let mut window = Vec::with_capacity(FRAMES_MEDIAN.max(BINS_MEDIAN) + 1);
        for bin in 0..bins {
            let along = |values: &[f32]| values.iter().skip(bin).step_by(bins).copied().collect::<Vec<_>>();
            let medians = running_medians(&along(&self.magnitudes), FRAMES_MEDIAN, &mut window);
            for (place, median) in self.tones.iter_mut().skip(bin).step_by(bins).zip(medians) {
                *place = median;
            }
        }
        let rows = self.magnitudes.chunks_exact(bins).zip(self.clicks.chunks_exact_mut(bins));
        for (row, medians) in rows {
            medians.copy_from_slice(&running_medians(row, BINS_MEDIAN, &mut window));
        }
    }
}

/// The median of the `width` values around each (fewer at the edges), `width` odd. `window` is room to work in.
fn running_medians(values: &[f32], width: usize, window: &mut Vec<f32>) -> Vec<f32> {
    let half = width / 2;
    window.clear();
    let insert = |window: &mut Vec<f32>, value: f32| {
        window.insert(window.partition_point(|other| *other < value), value);
    };
    values.iter().take(half).for_each(|&value| insert(window, value));
    let coming = values.iter().skip(half).map(Some).chain(std::iter::repeat(None));
    let medians = values.iter().enumerate().zip(coming).map(|((at, _), next)| {
        if let Some(&next) = next {
            insert(window, next);
        }
        if let Some(gone) = at.checked_sub(half + 1).and_then(|gone| values.get(gone)) {
            window.remove(window.partition_point(|other| other < gone));
        }
        window.get(window.len() / 2).copied().unwrap_or_default()
    });
    medians.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE_HZ: u32 = 44_100;

    fn energy(samples: &[f32]) -> f64 {
        samples.iter().map(|sample| f64::from(*sample).powi(2)).sum()
    }

    #[test]
    fn medians_run() {
        let medians = |values: &[f32]| running_medians(values, 3, &mut Vec::new());
        assert_eq!(medians(&[5.0, 1.0, 9.0, 2.0, 3.0]), [5.0, 5.0, 2.0, 3.0, 3.0]);
        assert_eq!(medians(&[4.0]), [4.0]);
        assert!(medians(&[]).is_empty());
    }

    #[test]
    fn a_tone_lasts_and_a_click_strikes() {
        let mut separator = Separator::new(RATE_HZ);
        let tone: Vec<f32> = (0..44_100).map(|i| (i as f32 * 0.0627).sin()).collect();
        let parts = separator.separate(&tone);
        assert!(energy(&parts.harmonic) > 0.95 * energy(&tone));
        let mut clicks = vec![0.0; 44_100];
        clicks.iter_mut().step_by(4_410).for_each(|sample| *sample = 1.0);
        let parts = separator.separate(&clicks);
        assert!(energy(&parts.percussive) > 0.95 * energy(&clicks));
    }

    #[test]
    fn the_parts_add_up() {
        let samples: Vec<f32> = (0..10_000).map(|i| ((i * i) as f32 * 1e-3).sin()).collect();
        let parts = Separator::new(RATE_HZ).separate(&samples);
        for ((a, b), sample) in parts.harmonic.iter().zip(&parts.percussive).zip(&samples) {
            assert!((a + b - sample).abs() < 1e-6);
        }
    }
}
