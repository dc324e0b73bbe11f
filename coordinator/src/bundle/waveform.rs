//! Made-up waveforms, the same on every machine: what golden files are made of.
//!
//! Real recordings are not ours to put into a bundle. A rising chirp with its third harmonic, clicks and a little noise reach
//! every mel band.

use std::f64::consts::TAU;

/// Loudest part of the noise beside the chirp's 0.5.
const NOISE: f64 = 0.01;
/// Clicks of a clip.
const CLICKS: usize = 5;

/// 16-bit samples: `silence` at either end, `sound` between.
pub(super) fn samples(sample_rate_hz: u32, silence: usize, sound: usize) -> Vec<i16> {
    let rate = f64::from(sample_rate_hz);
    let (lowest_hz, highest_hz) = (rate / 400.0, rate / 4.0);
    let octaves = (highest_hz / lowest_hz).log2();
    let period = (sound / CLICKS).max(1);
    let (mut phase, mut noise) = (0.0_f64, 0x9E37_79B9_u32);
    let sounding = (0..sound).map(|index| {
        let progress = index as f64 / sound as f64;
        phase = (phase + lowest_hz * (octaves * progress).exp2() / rate).fract();
        // Xorshift (Marsaglia 2003): the same everywhere.
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        let hiss = NOISE * (f64::from(noise) / f64::from(u32::MAX) * 2.0 - 1.0);
        let click = if index % period == period / 2 { 0.3 } else { 0.0 };
        let value = 0.5 * (TAU * phase).sin() + 0.1 * (TAU * 3.0 * phase).sin() + hiss + click;
        (value * f64::from(i16::MAX)).round() as i16
    });
    let quiet = std::iter::repeat_n(0, silence);
    quiet.clone().chain(sounding).chain(quiet).collect()
}

/// A WAV file of one channel.
pub(super) fn wav(sample_rate_hz: u32, samples: &[i16]) -> Vec<u8> {
    let data_bytes = samples.len() as u32 * 2;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((data_bytes + 36).to_le_bytes());
    // Format 1, whole numbers, one channel; then bytes a second, bytes a frame, bits a sample.
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(sample_rate_hz.to_le_bytes());
    bytes.extend((sample_rate_hz * 2).to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend(data_bytes.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    bytes
}
