//! Clips with the same audio.

use std::collections::{BTreeMap, BTreeSet};

use earshot_common::ids::BlobId;
use serde::{Deserialize, Serialize};

use super::survey::ClipReport;

/// Clips whose decoded samples are the same, whatever their container and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicates {
    /// The clips, in the dataset's order.
    pub clips: Vec<String>,
    /// Their classes, sorted; more than one is a contradiction of the labels.
    pub classes: Vec<String>,
    /// Whether the files are the same, byte for byte.
    pub same_bytes: bool,
}

pub(super) fn duplicates(clips: &[ClipReport]) -> Vec<Duplicates> {
    let mut by_audio: BTreeMap<BlobId, Vec<&ClipReport>> = BTreeMap::new();
    for clip in clips {
        by_audio.entry(clip.audio).or_default().push(clip);
    }
    let groups = by_audio.into_values().filter(|group| group.len() > 1);
    let mut found: Vec<Duplicates> = groups.map(|group| describe(&group)).collect();
    found.sort_by(|a, b| a.clips.cmp(&b.clips));
    found
}

fn describe(group: &[&ClipReport]) -> Duplicates {
    let classes: BTreeSet<&str> = group.iter().map(|clip| clip.class.as_str()).collect();
    let contents: BTreeSet<BlobId> = group.iter().map(|clip| clip.content).collect();
    Duplicates {
        clips: group.iter().map(|clip| clip.clip.clone()).collect(),
        classes: classes.into_iter().map(str::to_owned).collect(),
        same_bytes: contents.len() == 1,
    }
}
