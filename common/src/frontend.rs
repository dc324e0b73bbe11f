//! The front end: how a waveform becomes features, as data.
//!
//! The spec is everything that changes a feature's value. Its BLAKE3 hash identifies the features of a shard and travels
//! into the exported bundle, so that a device can refuse to feed a model with features of another front end.

use serde::{Deserialize, Serialize};

use crate::ids::BlobId;

/// Coefficients a shard holds at most: the first *n* of them are exactly the *n*-coefficient MFCC.
pub const N_MFCC_MAX: u16 = 64;

/// What to do with a clip that is shorter or longer than [`FrontEnd::duration_s`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Zeros after the end; a longer clip is cut at its end.
    #[default]
    ZeroPad,
    /// The clip repeated from its start; a longer clip is cut at its end.
    Tile,
}

/// How a waveform becomes features. Field names and defaults are librosa's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrontEnd {
    /// Rate that every clip is resampled to.
    pub sample_rate_hz: u32,
    /// Frames this many decibels below the peak RMS at either end are trimmed; `"none"`: nothing is trimmed.
    #[serde(serialize_with = "none_as_word::serialize", deserialize_with = "none_as_word::deserialize")]
    pub trim_top_db: Option<f32>,
    /// Whether the waveform is divided by its largest magnitude.
    pub peak_normalise: bool,
    /// Length of the waveform after padding or cropping, in seconds.
    pub duration_s: f64,
    /// How that length is reached.
    pub length: Length,
    /// FFT length in samples; the window is a periodic Hann of the same length.
    pub n_fft: u32,
    /// Samples between frames.
    pub hop_length: u32,
    /// Mel bands, normalised by area.
    pub n_mels: u16,
    /// Whether the bands are evenly spaced on HTK's mel scale instead of Slaney's.
    pub htk: bool,
    /// Coefficients kept in the shard, at most [`N_MFCC_MAX`] and `n_mels`.
    pub n_mfcc: u16,
}

impl Default for FrontEnd {
    fn default() -> Self {
        Self {
            sample_rate_hz: 44_100,
            trim_top_db: Some(60.0),
            peak_normalise: true,
            duration_s: 5.0,
            length: Length::ZeroPad,
            n_fft: 2048,
            hop_length: 512,
            n_mels: 128,
            htk: false,
            n_mfcc: N_MFCC_MAX,
        }
    }
}

impl FrontEnd {
    /// Samples of a clip of fixed length.
    pub fn samples(&self) -> usize {
        (self.duration_s * f64::from(self.sample_rate_hz)).round() as usize
    }

    /// Frames of a clip of fixed length: centred frames, so one more than whole hops.
    pub fn frames(&self) -> usize {
        self.samples() / self.hop_length as usize + 1
    }

    /// BLAKE3 of the spec's canonical JSON (fields in declaration order, no white space).
    pub fn hash(&self) -> BlobId {
        // A struct of numbers and unit enums always serialises; an empty hash input would still be a stable id.
        BlobId::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Why this front end cannot be computed, as `(field, what would be right)`; `Ok` when it can.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let bad = |field, message: String| Err((field, message));
        if !(1_000..=384_000).contains(&self.sample_rate_hz) {
            return bad(
                "sample_rate_hz",
                format!("must be from 1000 to 384000, got {}", self.sample_rate_hz),
            );
        }
        if !(self.duration_s > 0.0 && self.duration_s <= 60.0) {
            return bad(
                "duration_s",
                format!("must be above 0 and at most 60 seconds, got {}", self.duration_s),
            );
        }
        if !(16..=65_536).contains(&self.n_fft) || !self.n_fft.is_multiple_of(2) {
            return bad("n_fft", format!("must be even, from 16 to 65536, got {}", self.n_fft));
        }
        if self.hop_length == 0 || self.hop_length > self.n_fft {
            return bad(
                "hop_length",
                format!("must be from 1 to n_fft ({}), got {}", self.n_fft, self.hop_length),
            );
        }
        if self.n_mels == 0 || self.n_mels > 512 {
            return bad("n_mels", format!("must be from 1 to 512, got {}", self.n_mels));
        }
        if self.n_mfcc == 0 || self.n_mfcc > N_MFCC_MAX.min(self.n_mels) {
            let most = N_MFCC_MAX.min(self.n_mels);
            return bad("n_mfcc", format!("must be from 1 to {most}, got {}", self.n_mfcc));
        }
        match self.trim_top_db {
            Some(db) if !(db > 0.0 && db <= 200.0) => {
                bad("trim_top_db", format!("must be above 0 and at most 200 decibels, got {db}"))
            }
            _ => Ok(()),
        }
    }
}

/// TOML has no null: "no trimming" is the word `none`, there and in the canonical JSON.
mod none_as_word {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged, expecting = "trim_top_db must be a number of decibels or \"none\"")]
    enum Word {
        Decibels(f32),
        Text(None),
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum None {
        None,
    }

    #[expect(clippy::trivially_copy_pass_by_ref, clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map_or(Word::Text(None::None), Word::Decibels).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
        Ok(match Word::deserialize(deserializer)? {
            Word::Decibels(decibels) => Some(decibels),
            Word::Text(None::None) => Option::None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_seconds_are_431_frames() {
        let front_end = FrontEnd::default();
        assert_eq!((front_end.samples(), front_end.frames()), (220_500, 431));
        assert!(front_end.validate().is_ok());
    }

    #[test]
    fn every_field_changes_the_hash() {
        let base = FrontEnd::default();
        let others = [
            FrontEnd { sample_rate_hz: 22_050, ..base.clone() },
            FrontEnd { trim_top_db: None, ..base.clone() },
            FrontEnd { peak_normalise: false, ..base.clone() },
            FrontEnd { duration_s: 4.0, ..base.clone() },
            FrontEnd { length: Length::Tile, ..base.clone() },
            FrontEnd { n_fft: 1024, ..base.clone() },
            FrontEnd { hop_length: 256, ..base.clone() },
            FrontEnd { n_mels: 64, ..base.clone() },
            FrontEnd { htk: true, ..base.clone() },
            FrontEnd { n_mfcc: 13, ..base.clone() },
        ];
        for other in others {
            assert_ne!(other.hash(), base.hash(), "{other:?}");
        }
    }
}
