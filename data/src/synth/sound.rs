//! Ten kinds of sound, each drawn from ranges that overlap with another's.

use std::f64::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Names of the classes; the index is the target.
pub const CLASSES: [&str; 10] = [
    "clicks",
    "pulses",
    "chirp_up",
    "chirp_down",
    "hum",
    "siren",
    "noise_burst",
    "rain",
    "knocks",
    "crackle",
];

/// Version of the sounds; raised whenever one of them changes.
pub(super) const VERSION: u32 = 1;

/// Part of the clips that are padded with digital silence, as many of ESC-50's are.
const PADDED: f64 = 0.4;

/// Part of the clips with an event of another class in the background.
const DISTRACTED: f64 = 0.35;

/// Renders a clip, samples within ±1. `source` decides what its takes have in common, `own` the rest.
pub(super) fn render(
    class: usize,
    [source, own]: [ChaCha8Rng; 2],
    rate_hz: u32,
    duration_s: f64,
) -> Vec<f32> {
    let length = (duration_s * f64::from(rate_hz)) as usize;
    let mut random = Draw { source, own };
    let mut canvas = Canvas { rate_hz: f64::from(rate_hz), samples: vec![0.0; length] };
    canvas.paint(class, &mut random);
    canvas.scale_to(1.0);
    if random.own.random_bool(DISTRACTED) {
        let other = random.own.random_range(0..CLASSES.len());
        let mut distraction = Canvas { rate_hz: canvas.rate_hz, samples: vec![0.0; length] };
        // The distraction is another source: it must not repeat with this source's takes.
        let own = random.own.clone();
        distraction.paint(other, &mut Draw { source: own.clone(), own });
        distraction.scale_to(db(random.own(-24.0, -8.0)));
        canvas.add_all(&distraction.samples);
    }
    let (low_db, high_db) = (-36.0, -8.0);
    let (colour, level_db) = (random.source(0.0, 0.95), random.source(low_db, high_db));
    canvas.background(colour, db(level_db + random.own(-2.0, 2.0)), &mut random.own);
    canvas.scale_to(0.95 * db(random.own(-18.0, 0.0)));
    if random.own.random_bool(PADDED) {
        canvas.keep(random.own(0.0, 0.3), random.own(0.55, 1.0));
    }
    canvas.samples
}

/// Numbers for a clip: those of its source come first and are the same for every take.
struct Draw {
    source: ChaCha8Rng,
    own: ChaCha8Rng,
}

impl Draw {
    /// A property of the source.
    fn source(&mut self, low: f64, high: f64) -> f64 {
        self.source.random_range(low..high)
    }

    /// A property of the source, uniform in octaves.
    fn source_octaves(&mut self, low: f64, high: f64) -> f64 {
        self.source(low.ln(), high.ln()).exp()
    }

    /// A property of this take alone.
    fn own(&mut self, low: f64, high: f64) -> f64 {
        self.own.random_range(low..high)
    }

    fn noise(&mut self) -> f64 {
        self.own(-1.0, 1.0)
    }
}

/// A clip being made.
struct Canvas {
    rate_hz: f64,
    samples: Vec<f32>,
}

impl Canvas {
    fn paint(&mut self, class: usize, random: &mut Draw) {
        match class {
            0 => self.clicks(random),
            1 => self.pulses(random),
            2 => self.chirps(random, 1.0),
            3 => self.chirps(random, -1.0),
            4 => self.hum(random),
            5 => self.siren(random),
            6 => self.noise_bursts(random),
            7 => self.rain(random),
            8 => self.knocks(random),
            _ => self.crackle(random),
        }
    }

    /// Short pops at no regular time.
    fn clicks(&mut self, random: &mut Draw) {
        let (hz, decay_s) = (random.source_octaves(900.0, 5_000.0), random.source_octaves(0.001, 0.006));
        let rate = random.source(2.0, 8.0);
        let mut at_s = random.own(0.0, 0.4);
        while at_s < self.seconds() {
            let level = random.own(0.4, 1.0);
            self.ring(at_s, hz * random.own(0.9, 1.1), decay_s, level);
            at_s += random.own(0.1, 1.9) / rate;
        }
    }

    /// The same pops, but in time.
    fn pulses(&mut self, random: &mut Draw) {
        let (hz, decay_s) = (random.source_octaves(700.0, 4_000.0), random.source_octaves(0.001, 0.008));
        let rate = random.source(4.0, 11.0);
        let mut at_s = random.own(0.0, 0.3);
        while at_s < self.seconds() {
            let level = random.own(0.8, 1.0);
            self.ring(at_s, hz, decay_s, level);
            at_s += random.own(0.96, 1.04) / rate;
        }
    }

