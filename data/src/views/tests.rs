//! What stretching and shifting do to tones, clicks, levels and lengths.

use std::f64::consts::TAU;

use proptest::prelude::*;
use serde::Deserialize;

use super::{pitch, stretch::Stretcher};

const RATE_HZ: u32 = 44_100;

fn sine(hz: f64, samples: usize) -> Vec<f32> {
    (0..samples).map(|i| (0.5 * (TAU * hz * i as f64 / f64::from(RATE_HZ)).sin()) as f32).collect()
}

fn stretched(samples: &[f32], rate: f64) -> Vec<f32> {
    let mut stretcher = Stretcher::new(RATE_HZ);
    let parts = stretcher.separate(samples);
    stretcher.stretch(&parts, rate)
}

fn shifted(samples: &[f32], semitones: f32) -> Vec<f32> {
    let mut stretcher = Stretcher::new(RATE_HZ);
    let parts = stretcher.separate(samples);
    pitch::shift(&mut stretcher, &parts, semitones).unwrap()
}

/// The middle of a waveform, away from where tones begin and end.
fn inner(samples: &[f32]) -> &[f32] {
    &samples[samples.len() / 5..samples.len() * 4 / 5]
}

fn rms(samples: &[f32]) -> f64 {
    (samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
}

/// Amplitude of a complex tone in a waveform, under a Hann window.
fn amplitude(samples: &[f32], hz: f64) -> f64 {
    let (mut re, mut im) = (0.0, 0.0);
    for (i, sample) in samples.iter().enumerate() {
        let window = 0.5 - 0.5 * (TAU * i as f64 / samples.len() as f64).cos();
        let (sin, cos) = (TAU * hz * i as f64 / f64::from(RATE_HZ)).sin_cos();
        re += window * f64::from(*sample) * cos;
        im -= window * f64::from(*sample) * sin;
    }
    4.0 * re.hypot(im) / samples.len() as f64
}

/// Cents by which the strongest tone within a semitone of `hz` differs from it.
fn cents_off(samples: &[f32], hz: f64) -> f64 {
    let at = |cents: f64| amplitude(samples, hz * 2_f64.powf(cents / 1200.0));
    let strongest = |around: f64, step: f64| {
        let tried = (-20..=20).map(|i| around + step * f64::from(i));
        tried.map(|cents| (at(cents), cents)).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap().1
    };
    strongest(strongest(0.0, 5.0), 0.25)
}

#[test]
fn a_stretched_tone_keeps_its_pitch_and_level() {
    for hz in [110.0, 440.0, 3_000.0] {
        for rate in [0.8, 0.93, 1.25] {
            let output = stretched(&sine(hz, 66_150), rate);
            assert_eq!(output.len(), (66_150.0 / rate).round() as usize);
            let off = cents_off(inner(&output), hz);
            assert!(off.abs() <= 1.0, "{hz} Hz at rate {rate}: {off} cents off");
            let level = rms(inner(&output)) / (0.5 / 2_f64.sqrt());
            assert!((0.97..1.03).contains(&level), "{hz} Hz at rate {rate}: level {level}");
        }
    }
}

#[test]
fn a_shifted_tone_moves_by_semitones_and_keeps_its_length_and_level() {
    for hz in [220.0, 1_000.0] {
        for semitones in [-4.0, -0.5, 3.0, 4.0_f32] {
            let output = shifted(&sine(hz, 66_150), semitones);
            assert_eq!(output.len(), 66_150);
            let off = cents_off(inner(&output), hz * 2_f64.powf(f64::from(semitones) / 12.0));
            assert!(off.abs() <= 1.0, "{hz} Hz by {semitones}: {off} cents off");
            let level = rms(inner(&output)) / (0.5 / 2_f64.sqrt());
            assert!((0.97..1.03).contains(&level), "{hz} Hz by {semitones}: level {level}");
        }
    }
}

#[test]
fn shifting_up_makes_no_aliases() {
    // A tone that the shift moves beyond the Nyquist frequency is gone; it does not come back from above.
    let output = shifted(&sine(20_000.0, 44_100), 4.0);
    assert!(rms(inner(&output)) < 0.01, "{}", rms(inner(&output)));
}

/// Ten clicks a second, each a decaying burst of one millisecond.
fn clicks(samples: usize) -> Vec<f32> {
    let burst = |i: usize| (-(i as f32) / 11.0).exp() * if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    (0..samples).map(|i| if i % 4_410 < 441 { burst(i % 4_410) } else { 0.0 }).collect()
}

/// Part of the energy within half a millisecond of each click's loudest sample, as `tests/golden/clicks.py` measures it.
fn sharpness(samples: &[f32], period: usize) -> f64 {
    let reach = 22;
    let (mut near, mut all) = (0.0, 0.0);
    // Half a period later, so that each click is inside its part.
    for part in samples[period / 2..].chunks_exact(period) {
        let power: Vec<f64> = part.iter().map(|sample| f64::from(*sample).powi(2)).collect();
        let peak = power.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        near += power[peak.saturating_sub(reach)..(peak + reach).min(period)].iter().sum::<f64>();
        all += power.iter().sum::<f64>();
    }
    near / all
}

/// What librosa's phase vocoder makes of the same clicks: strengths, and how sharp the clicks are at each.
#[derive(Deserialize)]
struct Golden {
    unchanged: f64,
    stretched: Vec<(f64, f64)>,
    shifted: Vec<(f32, f64)>,
}

#[test]
fn clicks_stay_sharper_than_a_phase_vocoder_leaves_them() {
    let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/clicks.json")).unwrap();
    let clicks = clicks(88_200);
    assert!((sharpness(&clicks, 4_410) - golden.unchanged).abs() < 1e-4, "these are other clicks");
    for (rate, plain) in golden.stretched {
        let ours = sharpness(&stretched(&clicks, rate), (4_410.0 / rate).round() as usize);
        assert!(ours > plain && ours > 0.8, "rate {rate}: {ours}, librosa {plain}");
    }
    for (semitones, plain) in golden.shifted {
        let ours = sharpness(&shifted(&clicks, semitones), 4_410);
        assert!(ours > plain && ours > 0.8, "{semitones} semitones: {ours}, librosa {plain}");
    }
}

#[test]
fn power_is_kept() {
    // A tone, clicks and noise at once.
    let mut random = 1_u32;
    let mut mixed = clicks(66_150);
    for (sample, tone) in mixed.iter_mut().zip(sine(523.0, 66_150)) {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *sample += tone + 0.2 * ((random >> 8) as f32 / 8_388_608.0 - 1.0);
    }
    for rate in [0.8, 1.25] {
        let change_db = 20.0 * (rms(&stretched(&mixed, rate)) / rms(&mixed)).log10();
        assert!(change_db.abs() < 0.5, "rate {rate}: {change_db} dB");
    }
    for semitones in [-4.0, 4.0] {
        let change_db = 20.0 * (rms(&shifted(&mixed, semitones)) / rms(&mixed)).log10();
        assert!(change_db.abs() < 0.8, "{semitones} semitones: {change_db} dB");
    }
}

#[test]
fn silence_stays_silent() {
    assert!(stretched(&vec![0.0; 5_000], 0.8).iter().all(|sample| *sample == 0.0));
    assert!(shifted(&vec![0.0; 5_000], 3.0).iter().all(|sample| *sample == 0.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_length_survives(samples in 0..3_000_usize, rate in 0.5..2.0_f64, semitones in -12.0..12.0_f32) {
        let waveform: Vec<f32> = (0..samples).map(|i| ((i * i) as f32).sin()).collect();
        let output = stretched(&waveform, rate);
        prop_assert_eq!(output.len(), ((samples as f64 / rate).round() as usize).max(samples.min(1)));
        prop_assert!(output.iter().all(|sample| sample.is_finite()));
        let output = shifted(&waveform, semitones);
        prop_assert_eq!(output.len(), samples);
        prop_assert!(output.iter().all(|sample| sample.is_finite()));
    }
}
