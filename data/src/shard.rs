//! A shard: features of many clips of one view and one front end, in one immutable file.
//!
//! The container is safetensors with the tensors `features` and `labels`, for an augmented view also `draws`, and one metadata
//! string; `SHARDS.md` has the bytes.
//! A shard does not name its clips: row *i* is the *i*-th clip of the shard's entry in the manifest, so that adding a clip to
//! a dataset leaves the other shards as they are, byte for byte.

pub use earshot_common::views::View;
use earshot_common::{frontend::N_MFCC_MAX, ids::BlobId};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::container::{
    Container, ContainerError, Part, bytes_of_f32, bytes_of_u16, encode, f32_of_bytes, u16_of_bytes,
};

/// Version of the bytes; a reader refuses any other.
pub const SHARD_VERSION: u32 = 1;

/// Clips a shard holds at most: about 14 MB at the default front end, one fetch and one checksum.
pub const SHARD_CLIPS_MAX: usize = 128;

/// Tensors of a shard of recordings as they are, and those of a shard of an augmented view.
const NAMES: [&str; 3] = ["features", "labels", "draws"];

/// Features and labels of up to [`SHARD_CLIPS_MAX`] clips.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    /// Coefficients of each frame.
    pub n_mfcc: usize,
    /// Frames of each clip.
    pub frames: usize,
    /// Class index of each clip.
    pub labels: Vec<u16>,
    /// Coefficients, `(clips, n_mfcc, frames)`, row-major, all finite.
    pub features: Vec<f32>,
    /// Hash of the front end that made the features.
    pub front_end: BlobId,
    /// What was done to the recordings.
    pub view: View,
    /// How strongly, in the augmentation's unit, for each clip; empty where nothing was done.
    pub draws: Vec<f32>,
}

/// Why bytes are not a shard, or fields do not make one.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The container is broken.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// No metadata, or not ours.
    #[error("the shard's metadata is missing or cannot be read")]
    Metadata(#[source] Option<serde_json::Error>),
    /// Bytes of another version of this crate.
    #[error("the shard has format version {0}, this build reads {SHARD_VERSION}: prepare the data again")]
    Version(u32),
    /// Tensors whose shapes do not belong together, or are out of range.
    #[error(
        "features of shape {features:?} do not belong to {labels} labels (1 to {SHARD_CLIPS_MAX} clips, 1 to {N_MFCC_MAX} coefficients)"
    )]
    Shape {
        /// Clips, coefficients, frames.
        features: [usize; 3],
        /// Number of labels.
        labels: usize,
    },
    /// Strengths that are missing, too many or not finite.
    #[error("{draws} draws do not belong to {clips} clips of the view {view}")]
    Draws {
        /// Finite draws.
        draws: usize,
        /// Number of clips.
        clips: usize,
        /// The view.
        view: View,
    },
    /// A feature that is not a finite number.
    #[error("a feature of clip {clip} of the shard is not a finite number")]
    NotFinite {
        /// Row in the shard.
        clip: usize,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    format_version: u32,
    front_end: BlobId,
    view: View,
}

/// The version alone, read first: the other fields may have changed with it.
#[derive(Deserialize)]
struct Versioned {
    format_version: u32,
}

impl Shard {
    /// Number of clips.
    pub fn clips(&self) -> usize {
        self.labels.len()
    }

    /// Encodes the shard; equal shards give equal bytes, and so the same blob.
    ///
    /// # Errors
    /// [`ShardError::Shape`] or [`ShardError::NotFinite`] when the fields do not make a shard.
    pub fn write(&self) -> Result<Vec<u8>, ShardError> {
        self.check()?;
        let metadata = Metadata { format_version: SHARD_VERSION, front_end: self.front_end, view: self.view };
        let metadata = serde_json::to_string(&metadata).map_err(|error| ShardError::Metadata(Some(error)))?;
        let features = Part {
            name: "features",
            dtype: Dtype::F32,
            shape: vec![self.clips(), self.n_mfcc, self.frames],
            data: &bytes_of_f32(&self.features),
        };
        let labels = Part {
            name: "labels",
            dtype: Dtype::U16,
            shape: vec![self.clips()],
            data: &bytes_of_u16(&self.labels),
        };
        let draws = Part {
            name: "draws",
            dtype: Dtype::F32,
            shape: vec![self.draws.len()],
            data: &bytes_of_f32(&self.draws),
        };
        let parts = [features, labels, draws];
        let kept = names(self.view).len();
        Ok(encode(parts.get(..kept).unwrap_or(&parts), Some(metadata))?)
    }

