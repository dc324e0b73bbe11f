//! To one channel, and from any rate to the front end's.
//!
//! As `librosa.load`: channels are averaged first, the result is resampled and has ⌈n · to / from⌉ samples. librosa resamples
//! with soxr HQ; rubato's synchronous FFT resampler takes its place, also linear in phase, its delay compensated.

use rubato::{
    Fft, FixedSync, Resampler as _, WindowFunction, audioadapter_buffers::direct::InterleavedSlice,
};

/// Samples of one FFT block on the slower side, at least. The longer the block, the closer to the Nyquist frequency the
/// filter stays flat: to 0.96 of it at this length.
const BLOCK_SAMPLES_MIN: usize = 1024;

const WINDOW: WindowFunction = WindowFunction::BlackmanHarris2;

/// Why a waveform could not be resampled.
#[derive(Debug, thiserror::Error)]
#[error("cannot resample from {from_hz} Hz to {to_hz} Hz: {message}")]
pub struct ResampleError {
    /// Rate of the waveform.
    pub from_hz: u32,
    /// Rate wanted.
    pub to_hz: u32,
    /// What the resampler says.
    pub message: String,
}

/// The mean of the channels of every frame; `samples` is interleaved.
pub fn to_mono(samples: Vec<f32>, channels: usize) -> Vec<f32> {
    if channels <= 1 {
        return samples;
    }
    let scale = channels as f32;
    samples.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / scale).collect()
}

/// Resamples to one rate, and keeps its filter as long as the waveforms come at the same rate.
pub struct Resampler {
    to_hz: u32,
    filter: Option<(u32, Fft<f32>)>,
}

impl Resampler {
    /// A resampler to this rate.
    pub fn new(to_hz: u32) -> Self {
        Self { to_hz, filter: None }
    }

    /// Resamples one channel; at the same rate the waveform is given back as it is.
    ///
    /// # Errors
    /// Rates the resampler cannot bridge.
    pub fn resample(&mut self, samples: Vec<f32>, from_hz: u32) -> Result<Vec<f32>, ResampleError> {
        if from_hz == self.to_hz || samples.is_empty() {
            return Ok(samples);
        }
        let to_hz = self.to_hz;
        let failed = |message: String| ResampleError { from_hz, to_hz, message };
        let filter = self.filter(from_hz).map_err(&failed)?;
        filter.reset();
        let length = samples.len();
        let room = filter.process_all_needed_output_len(length);
        let mut output = vec![0.0; room];
        let from = InterleavedSlice::new(&samples, 1, length).map_err(|error| failed(error.to_string()))?;
        let mut to =
            InterleavedSlice::new_mut(&mut output, 1, room).map_err(|error| failed(error.to_string()))?;
        filter
            .process_all_into_buffer(&from, &mut to, length, None)
            .map_err(|error| failed(error.to_string()))?;
        // librosa: int(np.ceil(n * float(to) / from)).
        let ratio = f64::from(to_hz) / f64::from(from_hz);
        output.resize((length as f64 * ratio).ceil() as usize, 0.0);
        Ok(output)
    }

    fn filter(&mut self, from_hz: u32) -> Result<&mut Fft<f32>, String> {
        if self.filter.as_ref().is_none_or(|(rate, _)| *rate != from_hz) {
            let (from, to) = (from_hz as usize, self.to_hz as usize);
            let filter = Fft::new_custom(from, to, block(from, to), 1, 1, WINDOW, FixedSync::Both)
                .map_err(|error| error.to_string())?;
            self.filter = Some((from_hz, filter));
        }
        self.filter.as_mut().map(|(_, filter)| filter).ok_or_else(String::new)
    }
}

/// Samples of a block before resampling. Blocks are a whole number of samples on both sides, and that number is even, because
/// the filter delays by half a block: half a sample of it could not be compensated.
fn block(from: usize, to: usize) -> usize {
    let unit = from / gcd(from, to);
    let wanted = (BLOCK_SAMPLES_MIN * from).div_ceil(to.max(1)).max(BLOCK_SAMPLES_MIN);
    2 * unit * wanted.div_ceil(2 * unit)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;

    fn sine(hz: f64, rate_hz: u32, samples: usize) -> Vec<f32> {
        (0..samples).map(|i| (2.0 * PI * hz * i as f64 / f64::from(rate_hz)).sin() as f32).collect()
    }

    /// A tone must come out as the same tone at the other rate, in place, within −60 dB away from the edges.
    fn check(from_hz: u32, to_hz: u32, hz: f64) {
        let seconds = 2;
        let n = (from_hz * seconds) as usize + 7;
        let output = Resampler::new(to_hz).resample(sine(hz, from_hz, n), from_hz).unwrap();
        let expected_length = (n as f64 * (f64::from(to_hz) / f64::from(from_hz))).ceil() as usize;
        assert_eq!(output.len(), expected_length, "{from_hz} to {to_hz}");
        let expected = sine(hz, to_hz, output.len());
        let edge = (to_hz / 4) as usize;
        let inner = edge..output.len() - edge;
        let worst = output[inner.clone()]
            .iter()
            .zip(&expected[inner])
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-3, "{from_hz} to {to_hz} at {hz} Hz: off by {worst}");
    }

    #[test]
    fn tones_keep_their_pitch_place_and_level() {
        for (from_hz, to_hz) in
            [(48_000, 44_100), (8_000, 44_100), (96_000, 22_050), (22_050, 44_100), (11_025, 16_000)]
        {
            let nyquist = f64::from(from_hz.min(to_hz)) / 2.0;
            for part in [0.01, 0.3, 0.9] {
                check(from_hz, to_hz, nyquist * part);
            }
        }
        check(44_099, 44_100, 1000.0);
    }

    #[test]
    fn what_the_new_rate_cannot_hold_is_removed() {
        let output = Resampler::new(22_050).resample(sine(15_000.0, 44_100, 88_200), 44_100).unwrap();
        let inner = &output[10_000..30_000];
        let peak = inner.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        assert!(peak < 1e-4, "an alias of {peak}");
    }

    #[test]
    fn a_resampler_forgets_the_last_clip() {
        let mut resampler = Resampler::new(16_000);
        let first = resampler.resample(sine(440.0, 44_100, 5000), 44_100).unwrap();
        resampler.resample(vec![1.0; 3000], 44_100).unwrap();
        resampler.resample(vec![1.0; 3000], 8_000).unwrap();
        assert_eq!(resampler.resample(sine(440.0, 44_100, 5000), 44_100).unwrap(), first);
        assert_eq!(resampler.resample(vec![0.5], 44_100).unwrap().len(), 1);
    }

    #[test]
    fn channels_are_averaged() {
        assert_eq!(to_mono(vec![1.0, 0.0, 0.5, -0.5], 2), [0.5, 0.0]);
        assert_eq!(to_mono(vec![1.0, 2.0], 1), [1.0, 2.0]);
    }
}
