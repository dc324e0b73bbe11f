//! Another pitch at the same length: stretched by the interval, then resampled to the old length.

use rubato::{
    Async, FixedAsync, Resampler as _, SincInterpolationParameters, WindowFunction,
    audioadapter_buffers::direct::InterleavedSlice,
};

use super::{separation::Parts, stretch::Stretcher};

/// Why a clip could not be shifted.
#[derive(Debug, thiserror::Error)]
#[error("cannot shift the pitch by {semitones} semitones: {message}")]
pub struct PitchError {
    /// The interval.
    pub semitones: f32,
    /// What the resampler says.
    pub message: String,
}

/// Taps of the interpolation filter: flat to 0.9 of the Nyquist frequency, aliases below -90 dB.
const TAPS: usize = 128;

/// Samples that are resampled at a time.
const CHUNK_SAMPLES: usize = 4096;

/// The waveform of `parts` so many semitones higher, of the same length.
///
/// # Errors
/// The resampler refuses the interval.
pub(super) fn shift(
    stretcher: &mut Stretcher,
    parts: &Parts,
    semitones: f32,
) -> Result<Vec<f32>, PitchError> {
    let rate = 2_f64.powf(-f64::from(semitones) / 12.0);
    let mut shifted = resample(&stretcher.stretch(parts, rate), rate)
        .map_err(|message| PitchError { semitones, message })?;
    shifted.resize(parts.harmonic.len(), 0.0);
    Ok(shifted)
}

/// Resamples to `ratio` times as many samples.
fn resample(samples: &[f32], ratio: f64) -> Result<Vec<f32>, String> {
    if samples.len() < 2 {
        return Ok(samples.to_vec());
    }
    let parameters = SincInterpolationParameters::new(TAPS, WindowFunction::BlackmanHarris2);
    let mut filter = Async::new_sinc(ratio, 1.0, &parameters, CHUNK_SAMPLES, 1, FixedAsync::Input)
        .map_err(|error| error.to_string())?;
    let room = filter.process_all_needed_output_len(samples.len());
    let mut output = vec![0.0; room];
    let from = InterleavedSlice::new(samples, 1, samples.len()).map_err(|error| error.to_string())?;
    let mut to = InterleavedSlice::new_mut(&mut output, 1, room).map_err(|error| error.to_string())?;
    let (_, made) = filter
        .process_all_into_buffer(&from, &mut to, samples.len(), None)
        .map_err(|error| error.to_string())?;
    output.truncate(made);
    Ok(output)
}
