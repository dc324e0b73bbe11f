//! White Gaussian noise, as audiomentations' `AddGaussianSNR` adds it.

use std::f64::consts::TAU;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Adds noise `snr_db` below the waveform's RMS over its whole length: every sample's is drawn from a normal distribution of
/// standard deviation `rms / 10^(snr_db / 20)`. Silence stays silent.
pub(super) fn add_gaussian_snr(samples: &mut [f32], snr_db: f32, seed: [u8; 32]) {
    let power: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    let rms = (power / samples.len().max(1) as f64).sqrt();
    let deviation = rms / 10_f64.powf(f64::from(snr_db) / 20.0);
    let mut random = ChaCha8Rng::from_seed(seed);
    for pair in samples.chunks_mut(2) {
        for (sample, normal) in pair.iter_mut().zip(normals(&mut random)) {
            *sample += (deviation * normal) as f32;
        }
    }
}

/// Two independent standard normal numbers (Box and Muller 1958).
fn normals(random: &mut ChaCha8Rng) -> [f64; 2] {
    const STEPS: f64 = (1_u64 << 53) as f64;
    // Above 0, so that its logarithm is finite.
    let radius = (-2.0 * (((random.next_u64() >> 11) + 1) as f64 / STEPS).ln()).sqrt();
    let (sin, cos) = (TAU * (random.next_u64() >> 11) as f64 / STEPS).sin_cos();
    [radius * cos, radius * sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(samples: usize) -> Vec<f32> {
        (0..samples).map(|i| 0.3 * (i as f32 * 0.05).sin()).collect()
    }

    fn noise(clean: &[f32], snr_db: f32) -> Vec<f64> {
        let mut noisy = clean.to_vec();
        add_gaussian_snr(&mut noisy, snr_db, [3; 32]);
        noisy.iter().zip(clean).map(|(noisy, clean)| f64::from(*noisy) - f64::from(*clean)).collect()
    }

    #[test]
    fn the_measured_ratio_is_the_one_drawn() {
        let clean = sine(200_000);
        let power: f64 = clean.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        for snr_db in [-20.0, 5.0, 17.5, 40.0] {
            let added: f64 = noise(&clean, snr_db).iter().map(|sample| sample.powi(2)).sum();
            let measured = 10.0 * (power / added).log10();
            assert!((measured - f64::from(snr_db)).abs() < 0.05, "{measured} for {snr_db}");
        }
    }

    #[test]
    fn noise_is_gaussian_and_white() {
        let noise = noise(&sine(200_000), 0.0);
        let moment =
            |power: i32| noise.iter().map(|sample| sample.powi(power)).sum::<f64>() / noise.len() as f64;
        let kurtosis = moment(4) / moment(2).powi(2);
        assert!((kurtosis - 3.0).abs() < 0.05, "{kurtosis}");
        let neighbours = noise.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / noise.len() as f64;
        assert!((neighbours / moment(2)).abs() < 0.01);
    }

    #[test]
    fn silence_stays_silent_and_short_clips_survive() {
        let mut silent = vec![0.0; 100];
        add_gaussian_snr(&mut silent, 5.0, [1; 32]);
        assert_eq!(silent, [0.0; 100]);
        for samples in 0..3 {
            let mut short = vec![0.5; samples];
            add_gaussian_snr(&mut short, 5.0, [1; 32]);
            assert!(short.iter().all(|sample| sample.is_finite()));
        }
    }
}
