//! The bank of views, rendered: beside every shard, one for each level, with the same rows.
//!
//! A clip is decoded and taken apart once for many of its views, so a group's levels are rendered together, as many as fit
//! into memory at a time; the clean preparation is over by then.

use std::collections::BTreeMap;

use earshot_common::{
    ids::BlobId,
    views::{Bank, Level},
};
use rayon::prelude::*;

use super::{PrepareError, Record, Work, plan::Group};
use crate::{
    dataset::Clip,
    manifest::{ViewEntry, ViewShard},
    shard::{Shard, View},
    views::{Draw, draw, render::Renderer},
};

/// Features in memory at a time, for each thread: enough for all views of a dozen clips at the default front end.
const BYTES_PER_THREAD: usize = 24 * 1024 * 1024;

/// Version of what rendering makes of the same waveform and draw; raised with every change of it.
const VIEWS_VERSION: u32 = 1;

/// A level, and what its shard of one group is remembered by.
type Wanted = (Level, BlobId);

impl Work<'_> {
    /// Renders what the bank asks for and is not there yet. `records` are those of `groups`.
    pub(super) fn views(
        &self,
        groups: &[Group<'_>],
        records: &[Record],
    ) -> Result<Vec<ViewEntry>, PrepareError> {
        let levels = &self.options.bank.levels;
        if levels.is_empty() {
            return Ok(Vec::new());
        }
        let shards: Vec<_> = groups
            .iter()
            .zip(records)
            .filter(|(_, record)| record.blob.is_some())
            .map(|(group, record)| (group.key, group.kept(record)))
            .collect();
        let clips: usize = shards.iter().map(|(_, clips)| clips.len()).sum();
        self.progress.start_views((clips * levels.len()) as u64);
        let mut rendered: Vec<_> = shards
            .into_iter()
            .map(|(group, clips)| self.group_views(group, &clips))
            .collect::<Result<_, _>>()?;
        let entry = |level: &Level| ViewEntry {
            level: *level,
            shards: rendered.iter_mut().filter_map(|shards| shards.remove(&level.view())).collect(),
        };
        Ok(levels.iter().map(entry).collect())
    }

    /// The shards of one group on every level.
    fn group_views(
        &self,
        group: BlobId,
        clips: &[(&Clip, BlobId)],
    ) -> Result<BTreeMap<View, ViewShard>, PrepareError> {
        let (mut shards, mut missing) = (BTreeMap::new(), Vec::new());
        for level in &self.options.bank.levels {
            let key = key(&self.options.bank, group, level);
            match self.folder.view(key) {
                Some(shard) => drop(shards.insert(level.view(), shard)),
                None => missing.push((*level, key)),
            }
        }
        self.progress.views_done((shards.len() * clips.len()) as u64);
        for levels in missing.chunks(self.levels_at_once(clips.len(), missing.len())) {
            shards.extend(self.render(clips, levels)?);
        }
        Ok(shards)
    }

    /// Levels of a group that are rendered together: as many as fit into memory, evenly divided.
    fn levels_at_once(&self, clips: usize, levels: usize) -> usize {
        let front_end = &self.options.front_end;
        let level_bytes = clips * usize::from(front_end.n_mfcc) * front_end.frames() * size_of::<f32>();
        let fit = (BYTES_PER_THREAD * rayon::current_num_threads() / level_bytes.max(1)).max(1);
        levels.div_ceil(levels.div_ceil(fit).max(1)).max(1)
    }

    /// Renders some levels of a group, all clips in parallel, and stores their shards.
    fn render(
        &self,
        clips: &[(&Clip, BlobId)],
        levels: &[Wanted],
    ) -> Result<Vec<(View, ViewShard)>, PrepareError> {
        let renderer = Renderer::new(self.chains.first.clone(), &self.options.front_end);
        let by_clip: Vec<Vec<Row>> = clips
            .par_iter()
            .map_init(
                || renderer.clone(),
                |renderer, (clip, content)| self.rows(renderer, clip, *content, levels),
            )
            .collect::<Result<_, _>>()?;
        let mut by_clip: Vec<_> = by_clip.into_iter().map(Vec::into_iter).collect();
        let by_level: Vec<Vec<Row>> =
            levels.iter().map(|_| by_clip.iter_mut().filter_map(Iterator::next).collect()).collect();
        let shards = levels.par_iter().zip(by_level).map(|((level, key), rows)| {
            let labels = clips.iter().map(|(clip, _)| clip.class).collect();
            Ok((level.view(), self.view_shard(level, *key, labels, rows)?))
        });
        shards.collect()
    }

    /// One clip on some levels.
    fn rows(
        &self,
        renderer: &mut Renderer,
        clip: &Clip,
        content: BlobId,
        levels: &[Wanted],
    ) -> Result<Vec<Row>, PrepareError> {
        let bytes = self.recording(clip, content)?;
        let waveform =
            renderer.chain().waveform(&bytes).map_err(|_| PrepareError::Changed(clip.path.clone()))?;
        let draws: Vec<(Level, Draw)> =
            levels.iter().map(|(level, _)| (*level, draw(&self.options.bank, &clip.name, level))).collect();
        let features = renderer
            .features(&waveform, &draws)
            .map_err(|source| PrepareError::View { clip: clip.name.clone(), source })?;
        self.progress.views_done(draws.len() as u64);
        let rows = features.into_iter().zip(draws);
        Ok(rows.map(|(features, (_, draw))| Row { features, strength: draw.strength }).collect())
    }

    fn view_shard(
        &self,
        level: &Level,
        key: BlobId,
        labels: Vec<u16>,
        rows: Vec<Row>,
    ) -> Result<ViewShard, PrepareError> {
        let front_end = &self.options.front_end;
        let draws: Vec<f32> = rows.iter().map(|row| row.strength).collect();
        let shard = Shard {
            n_mfcc: usize::from(front_end.n_mfcc),
            frames: front_end.frames(),
            labels,
            features: rows.into_iter().flat_map(|row| row.features).collect(),
            front_end: front_end.hash(),
            view: level.view(),
            draws: draws.clone(),
        };
        let record = ViewShard { blob: self.folder.blobs.put(&shard.write()?)?, draws };
        self.folder.remember_view(key, &record)?;
        Ok(record)
    }
}

/// One clip's row in the shard of a level.
struct Row {
    /// `(n_mfcc, frames)`.
    features: Vec<f32>,
    strength: f32,
}

/// Hash over all that a view's shard is made from, apart from the front end.
fn key(bank: &Bank, group: BlobId, level: &Level) -> BlobId {
    let mut hasher = blake3::Hasher::new_derive_key("earshot view shard");
    hasher.update(&VIEWS_VERSION.to_le_bytes());
    hasher.update(group.as_bytes());
    hasher.update(&bank.seed.to_le_bytes());
    // A level always serialises.
    hasher.update(&serde_json::to_vec(level).unwrap_or_default());
    BlobId::from(hasher.finalize())
}

#[cfg(test)]
mod tests;
