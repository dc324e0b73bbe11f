//! Every clip of a dataset measured, on all threads of the rayon pool it is called in.
//!
//! Of a clip that was measured only its numbers stay, so memory holds the audio of one clip a thread.

use earshot_common::{frontend::FrontEnd, ids::BlobId};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::measure::{Levels, Measures, TOP_DB_DEFAULT};
use crate::{
    chain::ChainError,
    condition,
    dataset::{Clip, Dataset},
    decode::{self, Audio},
    manifest::{ClipEntry, Problem},
    prepare::{self, ClipOutcome, Progress},
    resample::{Resampler, to_mono},
};

/// A clip that can be used, and what it measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipReport {
    /// Its name.
    pub clip: String,
    /// The file, relative to the dataset's folder.
    pub file: String,
    /// Its class.
    pub class: String,
    /// Its fold, if the dataset has folds.
    pub fold: Option<u32>,
    /// The recording it was cut from.
    pub source: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub content: BlobId,
    /// BLAKE3 of rate, channels and decoded samples: the same for the same audio in another lossless container or under
    /// another name.
    pub audio: BlobId,
    /// What was measured.
    #[serde(flatten)]
    pub measures: Measures,
    /// Class index.
    #[serde(skip)]
    pub(super) class_index: u16,
}

impl ClipReport {
    /// Seconds of silence before and after.
    pub fn silence_s(&self) -> f64 {
        self.measures.leading_silence_s + self.measures.trailing_silence_s
    }

    /// As splits know it.
    pub fn entry(&self) -> ClipEntry {
        ClipEntry {
            name: self.clip.clone(),
            class: self.class_index,
            fold: self.fold,
            source: self.source.clone(),
            content: self.content,
        }
    }
}

/// What a dataset's clips measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// How the dataset says what its clips are, in words.
    pub layout: String,
    /// Names of the classes, by class index.
    pub classes: Vec<String>,
    /// Clips that can be used, in the dataset's order.
    pub clips: Vec<ClipReport>,
    /// Those that cannot, and why; sorted by clip.
    pub problems: Vec<Problem>,
    /// What is odd about the dataset's list.
    pub warnings: Vec<String>,
}

/// Measures every clip as this front end would see it. A clip that cannot be used is a problem, by the same rules as in
/// [`crate::prepare`].
pub fn survey(dataset: Dataset, front_end: &FrontEnd, progress: &dyn Progress) -> Survey {
    progress.start(dataset.clips.len() as u64);
    let classes = &dataset.classes;
    let measure = |resampler: &mut Resampler, clip: &Clip| {
        let measured = measured(resampler, clip, classes, front_end);
        let outcome = if measured.is_ok() { ClipOutcome::Made } else { ClipOutcome::LeftOut };
        progress.clip_done(&clip.name, outcome);
        measured
    };
    let resampler = || Resampler::new(front_end.sample_rate_hz);
    let measured: Vec<_> = dataset.clips.par_iter().map_init(resampler, measure).collect();
    let (mut clips, mut problems) = (Vec::new(), dataset.problems);
    for clip in measured {
        match clip {
            Ok(clip) => clips.push(clip),
            Err(problem) => problems.push(problem),
        }
    }
    problems.sort_by(|a, b| (&a.clip, a.kind).cmp(&(&b.clip, b.kind)));
    let layout = dataset.layout.describe();
    Survey { layout, classes: dataset.classes, clips, problems, warnings: dataset.warnings }
}

fn measured(
    resampler: &mut Resampler,
    clip: &Clip,
    classes: &[String],
    front_end: &FrontEnd,
) -> Result<ClipReport, Problem> {
    let problem = |error: ChainError| prepare::problem(clip, &error);
    let bytes = decode::read_file(&clip.path).map_err(|error| problem(error.into()))?;
    let audio = decode::decode(&bytes).map_err(|error| problem(error.into()))?;
    if condition::peak(&audio.samples) < f32::MIN_POSITIVE {
        return Err(problem(ChainError::Silent));
    }
    let (levels, audio_hash) = (Levels::new(&audio), hash(&audio));
    let rate = audio.sample_rate_hz;
    let waveform = resampler.resample(to_mono(audio.samples, audio.channels), rate);
    let waveform = waveform.map_err(|error| problem(error.into()))?;
    let top_db = front_end.trim_top_db.unwrap_or(TOP_DB_DEFAULT);
    Ok(ClipReport {
        clip: clip.name.clone(),
        file: clip.file.clone(),
        class: classes.get(usize::from(clip.class)).cloned().unwrap_or_default(),
        fold: clip.fold,
        source: clip.source.clone(),
        bytes: bytes.len() as u64,
        content: BlobId::of(&bytes),
        audio: audio_hash,
        measures: Measures::new(levels, &waveform, front_end.sample_rate_hz, top_db),
        class_index: clip.class,
    })
}

fn hash(audio: &Audio) -> BlobId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&audio.sample_rate_hz.to_le_bytes());
    hasher.update(&(audio.channels as u32).to_le_bytes());
    for sample in &audio.samples {
        // −0 and 0 are one sample.
        hasher.update(&(sample + 0.0).to_le_bytes());
    }
    BlobId::from(hasher.finalize())
}
