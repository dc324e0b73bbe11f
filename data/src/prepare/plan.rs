//! Which clips go into one shard.
//!
//! A shard ends after a clip whose name hashes to a multiple of 64, or when it is full. Where it ends thus depends on names
//! nearby and not on how many clips come before: a clip added to or taken from the list moves the end of its own shard, or of
//! a few after it, and leaves the rest alone (content-defined chunking, as in LBFS, Muthitacharoen et al. 2001, section 3.1).

use earshot_common::ids::BlobId;

use crate::{
    dataset::Clip,
    manifest::{Problem, ProblemKind},
    shard::SHARD_CLIPS_MAX,
};

use super::{folder::Record, with_causes};
use crate::decode::DecodeError;

/// Part of the names that end a shard: one in so many.
const ENDS_ONE_IN: u8 = 64;

/// The clips of one shard, with the hashes of their files.
pub(super) struct Group<'a> {
    /// Clips in the list's order.
    pub(super) clips: Vec<(&'a Clip, BlobId)>,
    /// Hash over all that the shard and its exports are made from, apart from the front end.
    pub(super) key: BlobId,
}

impl<'a> Group<'a> {
    fn new(clips: Vec<(&'a Clip, BlobId)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (clip, content) in &clips {
            hasher.update(&(clip.name.len() as u64).to_le_bytes());
            hasher.update(clip.name.as_bytes());
            hasher.update(&clip.class.to_le_bytes());
            hasher.update(content.as_bytes());
        }
        Self { clips, key: BlobId::from(hasher.finalize()) }
    }

    /// The clips that are rows of the shard.
    pub(super) fn kept(&self, record: &Record) -> Vec<(&'a Clip, BlobId)> {
        let is_row = |position: &usize| record.left_out.iter().all(|left_out| left_out.position != *position);
        self.clips
            .iter()
            .enumerate()
            .filter(|(position, _)| is_row(position))
            .map(|(_, clip)| *clip)
            .collect()
    }
}

/// Groups the clips whose files could be read; the others are problems.
pub(super) fn groups(
    clips: &[Clip],
    hashes: Vec<Result<BlobId, DecodeError>>,
) -> (Vec<Group<'_>>, Vec<Problem>) {
    let (mut groups, mut problems, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for (clip, hash) in clips.iter().zip(hashes) {
        match hash {
            Ok(content) => open.push((clip, content)),
            Err(error) => problems.push(problem(clip, &error)),
        }
        if (ends(&clip.name) && !open.is_empty()) || open.len() == SHARD_CLIPS_MAX {
            groups.push(Group::new(std::mem::take(&mut open)));
        }
    }
    if !open.is_empty() {
        groups.push(Group::new(open));
    }
    (groups, problems)
}

fn ends(name: &str) -> bool {
    blake3::hash(name.as_bytes()).as_bytes().first().is_some_and(|byte| byte % ENDS_ONE_IN == 0)
}

fn problem(clip: &Clip, error: &DecodeError) -> Problem {
    let kind = match error {
        DecodeError::TooLarge { .. } => ProblemKind::TooLarge,
        _ => ProblemKind::Unreadable,
    };
    Problem { clip: clip.name.clone(), kind, message: format!("{}: {}", clip.file, with_causes(error)) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn clips(count: usize) -> Vec<Clip> {
        let clip = |i| Clip {
            name: format!("{i}"),
            file: format!("{i}.wav"),
            path: format!("{i}.wav").into(),
            class: 0,
            fold: None,
            source: String::new(),
        };
        (0..count).map(clip).collect()
    }

    fn keys(clips: &[Clip]) -> BTreeSet<BlobId> {
        let hashes = clips.iter().map(|clip| Ok(BlobId::of(clip.name.as_bytes()))).collect();
        groups(clips, hashes).0.into_iter().map(|group| group.key).collect()
    }

    #[test]
    fn shards_are_filled_and_in_order() {
        let clips = clips(5_000);
        let hashes = clips.iter().map(|clip| Ok(BlobId::of(clip.name.as_bytes()))).collect();
        let (groups, _) = groups(&clips, hashes);
        let names: Vec<_> =
            groups.iter().flat_map(|group| &group.clips).map(|(clip, _)| &clip.name).collect();
        assert!(names.into_iter().eq(clips.iter().map(|clip| &clip.name)));
        assert!(groups.iter().all(|group| group.clips.len() <= SHARD_CLIPS_MAX));
        assert!((50..150).contains(&groups.len()), "{} shards", groups.len());
    }

    proptest! {
        #[test]
        fn a_clip_less_leaves_most_shards_alone(removed in 0..5_000_usize) {
            let all = clips(5_000);
            let mut fewer = all.clone();
            fewer.remove(removed);
            let changed = keys(&fewer).difference(&keys(&all)).count();
            prop_assert!(changed <= 10, "{changed} shards changed");
        }
    }
}
