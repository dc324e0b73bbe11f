//! Between decoding and features: trim, peak-normalise, fixed length.

use earshot_common::frontend::{FrontEnd, Length};

/// Frame of the RMS that trimming looks at, in samples; `librosa.effects.trim`'s default.
const TRIM_FRAME: usize = 2048;

/// Samples between such frames.
const TRIM_HOP: usize = 512;

/// Smallest power that is told from silence: `librosa.amplitude_to_db`'s `amin` of 1e-5, squared.
const POWER_MIN: f64 = 1e-10;

/// The samples that `librosa.effects.trim(samples, top_db=top_db)` keeps, as `start..end`: from the first to the last frame
/// whose RMS is less than `top_db` below the loudest frame's.
///
/// Frames are centred on multiples of 512 samples, the signal is padded with zeros, levels are floored at 1e-5, and the end
/// is that of the last frame's hop, as in librosa 0.11 (`effects.trim`, `_signal_to_frame_nonsilent`, `feature.rms`).
pub fn trim_range(samples: &[f32], top_db: f32) -> std::ops::Range<usize> {
    let levels_db = frame_levels_db(samples);
    let loudest_db = levels_db.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let heard = |level: &f64| level - loudest_db > -f64::from(top_db);
    let Some(first) = levels_db.iter().position(heard) else {
        return 0..0;
    };
    let last = levels_db.iter().rposition(heard).unwrap_or(first);
    let end = ((last + 1) * TRIM_HOP).min(samples.len());
    (first * TRIM_HOP).min(end)..end
}

/// Level of each centred frame in decibels. A frame is four hops, so its power is the sum of four hops' powers.
fn frame_levels_db(samples: &[f32]) -> Vec<f64> {
    const HOPS: usize = TRIM_FRAME / TRIM_HOP;
    let half = std::iter::repeat_n(0.0, HOPS / 2);
    let hops: Vec<f64> = half.clone().chain(samples.chunks(TRIM_HOP).map(power)).chain(half).collect();
    let frames = samples.len() / TRIM_HOP + 1;
    let levels = hops.windows(HOPS).map(|hops| hops.iter().sum::<f64>() / TRIM_FRAME as f64);
    levels.take(frames).map(|power| 10.0 * power.max(POWER_MIN).log10()).collect()
}

/// Numbers that are summed or compared side by side: one running sum would wait for each addition to end.
const LANES: usize = 8;

/// Sum of squares.
fn power(samples: &[f32]) -> f64 {
    let (chunks, rest) = samples.as_chunks::<LANES>();
    let mut sums = [0.0_f64; LANES];
    for chunk in chunks {
        for (sum, sample) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(*sample) * f64::from(*sample);
        }
    }
    let rest: f64 = rest.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Largest magnitude; 0 without samples.
pub fn peak(samples: &[f32]) -> f32 {
    let (chunks, rest) = samples.as_chunks::<LANES>();
    let mut peaks = [0.0_f32; LANES];
    for chunk in chunks {
        for (peak, sample) in peaks.iter_mut().zip(chunk) {
            *peak = peak.max(sample.abs());
        }
    }
    rest.iter().map(|sample| sample.abs()).chain(peaks).fold(0.0, f32::max)
}

/// Divides by the largest magnitude, as `librosa.util.normalize(samples)`: a waveform whose peak is below the smallest normal
/// float stays as it is.
pub fn normalise(samples: &mut [f32]) {
    let peak = peak(samples);
    if peak >= f32::MIN_POSITIVE {
        for sample in samples {
            *sample /= peak;
        }
    }
}

/// Trims and peak-normalises as the front end says; length is kept for [`fixed_length`]. `None` when every sample is zero.
pub fn clean(mut samples: Vec<f32>, front_end: &FrontEnd) -> Option<Vec<f32>> {
    if peak(&samples) < f32::MIN_POSITIVE {
        return None;
    }
    if let Some(top_db) = front_end.trim_top_db {
        let kept = trim_range(&samples, top_db);
        samples.truncate(kept.end);
        samples.drain(..kept.start);
    }
    if front_end.peak_normalise {
        normalise(&mut samples);
    }
    Some(samples)
}

/// The waveform at exactly [`FrontEnd::samples`]: cut at its end, or padded with zeros or its own repetition.
pub fn fixed_length(samples: &[f32], front_end: &FrontEnd) -> Vec<f32> {
    let length = front_end.samples();
    let mut fixed = Vec::with_capacity(length);
    loop {
        let room = length - fixed.len();
        fixed.extend_from_slice(samples.get(..room).unwrap_or(samples));
        if front_end.length == Length::ZeroPad || samples.is_empty() || fixed.len() == length {
            break;
        }
    }
    fixed.resize(length, 0.0);
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(samples: &[f32], expected: std::ops::Range<usize>) {
        assert_eq!(trim_range(samples, 60.0), expected);
    }

    /// Silence, a tone, silence.
    fn framed(before: usize, tone: usize, after: usize) -> Vec<f32> {
        let tone = (0..tone).map(|i| (i as f32 * 0.3).sin());
        std::iter::repeat_n(0.0, before).chain(tone).chain(std::iter::repeat_n(0.0, after)).collect()
    }

    #[test]
    fn trimming_follows_the_frames() {
        check(&[], 0..0);
        check(&[0.5], 0..1);
        check(&framed(10_240, 5_000, 10_240), 9_728..16_384);
        check(&framed(0, 5_000, 0), 0..5_000);
        // Everything is below the floor of -100 dB, so nothing is 60 dB below the loudest.
        check(&vec![1e-6; 4_000], 0..4_000);
    }

    #[test]
    fn normalising_reaches_full_scale() {
        let mut samples = vec![0.25, -0.5, 0.0];
        normalise(&mut samples);
        assert_eq!(samples, [0.5, -1.0, 0.0]);
        let mut silent = vec![0.0; 3];
        normalise(&mut silent);
        assert_eq!(silent, [0.0; 3]);
    }

    #[test]
    fn silence_is_no_clip() {
        assert_eq!(clean(vec![0.0; 100], &FrontEnd::default()), None);
        assert_eq!(clean(vec![], &FrontEnd::default()), None);
        assert_eq!(clean(vec![0.5, -1.0], &FrontEnd::default()), Some(vec![0.5, -1.0]));
    }

    #[test]
    fn every_clip_gets_the_same_length() {
        let front_end =
            |length| FrontEnd { sample_rate_hz: 1000, duration_s: 0.005, length, ..FrontEnd::default() };
        let zero_pad = front_end(Length::ZeroPad);
        assert_eq!(fixed_length(&[1.0, 2.0, 3.0], &zero_pad), [1.0, 2.0, 3.0, 0.0, 0.0]);
        assert_eq!(fixed_length(&[1.0; 7], &zero_pad), [1.0; 5]);
        let tile = front_end(Length::Tile);
        assert_eq!(fixed_length(&[1.0, 2.0, 3.0], &tile), [1.0, 2.0, 3.0, 1.0, 2.0]);
        assert_eq!(fixed_length(&[], &tile), [0.0; 5]);
    }
}
