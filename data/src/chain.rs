//! One clip's way from a file's bytes to its features.

use earshot_common::frontend::{FrontEnd, Length};
use ndarray::{Array2, s};

use crate::{
    condition,
    decode::{DecodeError, Decoder},
    mfcc::{Extractor, Frames, FrontEndError, clamped},
    resample::{ResampleError, Resampler, to_mono},
};

/// Why a clip has no features.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// No audio in the file.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A rate that cannot be bridged.
    #[error(transparent)]
    Resample(#[from] ResampleError),
    /// Audio, but no sound.
    #[error("every sample is zero: remove or replace the clip")]
    Silent,
}

/// Features of a cleaned waveform at its own length.
pub(crate) struct OwnLength {
    /// `(n_mfcc, frames)`.
    pub(crate) mfcc: Array2<f32>,
    /// `(1 + n_fft / 2, frames)`.
    pub(crate) spectrogram_db: Array2<f32>,
}

/// A front end at work, with its plans and buffers; one for each thread.
pub struct Chain {
    front_end: FrontEnd,
    decoder: Decoder,
    resampler: Resampler,
    extractor: Extractor,
}

/// A clone shares the plan of the transforms and has buffers of its own.
impl Clone for Chain {
    fn clone(&self) -> Self {
        Self {
            front_end: self.front_end.clone(),
            decoder: Decoder::default(),
            resampler: Resampler::new(self.front_end.sample_rate_hz),
            extractor: self.extractor.clone(),
        }
    }
}

impl Chain {
    /// Plans a front end.
    ///
    /// # Errors
    /// The front end is out of range.
    pub fn new(front_end: &FrontEnd) -> Result<Self, FrontEndError> {
        Ok(Self {
            extractor: Extractor::new(front_end)?,
            resampler: Resampler::new(front_end.sample_rate_hz),
            front_end: front_end.clone(),
            decoder: Decoder::default(),
        })
    }

    /// The cleaned waveform of a file's bytes, at its own length: decoded, one channel at the front end's rate, trimmed,
    /// peak-normalised.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub fn waveform(&mut self, bytes: &[u8]) -> Result<Vec<f32>, ChainError> {
        let audio = self.decoder.decode(bytes)?;
        let mono = to_mono(audio.samples, audio.channels);
        let resampled = self.resampler.resample(mono, audio.sample_rate_hz)?;
        condition::clean(resampled, &self.front_end).ok_or(ChainError::Silent)
    }

    /// What a shard holds of a cleaned waveform: the front end's coefficients at its fixed length,
    /// `(n_mfcc, FrontEnd::frames())`.
    pub fn features(&mut self, waveform: &[f32]) -> Array2<f32> {
        let fixed = condition::fixed_length(waveform, &self.front_end);
        self.extractor.mfcc(&fixed, usize::from(self.front_end.n_mfcc))
    }

    /// What [`features`](Self::features) gives, bit for bit, and besides it the first `n_mfcc` coefficients and the
    /// spectrogram at the waveform's own length.
    ///
    /// Both lengths have nearly all frames in common, which are transformed once.
    pub(crate) fn features_and_own_length(
        &mut self,
        waveform: &[f32],
        n_mfcc: usize,
    ) -> (Array2<f32>, OwnLength) {
        let fixed = condition::fixed_length(waveform, &self.front_end);
        let Frames { mels, spectrum_db } = self.extractor.transform(waveform);
        let is_padded = self.front_end.length == Length::ZeroPad && waveform.len() <= fixed.len();
        let shared = if is_padded {
            // After the end there are zeros on both sides.
            mels.nrows() / 2 * 2
        } else {
            self.extractor.frames_within(waveform.len().min(fixed.len()))
        };
        let fixed_mels = self.extractor.mel_power_after(&fixed, &mels.slice(s![..shared, ..]));
        let own_length = OwnLength {
            mfcc: self.extractor.mfcc_of(mels, n_mfcc),
            spectrogram_db: clamped(spectrum_db).reversed_axes(),
        };
        (self.extractor.mfcc_of(fixed_mels, usize::from(self.front_end.n_mfcc)), own_length)
    }

    /// The extractor, for features at a waveform's own length.
    pub fn extractor(&mut self) -> &mut Extractor {
        &mut self.extractor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone that fades.
    fn waveform(samples: usize) -> Vec<f32> {
        (0..samples).map(|i| (i as f32 * 0.3).sin() * (-(i as f32) / 2_000.0).exp()).collect()
    }

    fn check(length: Length, samples: usize) {
        let front_end = FrontEnd {
            sample_rate_hz: 8_000,
            duration_s: 0.5,
            n_fft: 256,
            hop_length: 100,
            length,
            ..FrontEnd::default()
        };
        let mut chain = Chain::new(&front_end).unwrap();
        let waveform = waveform(samples);
        let (features, own) = chain.features_and_own_length(&waveform, 13);
        assert_eq!(features, chain.features(&waveform));
        assert_eq!(own.mfcc, chain.extractor().mfcc(&waveform, 13));
        assert_eq!(own.spectrogram_db, chain.extractor().spectrogram_db(&waveform));
    }

    #[test]
    fn features_of_both_lengths_are_those_of_each() {
        for samples in [1, 99, 100, 1_234, 3_999, 4_000, 4_001, 9_000] {
            check(Length::ZeroPad, samples);
            check(Length::Tile, samples);
        }
    }
}
