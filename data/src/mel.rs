//! Mel filter bank: Slaney's scale, area normalisation, only the weights that are not zero.
//!
//! Source: librosa 0.11, `filters.mel(sr, n_fft, n_mels, htk=False, norm="slaney")`, after Malcolm Slaney's Auditory Toolbox
//! (1998): linear below 1 kHz, logarithmic above.

/// Hertz in a mel, below the bend.
const LINEAR_HZ: f64 = 200.0 / 3.0;

/// Where the scale bends, in hertz and in mels.
const BEND_HZ: f64 = 1000.0;
const BEND_MEL: f64 = BEND_HZ / LINEAR_HZ;

/// 27 mels above the bend are a factor of 6.4.
const LOG_STEPS: f64 = 27.0;
const LOG_FACTOR: f64 = 6.4;

/// Triangular filters over the bins of a power spectrum.
#[derive(Debug, Clone)]
pub struct MelBank {
    bands: Vec<Band>,
}

/// The bins of one filter that weigh anything.
#[derive(Debug, Clone)]
struct Band {
    start: usize,
    weights: Vec<f32>,
}

impl MelBank {
    /// Filters from 0 Hz to half the rate, for spectra of `n_fft / 2 + 1` bins.
    pub fn new(sample_rate_hz: u32, n_fft: usize, n_mels: usize) -> Self {
        let edges_hz = edges_hz(f64::from(sample_rate_hz), n_mels + 2);
        let bin_hz = f64::from(sample_rate_hz) / n_fft as f64;
        let band = |edges: &[f64; 3]| {
            let [low, middle, high] = *edges;
            let norm = 2.0 / (high - low);
            // librosa keeps the triangle as 32-bit floats before it normalises; so do we.
            let weight = |bin: usize| {
                let hz = bin as f64 * bin_hz;
                let triangle =
                    ((hz - low) / (middle - low)).min((high - hz) / (high - middle)).max(0.0) as f32;
                (f64::from(triangle) * norm) as f32
            };
            let start = (0..=n_fft / 2).find(|bin| weight(*bin) > 0.0).unwrap_or(0);
            let weights = (start..=n_fft / 2).map(weight).take_while(|weight| *weight > 0.0).collect();
            Band { start, weights }
        };
        Self { bands: edges_hz.array_windows().map(band).collect() }
    }

    /// Number of filters.
    pub fn n_mels(&self) -> usize {
        self.bands.len()
    }

    /// The power in each filter; `power` has one value a bin, `mels` one a filter.
    pub fn apply(&self, power: &[f32], mels: &mut [f32]) {
        for (mel, band) in mels.iter_mut().zip(&self.bands) {
            *mel = dot(&band.weights, power.get(band.start..).unwrap_or_default());
        }
    }
}

/// Edges of the filters in hertz, evenly spaced in mels.
fn edges_hz(sample_rate_hz: f64, count: usize) -> Vec<f64> {
    let top = mel_of_hz(sample_rate_hz / 2.0);
    (0..count).map(|edge| hz_of_mel(top * edge as f64 / (count - 1) as f64)).collect()
}

fn mel_of_hz(hz: f64) -> f64 {
    let step = LOG_FACTOR.ln() / LOG_STEPS;
    if hz >= BEND_HZ { BEND_MEL + (hz / BEND_HZ).ln() / step } else { hz / LINEAR_HZ }
}

fn hz_of_mel(mel: f64) -> f64 {
    let step = LOG_FACTOR.ln() / LOG_STEPS;
    if mel >= BEND_MEL { BEND_HZ * (step * (mel - BEND_MEL)).exp() } else { mel * LINEAR_HZ }
}

/// Sum of products over the shorter length. Eight running sums, because float addition is not associative and the compiler
/// may not use wide registers for one.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let length = a.len().min(b.len());
    let (a, a_rest) = a.get(..length).unwrap_or_default().as_chunks::<LANES>();
    let (b, b_rest) = b.get(..length).unwrap_or_default().as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_goes_there_and_back() {
        for hz in [0.0, 440.0, 999.0, 1000.0, 1001.0, 22_050.0] {
            assert!((hz_of_mel(mel_of_hz(hz)) - hz).abs() < 1e-9, "{hz}");
        }
        // librosa.hz_to_mel(6400)
        assert!((mel_of_hz(6400.0) - 42.0).abs() < 1e-12);
    }

    #[test]
    fn filters_cover_the_spectrum() {
        let bank = MelBank::new(44_100, 2048, 128);
        assert_eq!(bank.n_mels(), 128);
        let mut mels = vec![0.0; 128];
        for bin in 1..1024 {
            let mut power = vec![0.0; 1025];
            power[bin] = 1.0;
            bank.apply(&power, &mut mels);
            assert!(mels.iter().any(|mel| *mel > 0.0), "bin {bin} is in no filter");
        }
    }

    #[test]
    fn a_filter_between_two_bins_is_empty() {
        // librosa warns of such filters; their power is zero.
        let bank = MelBank::new(44_100, 64, 128);
        let mut mels = vec![1.0; 128];
        bank.apply(&[1.0; 33], &mut mels);
        assert!(mels.contains(&0.0));
    }
}
