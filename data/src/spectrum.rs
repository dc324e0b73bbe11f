//! Power spectra of overlapping frames: `np.abs(librosa.stft(samples, n_fft=…, hop_length=…)) ** 2`.
//!
//! Frames are centred on multiples of the hop, the signal is padded with zeros, the window is a periodic Hann. Transforms run
//! in 64 bits, as librosa's do: in 32 bits the quiet bins beside loud ones are off by 2e-3 dB.
//!
//! Two real frames travel through one complex transform, one as its real and one as its imaginary part; their spectra are the
//! even and the odd part of what comes out (Press et al., Numerical Recipes, section 12.3.1). Frames of zeros, common in
//! padded clips, are not transformed at all.

#![expect(
    clippy::inline_always,
    reason = "wide instructions are allowed only in what is inlined where they are"
)]

use std::{f64::consts::PI, sync::Arc};

use pulp::{Arch, NullaryFnOnce};
use rustfft::{Fft, FftPlanner, num_complex::Complex};

/// Computes spectra of one waveform after another, with one plan and one set of buffers. A clone shares the plan.
#[derive(Clone)]
pub(crate) struct Spectra {
    plan: Arc<Plan>,
    padded: Vec<f32>,
    pair: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    powers: [Vec<f32>; 2],
}

/// What depends on the front end alone.
struct Plan {
    fft: Arc<dyn Fft<f64>>,
    window: Vec<f64>,
    hop_length: usize,
    /// The widest vector instructions this processor has.
    arch: Arch,
}

impl Spectra {
    /// Plans transforms of `n_fft` samples (even, at least 2) every `hop_length` (at least 1).
    pub(crate) fn new(n_fft: usize, hop_length: usize) -> Self {
        let fft = FftPlanner::new().plan_fft_forward(n_fft);
        let powers = vec![0.0; n_fft / 2 + 1];
        Self {
            padded: Vec::new(),
            pair: vec![Complex::default(); n_fft],
            scratch: vec![Complex::default(); fft.get_inplace_scratch_len()],
            powers: [powers.clone(), powers],
            plan: Arc::new(Plan { fft, window: hann(n_fft), hop_length, arch: Arch::new() }),
        }
    }

    /// Values of each spectrum: `1 + n_fft / 2`.
    pub(crate) fn bins(&self) -> usize {
        self.plan.window.len() / 2 + 1
    }

    /// Frames of a waveform of so many samples.
    pub(crate) fn frames(&self, samples: usize) -> usize {
        samples / self.plan.hop_length + 1
    }

    /// Frames of `samples` that are the same, bit for bit, in whatever shares its first `same` samples with it: those that reach
    /// no further, in whole pairs.
    pub(crate) fn frames_within(&self, same: usize) -> usize {
        let reach = self.plan.window.len() / 2;
        let frames = same.checked_sub(reach).map_or(0, |last| self.frames(last));
        frames / 2 * 2
    }

    /// Hands the power spectrum of each frame from `first` on to `take`, in order; `first` is even, for frames go in pairs.
    pub(crate) fn for_each(&mut self, samples: &[f32], first: usize, mut take: impl FnMut(&[f32])) {
        let plan = &*self.plan;
        let n_fft = plan.window.len();
        // Half a frame of zeros goes before the samples and behind them; the first frame may begin in the former or later.
        let start = first * plan.hop_length;
        self.padded.clear();
        self.padded.resize((n_fft / 2).saturating_sub(start), 0.0);
        self.padded.extend_from_slice(samples.get(start.saturating_sub(n_fft / 2)..).unwrap_or_default());
        self.padded.resize((samples.len() + n_fft).saturating_sub(start), 0.0);
        let mut frames = self.padded.windows(n_fft).step_by(plan.hop_length);
        while let Some(first) = frames.next() {
            let second = frames.next();
            let [first_power, second_power] = &mut self.powers;
            if is_silent(first) && second.is_none_or(is_silent) {
                first_power.fill(0.0);
                second_power.fill(0.0);
            } else {
                let second = second.unwrap_or(first);
                plan.arch.dispatch(Window { first, second, weights: &plan.window, pair: &mut self.pair });
                plan.fft.process_with_scratch(&mut self.pair, &mut self.scratch);
                plan.arch.dispatch(Separate { pair: &self.pair, first: first_power, second: second_power });
            }
            take(first_power);
            if second.is_some() {
                take(second_power);
            }
        }
    }
}

fn is_silent(frame: &[f32]) -> bool {
    frame.iter().all(|sample| *sample == 0.0)
}

// A closure would do for the steps below, were it certain to be inlined to where the wide instructions are allowed.

/// Makes two windowed frames the real and the imaginary parts of one signal.
struct Window<'a> {
    first: &'a [f32],
    second: &'a [f32],
    weights: &'a [f64],
    pair: &'a mut [Complex<f64>],
}

impl NullaryFnOnce for Window<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let frames = self.first.iter().zip(self.second).zip(self.weights);
        for (value, ((first, second), weight)) in self.pair.iter_mut().zip(frames) {
            *value = Complex { re: f64::from(*first) * weight, im: f64::from(*second) * weight };
        }
    }
}

