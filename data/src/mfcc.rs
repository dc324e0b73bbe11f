//! Mel-frequency cepstral coefficients and the spectra on the way, as librosa 0.11 defines them.
//!
//! `librosa.feature.mfcc(y=samples, sr=sample_rate_hz, n_mfcc=…, n_fft=…, hop_length=…, n_mels=…)`: frames centred on multiples
//! of the hop, the signal padded with zeros; periodic Hann window; power spectrum; Slaney mel bands ([`MelBank`]); decibels
//! with a floor and a clamp ([`AMIN`], [`TOP_DB`]); orthonormal DCT-II over the bands.
//!
//! Sums run in 64 bits, as librosa's transform does: a 32-bit transform is no faster here and is off by 2e-3 dB in the quiet
//! bins beside loud ones. Values between the steps are 32-bit, as librosa's are.

use std::{f64::consts::PI, sync::Arc};

use earshot_common::frontend::FrontEnd;
use ndarray::Array2;
use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

use crate::mel::MelBank;

/// Smallest power that decibels tell from zero: `librosa.power_to_db`'s `amin`.
pub const AMIN: f32 = 1e-10;

/// Decibels below the clip's loudest value at which everything is clamped: `librosa.power_to_db`'s `top_db`.
pub const TOP_DB: f32 = 80.0;

/// A front end that cannot be computed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field} of the front end {message}")]
pub struct FrontEndError {
    /// The field.
    pub field: &'static str,
    /// What it must be, and what it is.
    pub message: String,
}

/// Computes features of one clip after another, with one plan and one set of buffers. A clone shares the plan.
#[derive(Clone)]
pub struct Extractor {
    plan: Arc<Plan>,
    padded: Vec<f64>,
    frame: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    power: Vec<f32>,
}

/// What depends on the front end alone.
struct Plan {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    sample_rate_hz: u32,
    hop_length: usize,
    mels: MelBank,
    /// DCT-II, `(n_mels, N_MFCC)`: one row for each band, so that the product runs along the coefficients.
    dct: Array2<f64>,
}

impl Extractor {
    /// Plans a front end's transforms.
    ///
    /// # Errors
    /// The front end is out of range.
    pub fn new(front_end: &FrontEnd) -> Result<Self, FrontEndError> {
        front_end.validate().map_err(|(field, message)| FrontEndError { field, message })?;
        let n_fft = front_end.n_fft as usize;
        let n_mels = usize::from(front_end.n_mels);
        let fft = RealFftPlanner::new().plan_fft_forward(n_fft);
        let plan = Plan {
            window: hann(n_fft),
            sample_rate_hz: front_end.sample_rate_hz,
            hop_length: front_end.hop_length as usize,
            mels: MelBank::new(front_end.sample_rate_hz, n_fft, n_mels),
            dct: dct(n_mels),
            fft,
        };
        Ok(Self {
            padded: Vec::new(),
            frame: plan.fft.make_input_vec(),
            spectrum: plan.fft.make_output_vec(),
            scratch: plan.fft.make_scratch_vec(),
            power: vec![0.0; n_fft / 2 + 1],
            plan: Arc::new(plan),
        })
    }

    /// Rate that waveforms must have.
    pub fn sample_rate_hz(&self) -> u32 {
        self.plan.sample_rate_hz
    }

    /// Frames of a waveform of so many samples.
    pub fn frames(&self, samples: usize) -> usize {
        samples / self.plan.hop_length + 1
    }

    /// The first `n_mfcc` coefficients (at most `n_mels`), `(n_mfcc, frames)`, row-major.
    pub fn mfcc(&mut self, samples: &[f32], n_mfcc: usize) -> Array2<f32> {
        let mels = self.mel_rows(samples);
        let n_mfcc = n_mfcc.min(self.plan.mels.n_mels());
        let mut coefficients = Array2::zeros((n_mfcc, mels.nrows()));
        let mut sums = vec![0.0_f64; n_mfcc];
        for (mels, mut column) in mels.rows().into_iter().zip(coefficients.columns_mut()) {
            sums.fill(0.0);
            for (mel, basis) in mels.iter().zip(self.plan.dct.rows()) {
                let mel = f64::from(*mel);
                for (sum, basis) in sums.iter_mut().zip(basis.to_slice().unwrap_or_default()) {
                    *sum += mel * basis;
                }
            }
            for (coefficient, sum) in column.iter_mut().zip(&sums) {
                *coefficient = *sum as f32;
            }
        }
        coefficients
    }

    /// Power in the mel bands in decibels, `(n_mels, frames)`, row-major:
    /// `librosa.power_to_db(librosa.feature.melspectrogram(…))`.
    pub fn mel_db(&mut self, samples: &[f32]) -> Array2<f32> {
        transposed(&self.mel_rows(samples))
    }

    /// Power spectrum in decibels, `(1 + n_fft / 2, frames)`, row-major: `librosa.power_to_db(np.abs(librosa.stft(…)) ** 2)`,
    /// so with `ref=1.0`, `amin=1e-10`, `top_db=80.0`.
    pub fn spectrogram_db(&mut self, samples: &[f32]) -> Array2<f32> {
        let mut rows = Array2::zeros((self.frames(samples.len()), self.power.len()));
        let mut frames = rows.rows_mut().into_iter();
        self.for_each_frame(samples, |_, power| {
            if let Some(row) = frames.next().and_then(ndarray::ArrayViewMut1::into_slice) {
                row.copy_from_slice(power);
            }
        });
        to_db(&mut rows);
        transposed(&rows)
    }