    /// Glides, upward or downward, one after another.
    fn chirps(&mut self, random: &mut Draw, direction: f64) {
        let (low_hz, octaves) = (random.source_octaves(400.0, 1_600.0), random.source(0.4, 1.6));
        let (length_s, gap_s) = (random.source(0.12, 0.7), random.source(0.1, 0.8));
        let mut at_s = random.own(0.0, 0.5);
        while at_s < self.seconds() {
            let (hz, level, length_s) =
                (low_hz * random.own(0.9, 1.1), random.own(0.6, 1.0), length_s * random.own(0.8, 1.2));
            let mut phase = 0.0;
            self.event(at_s, length_s, |part, step_s| {
                let along = if direction > 0.0 { part } else { 1.0 - part };
                phase += TAU * hz * (octaves * along).exp2() * step_s;
                level * phase.sin() * (part * TAU / 2.0).sin().sqrt()
            });
            at_s += length_s + gap_s * random.own(0.5, 1.5);
        }
    }

    /// A steady tone with harmonics, slowly swelling.
    fn hum(&mut self, random: &mut Draw) {
        let (hz, tilt) = (random.source_octaves(60.0, 320.0), random.source(0.5, 1.8));
        let (swell_hz, depth) = (random.source(0.2, 3.0), random.source(0.1, 0.7));
        let start = random.own(0.0, TAU);
        let harmonics: Vec<(f64, f64, f64)> =
            (1..=8).map(|n| (f64::from(n), f64::from(n).powf(-tilt), random.own(0.0, TAU))).collect();
        let seconds = self.seconds();
        self.event(0.0, seconds, |part, _| {
            let at_s = part * seconds;
            let swell = 1.0 - depth * (0.5 + 0.5 * (TAU * swell_hz * at_s + start).sin());
            let wave: f64 =
                harmonics.iter().map(|(n, level, phase)| level * (TAU * hz * n * at_s + phase).sin()).sum();
            swell * wave
        });
    }

    /// A tone that sweeps to and fro.
    fn siren(&mut self, random: &mut Draw) {
        let (hz, octaves) = (random.source_octaves(350.0, 1_500.0), random.source(0.2, 0.8));
        let (sweep_hz, second) = (random.source_octaves(0.4, 4.0), random.source(0.0, 0.6));
        let start = random.own(0.0, TAU);
        let seconds = self.seconds();
        let mut phase = 0.0;
        self.event(0.0, seconds, |part, step_s| {
            let bend = octaves * (TAU * sweep_hz * part * seconds + start).sin();
            phase += TAU * hz * bend.exp2() * step_s;
            phase.sin() + second * (2.0 * phase).sin()
        });
    }

    /// Bursts of noise in a band.
    fn noise_bursts(&mut self, random: &mut Draw) {
        let (hz, width) = (random.source_octaves(600.0, 5_000.0), random.source(0.3, 1.5));
        let (length_s, gap_s) = (random.source(0.08, 0.6), random.source(0.1, 0.9));
        let mut at_s = random.own(0.0, 0.5);
        while at_s < self.seconds() {
            let level = random.own(0.5, 1.0);
            let mut band = Resonator::new(hz, hz * width, self.rate_hz);
            let length_s = length_s * random.own(0.7, 1.3);
            self.event(at_s, length_s, |part, _| {
                level * band.next(random.noise()) * (part * TAU / 2.0).sin().powf(0.3)
            });
            at_s += length_s + gap_s * random.own(0.4, 1.6);
        }
    }

    /// Noise without end, and drops in it.
    fn rain(&mut self, random: &mut Draw) {
        let (hz, width) = (random.source_octaves(1_000.0, 5_000.0), random.source(0.8, 2.0));
        let (drops, drop_level) = (random.source(5.0, 40.0), random.source(0.1, 1.0));
        let mut band = Resonator::new(hz, hz * width, self.rate_hz);
        let seconds = self.seconds();
        self.event(0.0, seconds, |_, _| 0.6 * band.next(random.noise()));
        let mut at_s = 0.0;
        while at_s < seconds {
            let (hz, level) = (random.own(1_500.0, 6_000.0), drop_level * random.own(0.1, 1.0));
            self.ring(at_s, hz, 0.003, level);
            at_s += random.own(0.0, 2.0) / drops;
        }
    }

    /// Knocks on something that rings, in groups.
    fn knocks(&mut self, random: &mut Draw) {
        let (hz, decay_s) = (random.source_octaves(150.0, 1_100.0), random.source_octaves(0.01, 0.07));
        let (group, spacing_s) = (random.source(2.0, 6.0) as u32, random.source(0.12, 0.35));
        let mut at_s = random.own(0.0, 0.6);
        while at_s < self.seconds() {
            for _ in 0..group {
                let level = random.own(0.5, 1.0);
                for (overtone, part) in [(1.0, 1.0), (2.3, 0.5), (4.1, 0.25)] {
                    self.ring(at_s, hz * overtone, decay_s / overtone, level * part);
                }
                at_s += spacing_s * random.own(0.85, 1.15);
            }
            at_s += random.own(0.4, 1.5);
        }
    }

