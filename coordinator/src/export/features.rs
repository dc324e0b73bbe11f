//! Features of all rows, as far as the champion's model reads them.

use earshot_data::shard::Shard;

use super::error::ExportError;

/// Features and labels of every row of a dataset: shards laid end to end.
///
/// Only the first `n_mfcc` coefficients are kept, which is what the model reads: the shards hold up to five times as many.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    n_mfcc: usize,
    frames: usize,
    labels: Vec<u16>,
    /// Row-major `(rows, n_mfcc, frames)`.
    values: Vec<f32>,
}

impl Features {
    /// No rows yet, of a model that reads `n_mfcc` coefficients of `frames` frames.
    pub fn new(n_mfcc: u32, frames: u32) -> Self {
        Self { n_mfcc: n_mfcc as usize, frames: frames as usize, labels: Vec::new(), values: Vec::new() }
    }

    /// Adds the rows of the next shard, in the manifest's order of shards.
    ///
    /// # Errors
    /// [`ExportError::Features`] when the shard has fewer coefficients or another number of frames.
    pub fn push(&mut self, shard: &Shard) -> Result<(), ExportError> {
        if shard.n_mfcc < self.n_mfcc || shard.frames != self.frames {
            return Err(ExportError::Features {
                what: format!(
                    "the model reads {} × {}, a shard holds {} × {}",
                    self.n_mfcc, self.frames, shard.n_mfcc, shard.frames
                ),
            });
        }
        let kept = self.n_mfcc * self.frames;
        let clips = shard.features.chunks_exact(shard.n_mfcc * shard.frames);
        self.values.extend(clips.flat_map(|clip| clip.iter().take(kept)));
        self.labels.extend_from_slice(&shard.labels);
        Ok(())
    }

    /// Rows there are.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Coefficients and frames of a row.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.n_mfcc, self.frames]
    }

    /// Gives the rows other classes.
    #[cfg(test)]
    pub(super) fn relabel(&mut self, labels: &[u16]) {
        labels.clone_into(&mut self.labels);
    }

    /// Class of every row.
    pub(super) fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// One row's features; empty for a row that is not there.
    pub(super) fn row(&self, row: u32) -> &[f32] {
        let size = self.n_mfcc * self.frames;
        let start = row as usize * size;
        self.values.get(start..start + size).unwrap_or(&[])
    }

    /// Classes of these rows, in their order.
    pub(super) fn labels_of(&self, rows: &[u32]) -> Vec<u16> {
        rows.iter().filter_map(|&row| self.labels.get(row as usize).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use earshot_common::ids::BlobId;
    use earshot_data::shard::View;

    use super::*;

    fn shard(n_mfcc: usize, label: u16) -> Shard {
        Shard {
            n_mfcc,
            frames: 2,
            labels: vec![label],
            features: (0..n_mfcc as u16 * 2).map(|v| f32::from(v + 10 * label)).collect(),
            front_end: BlobId::of(b"front end"),
            view: View::Clean,
            draws: vec![],
        }
    }

    #[test]
    fn the_first_coefficients_of_every_row_are_kept() {
        let mut features = Features::new(2, 2);
        features.push(&shard(4, 0)).unwrap();
        features.push(&shard(4, 1)).unwrap();
        assert_eq!((features.rows(), features.labels_of(&[1, 0])), (2, vec![1, 0]));
        assert_eq!(features.row(1), [10.0, 11.0, 12.0, 13.0]);
        assert!(features.row(2).is_empty());
    }

    #[test]
    fn a_shard_that_is_too_small_is_refused() {
        let message = Features::new(5, 2).push(&shard(4, 0)).unwrap_err().to_string();
        assert!(message.contains("the model reads 5 × 2, a shard holds 4 × 2"), "{message}");
    }
}
