//! One clip's way from a file's bytes to its features.

use earshot_common::frontend::FrontEnd;
use ndarray::Array2;

use crate::{
    condition,
    decode::{DecodeError, Decoder},
    mfcc::{Extractor, FrontEndError},
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

    /// The extractor, for features at a waveform's own length.
    pub fn extractor(&mut self) -> &mut Extractor {
        &mut self.extractor
    }
}