    /// Many tiny pops of every size over a faint hiss.
    fn crackle(&mut self, random: &mut Draw) {
        let (rate, low_hz) = (random.source(8.0, 45.0), random.source_octaves(500.0, 2_500.0));
        let hiss = random.source(0.0, 0.08);
        let seconds = self.seconds();
        self.event(0.0, seconds, |_, _| hiss * random.noise());
        let mut at_s = 0.0;
        while at_s < seconds {
            // Cubed, so that most pops are small.
            let level = random.own(0.2, 1.0).powi(3);
            let (hz, decay_s) = (low_hz * random.own(0.7, 3.0), random.own(0.0005, 0.004));
            self.ring(at_s, hz, decay_s, level);
            at_s += random.own(0.0, 2.0) / rate;
        }
    }

    fn seconds(&self) -> f64 {
        self.samples.len() as f64 / self.rate_hz
    }

    /// Adds a sound that starts at a time and lasts; `wave` is given the part of it that is over, and the time between samples.
    fn event(&mut self, at_s: f64, length_s: f64, mut wave: impl FnMut(f64, f64) -> f64) {
        let length = (length_s * self.rate_hz).max(1.0);
        let step_s = 1.0 / self.rate_hz;
        let start = (at_s * self.rate_hz) as usize;
        for (i, sample) in self.samples.iter_mut().skip(start).take(length as usize).enumerate() {
            *sample += wave(i as f64 / length, step_s) as f32;
        }
    }

    /// Adds a tone that is struck and dies away; `decay_s` is the time to 1/e.
    fn ring(&mut self, at_s: f64, hz: f64, decay_s: f64, level: f64) {
        const DECAYS: f64 = 7.0;
        let length_s = DECAYS * decay_s;
        self.event(at_s, length_s, |part, _| {
            level * (-DECAYS * part).exp() * (TAU * hz * part * length_s).sin()
        });
    }

    /// Adds noise of a peak level; `colour` from 0 (white) towards 1 (brown).
    fn background(&mut self, colour: f64, level: f64, random: &mut ChaCha8Rng) {
        let (mut last, scale) = (0.0, level * (1.0 - colour * colour).sqrt());
        for sample in &mut self.samples {
            last = colour * last + random.random_range(-1.0..1.0);
            *sample += (scale * last) as f32;
        }
    }

    fn add_all(&mut self, other: &[f32]) {
        for (sample, other) in self.samples.iter_mut().zip(other) {
            *sample += other;
        }
    }

    fn scale_to(&mut self, peak: f64) {
        let now = crate::condition::peak(&self.samples);
        if now > 0.0 {
            let factor = peak as f32 / now;
            self.samples.iter_mut().for_each(|sample| *sample *= factor);
        }
    }

    /// Silences all but the part between two fractions of the clip.
    fn keep(&mut self, from: f64, to: f64) {
        let length = self.samples.len() as f64;
        for (i, sample) in self.samples.iter_mut().enumerate() {
            if !(from * length..to * length).contains(&(i as f64)) {
                *sample = 0.0;
            }
        }
    }
}

/// A band-pass filter of two poles: R. Bristow-Johnson, "Cookbook formulae for audio EQ biquad filter coefficients", BPF with
/// constant 0 dB peak gain.
struct Resonator {
    gain: f64,
    feedback: [f64; 2],
    inputs: [f64; 2],
    outputs: [f64; 2],
}

impl Resonator {
    fn new(hz: f64, width_hz: f64, rate_hz: f64) -> Self {
        // Below half the rate, whatever the rate is.
        let omega = TAU * (hz / rate_hz).min(0.45);
        let alpha = omega.sin() * width_hz / (2.0 * hz);
        let scale = 1.0 / (1.0 + alpha);
        Self {
            gain: alpha * scale,
            feedback: [-2.0 * omega.cos() * scale, (1.0 - alpha) * scale],
            inputs: [0.0; 2],
            outputs: [0.0; 2],
        }
    }

    fn next(&mut self, input: f64) -> f64 {
        let ([_, before], [last, before_last], [a1, a2]) = (self.inputs, self.outputs, self.feedback);
        let output = self.gain * (input - before) - a1 * last - a2 * before_last;
        self.inputs = [input, self.inputs[0]];
        self.outputs = [output, last];
        output
    }
}

/// Decibels as a factor of amplitude.
fn db(decibels: f64) -> f64 {
    10.0_f64.powf(decibels / 20.0)
}
