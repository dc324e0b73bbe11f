//! Mel-frequency cepstral coefficients and the spectra on the way, as librosa 0.11 defines them.
//!
//! `librosa.feature.mfcc(y=samples, sr=sample_rate_hz, n_mfcc=…, n_fft=…, hop_length=…, n_mels=…, htk=…)`: power spectra of
//! centred frames (`spectrum`), mel bands ([`MelBank`]), decibels with a floor and a clamp ([`decibels`]),
//! orthonormal DCT-II over the bands.
//!
//! Sums run in 64 bits, as librosa's transform does; values between the steps are 32-bit, as librosa's are.

use std::{f64::consts::PI, sync::Arc};

use earshot_common::frontend::FrontEnd;
use ndarray::{Array2, ArrayView2, s};

use crate::{
    decibels::{self, power_to_db},
    mel::MelBank,
    spectrum::Spectra,
};

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
    spectra: Spectra,
    plan: Arc<Plan>,
}

/// What depends on the front end alone.
struct Plan {
    sample_rate_hz: u32,
    mels: MelBank,
    /// DCT-II, `(n_mels, n_mels)`: a row for each coefficient.
    dct: Array2<f64>,
}

/// What there is in a waveform's frames, from which all features follow.
pub(crate) struct Frames {
    /// Power in the mel bands, `(frames, n_mels)`.
    pub(crate) mels: Array2<f32>,
    /// Decibels in the bins of the spectrum, not clamped yet, `(frames, 1 + n_fft / 2)`.
    pub(crate) spectrum_db: Array2<f32>,
}

impl Extractor {
    /// Plans a front end's transforms.
    ///
    /// # Errors
    /// The front end is out of range.
    pub fn new(front_end: &FrontEnd) -> Result<Self, FrontEndError> {
        front_end.validate().map_err(|(field, message)| FrontEndError { field, message })?;
        let n_fft = front_end.n_fft as usize;
        let mels = MelBank::new(front_end);
        let plan = Plan { sample_rate_hz: front_end.sample_rate_hz, dct: dct(mels.n_mels()), mels };
        Ok(Self { spectra: Spectra::new(n_fft, front_end.hop_length as usize), plan: Arc::new(plan) })
    }

    /// Rate that waveforms must have.
    pub fn sample_rate_hz(&self) -> u32 {
        self.plan.sample_rate_hz
    }

    /// Frames of a waveform of so many samples.
    pub fn frames(&self, samples: usize) -> usize {
        self.spectra.frames(samples)
    }

    /// The first `n_mfcc` coefficients (at most `n_mels`), `(n_mfcc, frames)`, row-major.
    pub fn mfcc(&mut self, samples: &[f32], n_mfcc: usize) -> Array2<f32> {
        let mels = self.mel_power(samples);
        self.mfcc_of(mels, n_mfcc)
    }

    /// Power in the mel bands in decibels, `(n_mels, frames)`: `librosa.power_to_db(librosa.feature.melspectrogram(…))`.
    pub fn mel_db(&mut self, samples: &[f32]) -> Array2<f32> {
        in_db(self.mel_power(samples)).reversed_axes()
    }

    /// Power spectrum in decibels, `(1 + n_fft / 2, frames)`: `librosa.power_to_db(np.abs(librosa.stft(…)) ** 2)`.
    pub fn spectrogram_db(&mut self, samples: &[f32]) -> Array2<f32> {
        clamped(self.transform(samples).spectrum_db).reversed_axes()
    }

    /// Bands and bins, from one pass over the frames.
    pub(crate) fn transform(&mut self, samples: &[f32]) -> Frames {
        let count = self.frames(samples.len());
        let mut frames = Frames {
            mels: Array2::zeros((count, self.plan.mels.n_mels())),
            spectrum_db: Array2::zeros((count, self.spectra.bins())),
        };
        let mut rows = frames.mels.rows_mut().into_iter().zip(frames.spectrum_db.rows_mut());
        self.spectra.for_each(samples, 0, |power| {
            if let Some((mels, spectrum_db)) = rows.next() {
                self.plan.mels.apply(power, mels.into_slice().unwrap_or_default());
                decibels::unclamped(power, spectrum_db.into_slice().unwrap_or_default());
            }
        });
        frames
    }

    /// Power in the mel bands, `(frames, n_mels)`.
    pub(crate) fn mel_power(&mut self, samples: &[f32]) -> Array2<f32> {
        let nothing = Array2::zeros((0, self.plan.mels.n_mels()));
        self.mel_power_after(samples, &nothing.view())
    }

    /// The same, where the first frames' are known, an even number of them.
    pub(crate) fn mel_power_after(&mut self, samples: &[f32], known: &ArrayView2<'_, f32>) -> Array2<f32> {
        let mut mels = Array2::zeros((self.frames(samples.len()), self.plan.mels.n_mels()));
        mels.slice_mut(s![..known.nrows(), ..]).assign(known);
        let mut rows = mels.rows_mut().into_iter().skip(known.nrows());
        self.spectra.for_each(samples, known.nrows(), |power| {
            if let Some(row) = rows.next().and_then(ndarray::ArrayViewMut1::into_slice) {
                self.plan.mels.apply(power, row);
            }
        });
        mels
    }

    /// Frames that are the same in all waveforms that share their first `same` samples, in whole pairs.
    pub(crate) fn frames_within(&self, same: usize) -> usize {
        self.spectra.frames_within(same)
    }

    /// The first `n_mfcc` coefficients of power in the mel bands, `(n_mfcc, frames)`, row-major.
    pub(crate) fn mfcc_of(&self, mel_power: Array2<f32>, n_mfcc: usize) -> Array2<f32> {
        let mels = in_db(mel_power).mapv(f64::from);
        let basis: ArrayView2<'_, f64> = self.plan.dct.slice(s![..n_mfcc.min(self.plan.dct.nrows()), ..]);
        basis.dot(&mels.t()).mapv(|coefficient| coefficient as f32)
    }
}

/// Decibels, clamped below the loudest of all values.
pub(crate) fn clamped(mut db: Array2<f32>) -> Array2<f32> {
    decibels::clamp(db.as_slice_mut().unwrap_or_default());
    db
}

/// Power to decibels, clamped below the loudest of all values.
fn in_db(mut power: Array2<f32>) -> Array2<f32> {
    power_to_db(power.as_slice_mut().unwrap_or_default());
    power
}

/// `scipy.fft.dct(type=2, norm="ortho")` as a matrix, `(n, n)`: row for the coefficient, column for the input.
fn dct(n: usize) -> Array2<f64> {
    Array2::from_shape_fn((n, n), |(k, band)| {
        let scale = if k == 0 { (1.0 / n as f64).sqrt() } else { (2.0 / n as f64).sqrt() };
        scale * (PI * k as f64 * (2 * band + 1) as f64 / (2 * n) as f64).cos()
    })
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
        assert_eq!(few, many.slice(s![..13, ..]));
    }

    #[test]
    fn one_pass_gives_what_each_feature_gives() {
        let mut extractor = Extractor::new(&FrontEnd::default()).unwrap();
        let samples = chirp(9_000);
        let frames = extractor.transform(&samples);
        assert_eq!(clamped(frames.spectrum_db).reversed_axes(), extractor.spectrogram_db(&samples));
        assert_eq!(extractor.mfcc_of(frames.mels, 13), extractor.mfcc(&samples, 13));
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
