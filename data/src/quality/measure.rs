//! What one clip measures, from its samples.
//!
//! Levels are of the file's own samples, all channels together. What is said of silence and of the noise floor is of the
//! waveform that a front end sees: one channel, at its rate, before trimming.

use serde::{Deserialize, Serialize};

use crate::{condition, decode::Audio};

/// Magnitude from which a sample counts as full scale: the largest positive one of 16 bits. A recording of 8 bits reaches it
/// below zero only.
const FULL_SCALE: f32 = 32_767.0 / 32_768.0;

/// Samples at full scale, one after another in one channel, that make a run: a wave's crest touches full scale once or twice
/// when it was normalised to it, and more often only when it was cut off.
const RUN_SAMPLES_MIN: u64 = 3;

/// Frame of the noise floor's RMS in samples, and the step from one to the next: those of trimming, and librosa's defaults.
const FRAME: usize = 2048;
const HOP: usize = 512;

/// Part of the frames that are quieter than the noise floor.
const NOISE_QUANTILE: f64 = 0.1;

/// Smallest RMS of a hop that was recorded rather than padded: the floor of trimming, −100 dB, below the quantisation
/// noise of 16 bits.
const DIGITAL_SILENCE_RMS: f64 = 1e-5;

/// Decibels below the loudest frame at which a front end without trimming is measured: the default front end's.
pub const TOP_DB_DEFAULT: f32 = 60.0;

/// What one clip measures. Levels in decibels relative to full scale are none where there is only silence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// The file's rate.
    pub sample_rate_hz: u32,
    /// The file's channels.
    pub channels: u32,
    /// Seconds.
    pub duration_s: f64,
    /// Largest magnitude, full scale 1; lossy formats may exceed it.
    pub peak: f64,
    /// The same in decibels.
    pub peak_dbfs: Option<f64>,
    /// Root mean square of all samples; a full-scale sine has −3.01 dB.
    pub rms_dbfs: Option<f64>,
    /// Samples at full scale.
    pub clipped_samples: u64,
    /// Their part of all samples.
    pub clipped_share: f64,
    /// Times that at least three of them follow each other in one channel.
    pub clipped_runs: u64,
    /// Mean of the samples, of the channel where its magnitude is largest; full scale 1.
    pub dc_offset: f64,
    /// Seconds before the first frame that trimming keeps.
    pub leading_silence_s: f64,
    /// Seconds after the last frame that trimming keeps.
    pub trailing_silence_s: f64,
    /// Seconds that trimming keeps.
    pub trimmed_s: f64,
    /// Level that a tenth of the frames stay below, frames with digital silence in them left out: an estimate of the background, which
    /// most recordings let through somewhere (quantile noise estimation, Stahl, Fischer and Bippus, ICASSP 2000, here over
    /// the whole band). Of a clip without pauses it is the level of its quietest parts.
    pub noise_floor_dbfs: Option<f64>,
}

impl Measures {
    /// Measures decoded audio and its waveform at a front end's rate.
    pub fn new(levels: Levels, waveform: &[f32], waveform_hz: u32, top_db: f32) -> Self {
        let kept = condition::trim_range(waveform, top_db);
        // A silent waveform has no loudest frame to compare with: all of it is silence.
        let kept = if condition::peak(waveform) > 0.0 { kept } else { 0..0 };
        let seconds = |samples: usize| samples as f64 / f64::from(waveform_hz);
        Self {
            sample_rate_hz: levels.sample_rate_hz,
            channels: levels.channels,
            duration_s: levels.duration_s,
            peak: levels.peak,
            peak_dbfs: dbfs(levels.peak),
            rms_dbfs: dbfs(levels.rms),
            clipped_samples: levels.clipped_samples,
            clipped_share: levels.clipped_samples as f64 / levels.samples.max(1) as f64,
            clipped_runs: levels.clipped_runs,
            dc_offset: levels.dc_offset,
            leading_silence_s: seconds(kept.start),
            trailing_silence_s: seconds(waveform.len().saturating_sub(kept.end)),
            trimmed_s: seconds(kept.len()),
            noise_floor_dbfs: noise_floor(waveform).and_then(dbfs),
        }
    }
}

/// What is measured on the file's own samples, before they are mixed and resampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    sample_rate_hz: u32,
    channels: u32,
    samples: usize,
    duration_s: f64,
    peak: f64,
    rms: f64,
    clipped_samples: u64,
    clipped_runs: u64,
    dc_offset: f64,
}

impl Levels {
    /// Measures decoded audio.
    pub fn new(audio: &Audio) -> Self {
        let (samples, channels) = (audio.samples.as_slice(), audio.channels.max(1));
        let frames = samples.len() / channels;
        let square: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        let channel = |channel| Channel::new(samples.iter().skip(channel).step_by(channels));
        let parts: Vec<Channel> = (0..channels).map(channel).collect();
        let means = parts.iter().map(|part| part.sum / frames.max(1) as f64);
        Self {
            sample_rate_hz: audio.sample_rate_hz,
            channels: channels as u32,
            samples: samples.len(),
            duration_s: frames as f64 / f64::from(audio.sample_rate_hz.max(1)),
            peak: f64::from(condition::peak(samples)),
            rms: (square / samples.len().max(1) as f64).sqrt(),
            clipped_samples: parts.iter().map(|part| part.clipped).sum(),
            clipped_runs: parts.iter().map(|part| part.runs).sum(),
            dc_offset: means.fold(0.0, |most: f64, mean| if mean.abs() > most.abs() { mean } else { most }),
        }
    }
}