/// Tells the power spectra of two real signals apart, from the transform of the first plus *i* times the second. Bin 0 is its
/// own mirror image; the images of bins 1, 2, … lie backwards from the end.
struct Separate<'a> {
    pair: &'a [Complex<f64>],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl NullaryFnOnce for Separate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        const LANES: usize = 4;
        let half = self.pair.len() / 2;
        let (Some((zero, _)), Some((first_zero, first)), Some((second_zero, second))) =
            (self.pair.split_first(), self.first.split_first_mut(), self.second.split_first_mut())
        else {
            return;
        };
        (*first_zero, *second_zero) = powers(zero, zero);
        let (lows, lows_rest) = self.pair.get(1..=half).unwrap_or_default().as_chunks::<LANES>();
        let (highs_rest, highs) = self.pair.get(half..).unwrap_or_default().as_rchunks::<LANES>();
        let (firsts, first_rest) = first.as_chunks_mut::<LANES>();
        let (seconds, second_rest) = second.as_chunks_mut::<LANES>();
        for (((low, high), first), second) in lows.iter().zip(highs.iter().rev()).zip(firsts).zip(seconds) {
            for (((low, high), first), second) in low.iter().zip(high.iter().rev()).zip(first).zip(second) {
                (*first, *second) = powers(low, high);
            }
        }
        let rest = lows_rest.iter().zip(highs_rest.iter().rev());
        for (((low, high), first), second) in rest.zip(first_rest).zip(second_rest) {
            (*first, *second) = powers(low, high);
        }
    }
}

/// Power of one bin of both signals, from the bin and its mirror image.
#[inline(always)]
fn powers(low: &Complex<f64>, high: &Complex<f64>) -> (f32, f32) {
    let even = Complex { re: low.re + high.re, im: low.im - high.im };
    let odd = Complex { re: low.im + high.im, im: high.re - low.re };
    ((0.25 * even.norm_sqr()) as f32, (0.25 * odd.norm_sqr()) as f32)
}

/// `scipy.signal.get_window("hann", n, fftbins=True)`.
fn hann(n: usize) -> Vec<f64> {
    (0..n).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / n as f64).cos()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise that is loud in places, quiet in others and silent for a while.
    fn signal(samples: usize) -> Vec<f32> {
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state) / f64::from(u32::MAX) - 0.5
        });
        let envelope =
            |i: usize| if (i / 300).is_multiple_of(3) { 0.0 } else { (-(i as f64) / 100.0).exp2() };
        noise.take(samples).enumerate().map(|(i, noise)| (noise * envelope(i)) as f32).collect()
    }

    /// The definition: one sum for each frame and bin.
    fn by_definition(samples: &[f32], n_fft: usize, hop_length: usize) -> Vec<Vec<f64>> {
        let at =
            |i: isize| usize::try_from(i).ok().and_then(|i| samples.get(i)).map_or(0.0, |y| f64::from(*y));
        let window = hann(n_fft);
        let power = |frame: usize, bin: usize| -> f64 {
            let start = (frame * hop_length) as isize - (n_fft / 2) as isize;
            let terms = (0..n_fft).map(|i| {
                let angle = -2.0 * PI * (i * bin % n_fft) as f64 / n_fft as f64;
                Complex::from_polar(window[i] * at(start + i as isize), angle)
            });
            terms.sum::<Complex<f64>>().norm_sqr()
        };
        let frames = samples.len() / hop_length + 1;
        (0..frames).map(|frame| (0..=n_fft / 2).map(|bin| power(frame, bin)).collect()).collect()
    }

    fn check(samples: usize, n_fft: usize, hop_length: usize) {
        let samples = signal(samples);
        let mut found: Vec<Vec<f32>> = Vec::new();
        Spectra::new(n_fft, hop_length).for_each(&samples, 0, |power| found.push(power.to_vec()));
        let expected = by_definition(&samples, n_fft, hop_length);
        assert_eq!(found.len(), expected.len());
        // A frame shares its transform, and so the rounding, with its neighbour.
        let loudest = expected.iter().flatten().copied().fold(0.0, f64::max);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let difference = (f64::from(*found) - expected).abs();
                assert!(difference <= 1e-7 * expected + 1e-20 * loudest, "{found} instead of {expected}");
            }
        }
    }

    #[test]
    fn frames_within_what_is_the_same_are_the_same() {
        let (n_fft, hop_length) = (64, 10);
        let mut spectra = Spectra::new(n_fft, hop_length);
        let samples = signal(1_000);
        let mut all = |samples: &[f32], first| {
            let mut found: Vec<Vec<f32>> = Vec::new();
            spectra.for_each(samples, first, |power| found.push(power.to_vec()));
            found
        };
        let whole = all(&samples, 0);
        for same in [0, 31, 32, 33, 500, 999] {
            let shared = Spectra::new(n_fft, hop_length).frames_within(same);
            let other = [&samples[..same], &[0.5; 300]].concat();
            assert_eq!(all(&other, 0)[..shared], whole[..shared], "{same}");
            assert_eq!(all(&samples, shared), whole[shared..], "{same}");
        }
    }

    #[test]
    fn spectra_are_those_of_the_definition() {
        check(2_000, 64, 16);
        check(1_999, 100, 37);
        check(5, 16, 16);
        check(0, 16, 4);
        check(700, 2, 1);
    }
}
