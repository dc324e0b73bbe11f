//! The bank of views: clips under graded augmentations, rendered once for all trials of a sweep.
//!
//! In reading order:
//! - `draw`: how strong each view of each clip is, from the bank's seed.
//! - `noise`: Gaussian noise at a signal-to-noise ratio.
//! - `transform`: frames to spectra and back, shared by the two below.
//! - `separation`: a waveform as the sum of what lasts and what strikes.
//! - `stretch`: each part at another length, in its own way: `vocoder` for what lasts, `grains` for what strikes.
//! - `pitch`: stretched, then resampled to the old length.
//! - [`render`]: all views of one clip, through the same chain as the clean one.
//!
//! A plain phase vocoder smears a click over its frame of some 90 ms, and clicks are what tells many sounds apart; so stretching
//! follows Driedger, Müller and Ewert, "Improving time-scale modification of music signals using harmonic-percussive separation"
//! (IEEE Signal Processing Letters 21(1), 2014).

mod draw;
mod grains;
mod noise;
mod pitch;
pub mod render;
mod separation;
mod stretch;
mod transform;
mod vocoder;

pub use draw::{Draw, draw};
pub use pitch::PitchError;

#[cfg(test)]
mod tests;
