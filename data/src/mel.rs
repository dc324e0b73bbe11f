//! Mel filter bank: Slaney's or HTK's scale, area normalisation, only the weights that are not zero.
//!
//! Source: librosa 0.11, `filters.mel(sr, n_fft, n_mels, htk=…, norm="slaney")`.

#![expect(
    clippy::inline_always,
    reason = "wide instructions are allowed only in what is inlined where they are"
)]

use earshot_common::frontend::FrontEnd;
use pulp::{Arch, NullaryFnOnce};

/// Triangular filters over the bins of a power spectrum.
#[derive(Debug, Clone)]
pub struct MelBank {
    bands: Vec<Band>,
    arch: Arch,
}

/// The bins of one filter that weigh anything.
#[derive(Debug, Clone)]
struct Band {
    start: usize,
    weights: Vec<f32>,
}

impl MelBank {
    /// A front end's filters, from 0 Hz to half its rate, for spectra of `n_fft / 2 + 1` bins.
    pub fn new(front_end: &FrontEnd) -> Self {
        let n_fft = front_end.n_fft as usize;
        let rate_hz = f64::from(front_end.sample_rate_hz);
        let scale = if front_end.htk { Scale::Htk } else { Scale::Slaney };
        let edges_hz = scale.edges_hz(rate_hz / 2.0, usize::from(front_end.n_mels) + 2);
        let bin_hz = rate_hz / n_fft as f64;
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
        Self { bands: edges_hz.array_windows().map(band).collect(), arch: Arch::new() }
    }

    /// Number of filters.
    pub fn n_mels(&self) -> usize {
        self.bands.len()
    }

    /// The power in each filter; `power` has one value a bin, `mels` one a filter.
    pub fn apply(&self, power: &[f32], mels: &mut [f32]) {
        self.arch.dispatch(Apply { bands: &self.bands, power, mels });
    }
}

/// A closure would do, were it certain to be inlined to where the wide instructions are allowed.
struct Apply<'a> {
    bands: &'a [Band],
    power: &'a [f32],
    mels: &'a mut [f32],
}

impl NullaryFnOnce for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (mel, band) in self.mels.iter_mut().zip(self.bands) {
            *mel = dot(&band.weights, self.power.get(band.start..).unwrap_or_default());
        }
    }
}

/// How hertz become mels.
#[derive(Debug, Clone, Copy)]
enum Scale {
    /// Linear below 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998).
    Slaney,
    /// `2595 · log10(1 + hz / 700)` (The HTK Book, 5.4).
    Htk,
}

impl Scale {
    /// Hertz in one of Slaney's mels, below the bend.
    const LINEAR_HZ: f64 = 200.0 / 3.0;
    /// Where Slaney's scale bends, in hertz and in mels.
    const BEND_HZ: f64 = 1000.0;
    const BEND_MEL: f64 = Self::BEND_HZ / Self::LINEAR_HZ;
    /// 27 mels above the bend are a factor of 6.4.
    const LOG_STEPS: f64 = 27.0;
    const LOG_FACTOR: f64 = 6.4;
    /// HTK's constants.
    const HTK_MEL: f64 = 2595.0;
    const HTK_HZ: f64 = 700.0;

    /// Edges of filters in hertz, evenly spaced in mels from 0 to `top_hz`.
    fn edges_hz(self, top_hz: f64, count: usize) -> Vec<f64> {
        let top = self.mel_of_hz(top_hz);
        (0..count).map(|edge| self.hz_of_mel(top * edge as f64 / (count - 1) as f64)).collect()
    }

    fn mel_of_hz(self, hz: f64) -> f64 {
        match self {
            Self::Slaney if hz >= Self::BEND_HZ => {
                Self::BEND_MEL + (hz / Self::BEND_HZ).ln() * Self::LOG_STEPS / Self::LOG_FACTOR.ln()
            }
            Self::Slaney => hz / Self::LINEAR_HZ,
            Self::Htk => Self::HTK_MEL * (1.0 + hz / Self::HTK_HZ).log10(),
        }
    }

    fn hz_of_mel(self, mel: f64) -> f64 {
        match self {
            Self::Slaney if mel >= Self::BEND_MEL => {
                Self::BEND_HZ * (Self::LOG_FACTOR.ln() / Self::LOG_STEPS * (mel - Self::BEND_MEL)).exp()
            }
            Self::Slaney => mel * Self::LINEAR_HZ,
            Self::Htk => Self::HTK_HZ * (10.0_f64.powf(mel / Self::HTK_MEL) - 1.0),
        }
    }
}

/// Sum of products over the shorter length. Eight running sums, because float addition is not associative and the compiler
/// may not use wide registers for one.
#[inline(always)]
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

    fn bank(sample_rate_hz: u32, n_fft: u32, n_mels: u16) -> MelBank {
        MelBank::new(&FrontEnd { sample_rate_hz, n_fft, n_mels, ..FrontEnd::default() })
    }

    #[test]
    fn the_scales_go_there_and_back() {
        for scale in [Scale::Slaney, Scale::Htk] {
            for hz in [0.0, 440.0, 999.0, 1000.0, 1001.0, 22_050.0] {
                assert!((scale.hz_of_mel(scale.mel_of_hz(hz)) - hz).abs() < 1e-9, "{scale:?} at {hz}");
            }
        }
        // librosa.hz_to_mel(6400) and librosa.hz_to_mel(1000, htk=True)
        assert!((Scale::Slaney.mel_of_hz(6400.0) - 42.0).abs() < 1e-12);
        assert!((Scale::Htk.mel_of_hz(1000.0) - 999.985_537_139_624_4).abs() < 1e-9);
    }

    #[test]
    fn filters_cover_the_spectrum() {
        let bank = bank(44_100, 2048, 128);
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
        let mut mels = vec![1.0; 128];
        bank(44_100, 64, 128).apply(&[1.0; 33], &mut mels);
        assert!(mels.contains(&0.0));
    }
}