    /// Decodes and validates a shard; bytes are untrusted.
    ///
    /// # Errors
    /// Whatever is wrong with them.
    pub fn read(bytes: &[u8]) -> Result<Self, ShardError> {
        let container = Container::open(bytes)?;
        let metadata = container.metadata.as_deref().ok_or(ShardError::Metadata(None))?;
        let unreadable = |error| ShardError::Metadata(Some(error));
        let version: Versioned = serde_json::from_str(metadata).map_err(unreadable)?;
        if version.format_version != SHARD_VERSION {
            return Err(ShardError::Version(version.format_version));
        }
        let metadata: Metadata = serde_json::from_str(metadata).map_err(unreadable)?;
        container.expect(names(metadata.view))?;
        let ([clips, n_mfcc, frames], features) = container.tensor::<3>("features", Dtype::F32)?;
        let ([rows], labels) = container.tensor::<1>("labels", Dtype::U16)?;
        if clips != rows {
            return Err(ShardError::Shape { features: [clips, n_mfcc, frames], labels: rows });
        }
        let draws = match metadata.view {
            View::Clean => Vec::new(),
            View::Augmented { .. } => f32_of_bytes(container.tensor::<1>("draws", Dtype::F32)?.1),
        };
        let shard = Self {
            n_mfcc,
            frames,
            labels: u16_of_bytes(labels),
            features: f32_of_bytes(features),
            front_end: metadata.front_end,
            view: metadata.view,
            draws,
        };
        shard.check()?;
        Ok(shard)
    }

    /// What holds of every shard, checked on write and on read.
    fn check(&self) -> Result<(), ShardError> {
        let features = [self.clips(), self.n_mfcc, self.frames];
        let size = features.iter().try_fold(1_usize, |size, extent| size.checked_mul(*extent));
        let in_range = (1..=SHARD_CLIPS_MAX).contains(&self.clips())
            && (1..=usize::from(N_MFCC_MAX)).contains(&self.n_mfcc)
            && self.frames > 0;
        if !in_range || size != Some(self.features.len()) {
            return Err(ShardError::Shape { features, labels: self.labels.len() });
        }
        let draws = self.draws.iter().filter(|draw| draw.is_finite()).count();
        let wanted = if self.view == View::Clean { 0 } else { self.clips() };
        if (self.draws.len(), draws) != (wanted, wanted) {
            return Err(ShardError::Draws { draws, clips: self.clips(), view: self.view });
        }
        let clips = self.features.chunks_exact(self.n_mfcc * self.frames);
        match clips.enumerate().find(|(_, clip)| !clip.iter().all(|value| value.is_finite())) {
            Some((clip, _)) => Err(ShardError::NotFinite { clip }),
            None => Ok(()),
        }
    }
}

/// Names of the tensors that a shard of this view has.
fn names(view: View) -> &'static [&'static str] {
    match view {
        View::Clean => NAMES.split_last().map_or(&[], |(_, clean)| clean),
        View::Augmented { .. } => &NAMES,
    }
}

#[cfg(test)]
mod tests {
    use earshot_common::views::Augmentation;
    use proptest::prelude::*;

    use super::*;

    fn shard(clips: usize, n_mfcc: usize, frames: usize) -> Shard {
        Shard {
            n_mfcc,
            frames,
            labels: (0..clips).map(|clip| clip as u16 * 300).collect(),
            features: (0..clips * n_mfcc * frames).map(|i| (i as f32).sin() * 100.0).collect(),
            front_end: BlobId::of(b"front end"),
            view: View::Clean,
            draws: vec![],
        }
    }