    /// Mel bands in decibels, `(frames, n_mels)`.
    fn mel_rows(&mut self, samples: &[f32]) -> Array2<f32> {
        let mut rows = Array2::zeros((self.frames(samples.len()), self.plan.mels.n_mels()));
        let mut frames = rows.rows_mut().into_iter();
        self.for_each_frame(samples, |plan, power| {
            if let Some(row) = frames.next().and_then(ndarray::ArrayViewMut1::into_slice) {
                plan.mels.apply(power, row);
            }
        });
        to_db(&mut rows);
        rows
    }

    /// Hands the power spectrum of each frame to `take`, in order.
    fn for_each_frame(&mut self, samples: &[f32], mut take: impl FnMut(&Plan, &[f32])) {
        let plan = &*self.plan;
        let n_fft = plan.window.len();
        self.padded.clear();
        self.padded.resize(n_fft / 2, 0.0);
        self.padded.extend(samples.iter().map(|sample| f64::from(*sample)));
        self.padded.resize(samples.len() + n_fft, 0.0);
        for samples in self.padded.windows(n_fft).step_by(plan.hop_length) {
            for ((windowed, sample), weight) in self.frame.iter_mut().zip(samples).zip(&plan.window) {
                *windowed = sample * weight;
            }
            let done = plan.fft.process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch);
            // The plan made these buffers, and a wrong length is all it can complain of.
            debug_assert!(done.is_ok(), "{done:?}");
            for (power, bin) in self.power.iter_mut().zip(&self.spectrum) {
                *power = bin.norm_sqr() as f32;
            }
            take(plan, &self.power);
        }
    }
}

/// Power to decibels in place, clamped [`TOP_DB`] below the largest: `librosa.power_to_db(power)`.
fn to_db(power: &mut Array2<f32>) {
    let values = power.as_slice_mut().unwrap_or_default();
    let mut largest = f32::NEG_INFINITY;
    for value in &mut *values {
        *value = 10.0 * value.max(AMIN).log10();
        largest = largest.max(*value);
    }
    let floor = largest - TOP_DB;
    for value in values {
        *value = value.max(floor);
    }
}

/// `scipy.signal.get_window("hann", n, fftbins=True)`.
fn hann(n: usize) -> Vec<f64> {
    (0..n).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / n as f64).cos()).collect()
}

/// `scipy.fft.dct(type=2, norm="ortho")` as a matrix, `(n, n)`: row for the input, column for the coefficient.
fn dct(n: usize) -> Array2<f64> {
    Array2::from_shape_fn((n, n), |(band, k)| {
        let scale = if k == 0 { (1.0 / n as f64).sqrt() } else { (2.0 / n as f64).sqrt() };
        scale * (PI * k as f64 * (2 * band + 1) as f64 / (2 * n) as f64).cos()
    })
}

fn transposed(rows: &Array2<f32>) -> Array2<f32> {
    rows.t().as_standard_layout().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chirp(samples: usize) -> Vec<f32> {
        (0..samples).map(|i| ((i as f32).powi(2) * 1e-5).sin()).collect()
    }

    #[test]
    fn fewer_coefficients_are_the_first_of_more() {
        let mut extractor = Extractor::new(&FrontEnd::default()).unwrap();
        let (few, many) = (extractor.mfcc(&chirp(20_000), 13), extractor.mfcc(&chirp(20_000), 64));
        assert_eq!(few.dim(), (13, 40));
        assert_eq!(few, many.slice(ndarray::s![..13, ..]));
    }

    #[test]
    fn a_clip_leaves_no_trace_in_the_next() {
        let mut extractor = Extractor::new(&FrontEnd::default()).unwrap();
        let first = extractor.mfcc(&chirp(5_000), 13);
        extractor.spectrogram_db(&chirp(50_000));
        assert_eq!(extractor.mfcc(&chirp(5_000), 13), first);
        assert_eq!(extractor.clone().mfcc(&chirp(5_000), 13), first);
    }

    #[test]
    fn any_length_has_frames() {
        let mut extractor = Extractor::new(&FrontEnd::default()).unwrap();
        for (samples, frames) in [(0, 1), (1, 1), (511, 1), (512, 2), (220_500, 431)] {
            let mfcc = extractor.mfcc(&vec![0.5; samples], 13);
            assert_eq!(mfcc.dim(), (13, frames));
            assert!(mfcc.iter().all(|value| value.is_finite()));
            assert_eq!(extractor.spectrogram_db(&vec![0.5; samples]).dim(), (1025, frames));
        }
    }

    #[test]
    fn a_front_end_out_of_range_is_refused() {
        let error = Extractor::new(&FrontEnd { n_fft: 15, ..FrontEnd::default() }).err().unwrap();
        assert_eq!(error.to_string(), "n_fft of the front end must be even, from 16 to 65536, got 15");
    }
}