/// One channel's sum and samples at full scale.
#[derive(Default)]
struct Channel {
    sum: f64,
    clipped: u64,
    runs: u64,
}

impl Channel {
    fn new<'a>(samples: impl Iterator<Item = &'a f32>) -> Self {
        let (mut channel, mut run) = (Self::default(), 0_u64);
        for sample in samples {
            channel.sum += f64::from(*sample);
            run = if sample.abs() >= FULL_SCALE { run + 1 } else { 0 };
            channel.clipped += u64::from(run > 0);
            channel.runs += u64::from(run == RUN_SAMPLES_MIN);
        }
        channel
    }
}

/// RMS of the frame at [`NOISE_QUANTILE`], interpolated as numpy's `percentile` does. A waveform shorter than a frame is one.
fn noise_floor(waveform: &[f32]) -> Option<f64> {
    let mean_power = |samples: &[f32]| {
        let sum: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        sum / samples.len().max(1) as f64
    };
    let (hop, hops_per_frame) =
        if waveform.len() < FRAME { (waveform.len().max(1), 1) } else { (HOP, FRAME / HOP) };
    let hops: Vec<f64> = waveform.chunks_exact(hop).map(mean_power).collect();
    let is_recorded = |hops: &&[f64]| hops.iter().all(|power| power.sqrt() >= DIGITAL_SILENCE_RMS);
    let level = |hops: &[f64]| (hops.iter().sum::<f64>() / hops_per_frame as f64).sqrt();
    let mut levels: Vec<f64> = hops.windows(hops_per_frame).filter(is_recorded).map(level).collect();
    levels.sort_unstable_by(f64::total_cmp);
    let at = NOISE_QUANTILE * levels.len().checked_sub(1)? as f64;
    let (below, above) = (levels.get(at.floor() as usize)?, levels.get(at.ceil() as usize)?);
    Some(below + (above - below) * at.fract())
}

fn dbfs(amplitude: f64) -> Option<f64> {
    (amplitude > 0.0).then(|| 20.0 * amplitude.log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE_HZ: u32 = 8_000;

    fn measures(samples: Vec<f32>, channels: usize) -> Measures {
        let audio = Audio { sample_rate_hz: RATE_HZ, channels, samples };
        let levels = Levels::new(&audio);
        Measures::new(levels, &crate::resample::to_mono(audio.samples, channels), RATE_HZ, 60.0)
    }

    fn sine(samples: usize, amplitude: f32) -> Vec<f32> {
        (0..samples).map(|i| amplitude * (i as f32 * 0.3).sin()).collect()
    }

    fn near(found: Option<f64>, expected: f64) {
        assert!(
            found.is_some_and(|found| (found - expected).abs() < 0.02),
            "{found:?} instead of {expected}"
        );
    }

    #[test]
    fn levels_are_decibels_of_full_scale() {
        let measures = measures(sine(RATE_HZ as usize, 0.5), 1);
        near(measures.peak_dbfs, -6.02);
        near(measures.rms_dbfs, -9.03);
        near(measures.noise_floor_dbfs, -9.03);
        assert!(measures.dc_offset.abs() < 1e-3 && measures.clipped_samples == 0);
        assert!((measures.duration_s - 1.0).abs() < 1e-12);
    }

    #[test]
    fn only_runs_are_cut_crests() {
        let mut samples = vec![0.0; 100];
        for at in [3, 10, 11, 20, 21, 22, 23, 40, 41, 42] {
            samples[at] = if at < 30 { 1.0 } else { -1.0 };
        }
        let one = measures(samples.clone(), 1);
        assert_eq!((one.clipped_samples, one.clipped_runs, one.clipped_share), (10, 2, 0.1));
        // The same numbers as two channels: runs do not reach from one into the other.
        let two = measures(samples, 2);
        assert_eq!((two.clipped_samples, two.clipped_runs), (10, 0));
    }

    #[test]
    fn the_offset_is_that_of_the_worst_channel() {
        let samples = (0..100).flat_map(|_| [0.01, -0.25]).collect();
        assert!((measures(samples, 2).dc_offset + 0.25).abs() < 1e-9);
    }

    #[test]
    fn padding_is_silence_and_no_noise_floor() {
        let samples = [vec![0.0; 8_192], sine(16_384, 0.5), vec![0.0; 4_096]].concat();
        let measures = measures(samples, 1);
        let seconds = |samples: usize| samples as f64 / f64::from(RATE_HZ);
        assert!((measures.leading_silence_s - seconds(8_192 - 512)).abs() < 0.07);
        assert!((measures.trailing_silence_s - seconds(4_096 - 512)).abs() < 0.2);
        let all = measures.leading_silence_s + measures.trimmed_s + measures.trailing_silence_s;
        assert!((all - measures.duration_s).abs() < 1e-9);
        near(measures.noise_floor_dbfs, -9.03);
    }

    #[test]
    fn silence_has_no_level() {
        for samples in [vec![0.0; 5_000], vec![0.0; 3]] {
            let measures = measures(samples, 1);
            assert_eq!(
                (measures.peak_dbfs, measures.rms_dbfs, measures.noise_floor_dbfs),
                (None, None, None)
            );
            assert!(measures.trimmed_s.abs() < 1e-12);
        }
    }
}