    fn augmented(clips: usize, n_mfcc: usize, frames: usize) -> Shard {
        Shard {
            view: View::Augmented { augmentation: Augmentation::PitchShift, level: 2 },
            draws: (0..clips).map(|clip| clip as f32 / 8.0 - 1.0).collect(),
            ..shard(clips, n_mfcc, frames)
        }
    }

    fn check(broken: &Shard, expected: &str) {
        assert_eq!(broken.write().unwrap_err().to_string(), expected);
    }

    #[test]
    fn wrong_shards_are_not_written() {
        let good = shard(2, 3, 4);
        let limits = "(1 to 128 clips, 1 to 64 coefficients)";
        let message = |shape: &str, labels| {
            format!("features of shape {shape} do not belong to {labels} labels {limits}")
        };
        check(&Shard { labels: vec![1], ..good.clone() }, &message("[1, 3, 4]", 1));
        check(&Shard { labels: vec![], features: vec![], ..good.clone() }, &message("[0, 3, 4]", 0));
        check(&Shard { frames: 0, features: vec![], ..good.clone() }, &message("[2, 3, 0]", 2));
        check(&shard(129, 1, 1), &message("[129, 1, 1]", 129));
        check(&shard(1, 65, 1), &message("[1, 65, 1]", 1));
        let mut features = good.features.clone();
        features[13] = f32::NAN;
        check(&Shard { features, ..good.clone() }, "a feature of clip 1 of the shard is not a finite number");
        check(&Shard { draws: vec![1.0], ..good }, "1 draws do not belong to 2 clips of the view clean");
        let good = augmented(2, 3, 4);
        let message = |draws| format!("{draws} draws do not belong to 2 clips of the view pitch_shift/2");
        check(&Shard { draws: vec![], ..good.clone() }, &message(0));
        check(&Shard { draws: vec![1.0, f32::NAN], ..good }, &message(1));
    }

    /// The example of `SHARDS.md`.
    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = shard(2, 2, 1).write().unwrap();
        let front_end = BlobId::of(b"front end");
        let header = format!(
            concat!(
                r#"{{"__metadata__":{{"earshot":"{{\"format_version\":1,\"front_end\":\"{}\",\"view\":\"clean\"}}"}},"#,
                r#""features":{{"dtype":"F32","shape":[2,2,1],"data_offsets":[0,16]}},"#,
                r#""labels":{{"dtype":"U16","shape":[2],"data_offsets":[16,20]}}}}"#,
            ),
            front_end
        );
        let padded = header.len().next_multiple_of(8);
        assert_eq!(bytes[..8], (padded as u64).to_le_bytes());
        assert_eq!(String::from_utf8_lossy(&bytes[8..8 + padded]).trim_end(), header);
        assert_eq!(bytes.len(), 8 + padded + 20);
        assert_eq!((padded, &bytes[8 + padded + 16..]), (280, &[0, 0, 44, 1][..]));
    }

    #[test]
    fn another_version_says_what_to_do() {
        let bytes = shard(1, 1, 1).write().unwrap();
        let text =
            String::from_utf8_lossy(&bytes).replace(r#"\"format_version\":1"#, r#"\"format_version\":9"#);
        let error = Shard::read(text.as_bytes()).unwrap_err();
        assert!(matches!(error, ShardError::Version(9)), "{error}");
    }

    proptest! {
        #[test]
        fn shards_round_trip(clips in 1..5_usize, n_mfcc in 1..=64_usize, frames in 1..40_usize) {
            let shard = shard(clips, n_mfcc, frames);
            let bytes = shard.write().unwrap();
            prop_assert_eq!(&bytes, &shard.write().unwrap());
            prop_assert_eq!(Shard::read(&bytes).unwrap(), shard);
            let shard = augmented(clips, n_mfcc, frames);
            prop_assert_eq!(Shard::read(&shard.write().unwrap()).unwrap(), shard);
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Shard::read(&bytes).is_err());
        }

        #[test]
        fn damaged_shards_never_panic(at in 0..500_usize, byte in any::<u8>(), cut in 0..500_usize) {
            let mut bytes = shard(2, 3, 4).write().unwrap();
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = Shard::read(&bytes);
            bytes.truncate(cut % length);
            prop_assert!(Shard::read(&bytes).is_err());
        }
    }
}
